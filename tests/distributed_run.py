"""Starts processes that run checks together, and says how each check ended."""

from __future__ import annotations

import datetime
import importlib
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

COLLECTIVE_TIMEOUT = 60  # seconds until a rank gives up on the others


@dataclass(frozen=True)
class World:
    """What a check knows of the processes it runs in."""

    device: str
    ranks: int
    rank: int
    seed: int


Check = Callable[[World], None]


def run(checks: list[Check], backend: str, ranks: int, seed: int, limit: float) -> dict[str, str]:
    """Every check's name and, if it failed, the traceback of the ranks it failed on, else ``""``.

    A check that fails may leave ranks waiting for each other, so those after it do not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [(check.__module__, check.__name__) for check in checks]
        arguments = (names, backend, ranks, seed, folder)
        context = mp.start_processes(
            _work, arguments, nprocs=ranks, join=False, start_method="spawn"
        )
        assert context is not None
        end = time.monotonic() + limit
        died = ""
        try:
            while not context.join(timeout=max(0.0, min(1.0, end - time.monotonic()))):
                if time.monotonic() > end:
                    died = f"not finished within {limit:.0f} s"
                    break
        except Exception as error:
            died = str(error)
        for process in context.processes:
            process.kill()
            process.join()
        return {check.__name__: _outcome(folder, check, ranks, died) for check in checks}


def _outcome(folder: str, check: Check, ranks: int, died: str) -> str:
    found = []
    for rank in range(ranks):
        file = Path(folder) / f"{check.__name__}.{rank}"
        text = (
            file.read_text() if file.exists() else f"no result; {died or 'an earlier one failed'}"
        )
        if text:
            found.append(f"rank {rank}: {text}")
    return "\n".join(found)


def _work(
    rank: int, names: list[tuple[str, str]], backend: str, ranks: int, seed: int, folder: str
) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    device = "cpu"
    if backend == "nccl":
        torch.cuda.set_device(rank)
        device = "cuda"
    store = dist.FileStore(f"{folder}/store", ranks)
    timeout = datetime.timedelta(seconds=COLLECTIVE_TIMEOUT)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout)
    for module, name in names:
        text = ""
        torch.manual_seed(seed)
        try:
            getattr(importlib.import_module(module), name)(World(device, ranks, rank, seed))
        except BaseException:  # pytest's failures are no Exceptions
            text = traceback.format_exc()
        (Path(folder) / f"{name}.{rank}").write_text(text)
        # Through the store: after a failure the ranks may be at different collectives.
        store.set(f"{name}.{rank}", text or "passed")
        keys = [f"{name}.{other}" for other in range(ranks)]
        store.wait(keys, 2 * timeout)
        if any(store.get(key) != b"passed" for key in keys):
            os._exit(1)  # an orderly end would wait for ranks that failed
    dist.destroy_process_group()
