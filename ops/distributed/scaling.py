"""Measures spatial parallelism: ``python -m convt3d.distributed.scaling --ranks 4``.

Also under ``torchrun --nproc-per-node=4 -m convt3d.distributed.scaling``. One layer is timed three
times: a volume on one rank alone, the same volume cut into slabs (strong scaling), and a volume of
that depth for each rank (weak scaling). Gives one JSON object:

- ``seconds``: median of the slowest rank's time per call, forward and forward + backward
- ``efficiency``: time on one rank / (ranks * time) for strong, time on one rank / time for weak
- ``peak_memory_bytes``: of every rank, null on CPU
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import convt3d
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from convt3d.distributed.spatial import spatial_conv_transpose3d
from convt3d.distributed.windows import chunks
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_DEFAULT_EDGE = {"cuda": 128, "cpu": 16}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, start processes unless torchrun did, measure; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m convt3d.distributed.scaling", description=__doc__.split("\n", 1)[0]
    )
    add = parser.add_argument
    add("--ranks", type=int, help="processes to start (default: one per GPU, else 2)")
    add("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    add(
        "--volume", type=int, nargs=3, metavar=("D", "H", "W"), help="default: 128, on CPU 16, each"
    )
    add("--batch", type=int, default=1)
    add("--in-channels", type=int, default=64)
    add("--out-channels", type=int, default=32)
    add("--kernel", type=int, default=4)
    add("--stride", type=int, default=2)
    add("--padding", type=int, default=1)
    add("--dtype", choices=list(_DTYPES), default="bfloat16")
    add("--format", choices=["contiguous", "channels_last_3d"], default="contiguous")
    add("--calls", type=int, default=10, help="calls per timing")
    add("--repeats", type=int, default=5, help="timings, of which the median counts")
    add("--output", type=Path, help="file for the JSON (default: standard output)")
    options = parser.parse_args(argv)
    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.volume = options.volume or [_DEFAULT_EDGE[options.device]] * 3
    if "WORLD_SIZE" in os.environ and "RANK" in os.environ:
        if options.ranks not in (None, int(os.environ["WORLD_SIZE"])):
            parser.error(f"--ranks {options.ranks} under torchrun with another number")
        options.ranks = int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
        _work(int(os.environ["RANK"]), options, "env://", local)
        return 0
    if options.ranks is None:
        options.ranks = torch.cuda.device_count() if options.device == "cuda" else 2
    if options.device == "cuda" and options.ranks > torch.cuda.device_count():
        parser.error(f"{options.ranks} ranks need as many GPUs, not {torch.cuda.device_count()}")
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work_and_leave, (options, f"file://{folder}/store"), nprocs=options.ranks)
    return 0


def _work_and_leave(rank: int, options: argparse.Namespace, init_method: str) -> None:
    _work(rank, options, init_method)
    sys.stdout.flush()
    # At an orderly end a thread of gloo that is still there can abort the process.
    os._exit(0)


def _work(
    rank: int, options: argparse.Namespace, init_method: str, local_rank: int | None = None
) -> None:
    device, identity = options.device, None
    if device == "cuda":
        identity = torch.device("cuda", rank if local_rank is None else local_rank)
        torch.cuda.set_device(identity)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=init_method,
        rank=rank,
        world_size=options.ranks,
        timeout=datetime.timedelta(minutes=5),
        device_id=identity,
    )
    try:
        result = _measure(options, init_device_mesh(device, (options.ranks,)))
        if rank == 0:
            text = json.dumps(result, indent=2)
            if options.output is None:
                print(text)
            else:
                options.output.write_text(text + "\n")
        dist.barrier()  # none leaves while another still talks to it
    finally:
        dist.destroy_process_group()


def _measure(options: argparse.Namespace, mesh: DeviceMesh) -> dict[str, Any]:
    ranks, rank = mesh.size(), mesh.get_local_rank()
    depth = options.volume[0]
    arguments = {"stride": options.stride, "padding": options.padding}
    # The others wait here until the first has measured one rank alone.
    single = (
        _timings(options, depth, None, convt3d.conv_transpose3d, arguments) if rank == 0 else {}
    )
    gathered: list[Any] = [single]
    dist.broadcast_object_list(gathered, src=0)
    single = gathered[0]
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "convt3d": convt3d.__version__,
        "ranks": ranks,
        "layer": {
            name: getattr(options, name)
            for name in (
                "batch", "in_channels", "out_channels", "kernel", "stride", "padding", "dtype",
                "format",
            )
        },
        "one rank": {"volume": options.volume, **single},
    }  # fmt: skip
    for kind, whole in (("strong", depth), ("weak", depth * ranks)):
        first, last = chunks(whole, ranks)[rank]
        sharded = {**arguments, "mesh": mesh, "size": whole}
        own = _timings(options, last - first, mesh, spatial_conv_transpose3d, sharded)
        all_of_them: list[Any] = [None] * ranks
        dist.all_gather_object(all_of_them, own)
        seconds = {
            name: max(one["seconds"][name] for one in all_of_them) for name in own["seconds"]
        }
        share = ranks if kind == "strong" else 1
        report[kind] = {
            "volume": [whole, *options.volume[1:]],
            "seconds": seconds,
            "efficiency": {
                name: round(single["seconds"][name] / (share * seconds[name]), 4)
                for name in seconds
            },
            "peak_memory_bytes": [one["peak_memory_bytes"] for one in all_of_them],
        }
    return report


def _timings(
    options: argparse.Namespace,
    depth: int,
    mesh: DeviceMesh | None,
    function: Callable[..., Tensor],
    arguments: dict[str, Any],
) -> dict[str, Any]:
    """Seconds per call and peak memory on this rank, with `depth` planes of input on it."""
    torch.manual_seed(0)
    device, dtype = options.device, _DTYPES[options.dtype]
    form = getattr(torch, "contiguous_format" if options.format == "contiguous" else options.format)
    size = (options.batch, options.in_channels, depth, *options.volume[1:])
    kernel = (options.in_channels, options.out_channels, *[options.kernel] * 3)
    input, weight = (
        torch.randn(shape, device=device, dtype=dtype)
        .contiguous(memory_format=form)
        .requires_grad_()
        for shape in (size, kernel)
    )
    bias = torch.randn(options.out_channels, device=device, dtype=dtype, requires_grad=True)

    def forward() -> Tensor:
        with torch.no_grad():
            return function(input, weight, bias, **arguments)

    output = forward()
    grad_output = torch.randn_like(output)
    del output

    def training() -> None:
        result = function(input, weight, bias, **arguments)
        torch.autograd.grad(result, (input, weight, bias), grad_output)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = {
        "forward": _seconds(forward, options, mesh),
        "forward + backward": _seconds(training, options, mesh),
    }
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    return {"seconds": seconds, "peak_memory_bytes": peak}


def _seconds(
    step: Callable[[], object], options: argparse.Namespace, mesh: DeviceMesh | None
) -> float:
    def wait() -> None:
        if options.device == "cuda":
            torch.cuda.synchronize()
        if mesh is not None:
            dist.barrier(mesh.get_group())

    step()
    measured = []
    for _ in range(options.repeats):
        wait()
        begin = time.perf_counter()
        for _ in range(options.calls):
            step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        measured.append((time.perf_counter() - begin) / options.calls)
    return statistics.median(measured)


if __name__ == "__main__":
    raise SystemExit(main())
