"""The process that times implementations: one request a line on stdin, one answer a line on stdout.

`python -m convt3d.bench.worker <kind> <device>`; `kind` is what the process measures: `convt3d`,
`aten`, `cudnn_heuristic` or `cudnn_benchmark`. PyTorch caches one cuDNN plan per shape, so a
process can measure either mode, and the mode is set before the first convolution.

Requests are `{"task": "cell", "case", "dtype", "layout", "pass", "impl", "budget_ms"}`, answered by
a row, and `{"task": "probe", "dtypes"}`, answered by the environment and the measured peaks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor

from . import check, environment, peers, timing
from .cases import Case
from .problem import Problem, set_float32_precision

# Three workers with as much cached memory each leave most of the device free.
_CACHE_SHARE = 8


class Worker:
    """Answers requests. Keeps the tensors of the last (case, dtype, layout) for its next pass."""

    def __init__(self, kind: str, device: torch.device) -> None:
        self.device = device
        self._problem: Problem | None = None
        self._clocks = environment.Clocks(device)
        torch.backends.cudnn.benchmark = kind == "cudnn_benchmark"

    def answer(self, request: dict) -> dict:
        """The answer to one request."""
        if request["task"] == "probe":
            return self.probe(tuple(request["dtypes"]))
        return self.cell(request)

    def probe(self, dtypes: tuple[str, ...]) -> dict:
        """Environment; with `dtypes` also the launch floor and their measured peaks."""
        found = {"environment": environment.describe(self.device)}
        if not dtypes:
            return found | {"peaks": {}, "launch_floor_us": None}
        peaks = environment.measure_peaks(self.device, dtypes)
        floor = environment.measure_launch_floor(self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return found | {"peaks": peaks, "launch_floor_us": floor}

    def cell(self, request: dict) -> dict:
        """One row: `status` "ok" with a time, or "wrong" or "error" with a message and no time."""
        row = {"case": request["case"]["name"]}
        row |= {key: request[key] for key in ("dtype", "layout", "pass", "impl")}
        try:
            with torch.no_grad():
                row |= self._measure(request)
        except check.WrongResult as wrong:
            row |= {"status": "wrong", "message": str(wrong), "error": wrong.error}
        except Exception as failure:
            # Whatever an implementation raises is its result for this cell; the run goes on.
            text = str(failure).strip() or type(failure).__name__
            row |= {"status": "error", "message": text.splitlines()[0][:300]}
            if self.device.type == "cuda" and _context_is_lost():
                return row | {"fatal": True}
        if self.device.type == "cuda":
            self._share_memory()
        return row

    def _share_memory(self) -> None:
        """Give cached memory back where it is much: other workers use the same device. Doing so
        after every row would cost more time than most rows take to measure."""
        total = torch.cuda.get_device_properties(self.device).total_memory
        if torch.cuda.memory_reserved() > total // _CACHE_SHARE:
            torch.cuda.empty_cache()

    def _measure(self, request: dict) -> dict:
        started = time.perf_counter()
        set_float32_precision(request["dtype"])
        problem = self._problem_of(request)
        job = peers.build(request["impl"], request["pass"], problem)
        # The first call may search for a plan or compile.
        first = job.call(*job.rotation[0])
        self._synchronize()
        prepared = time.perf_counter()
        error = job.check(first)
        del first
        checked = time.perf_counter()
        peak = self._peak_mb(job)
        before = self._clocks.read()
        timed = timing.measure(
            job.call, job.rotation, self.device, request["budget_ms"], graph=job.graph
        )
        after = self._clocks.read()
        return {
            "status": "ok",
            "median_ms": timed.median_ms,
            "spread_ms": timed.spread_ms,
            "repeats": timed.repeats,
            "calls": timed.calls,
            "method": timed.method,
            "peak_mb": peak,
            "error": error,
            "clocks_mhz": [before, after],
            "took_s": [prepared - started, checked - prepared, time.perf_counter() - checked],
        }

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _problem_of(self, request: dict) -> Problem:
        case = Case.from_dict(request["case"])
        wanted = (case, request["dtype"], request["layout"])
        held = self._problem
        if held is None or (held.case, held.dtype, held.layout) != wanted:
            same = held is not None and (held.case, held.dtype) == wanted[:2]
            references = held.references if held is not None and same else None
            self._problem = held = None
            self._problem = held = Problem(*wanted, self.device, references)
        return held

    def _peak_mb(self, job: peers.Job) -> float | None:
        """Memory (MB) that a call takes at its peak beyond operands and results; None on a CPU."""
        if self.device.type != "cuda":
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        result = job.call(*job.rotation[0])
        torch.cuda.synchronize()
        tensors: tuple[Tensor, ...] = result if isinstance(result, tuple) else (result,)
        results = sum(tensor.nbytes for tensor in tensors)
        return max(0, torch.cuda.max_memory_allocated() - held - results) / 1e6


def _context_is_lost() -> bool:
    """Whether a failed kernel has left the CUDA context unusable."""
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError:
        return True
    return False


def serve(worker: Worker) -> None:
    """Answer until stdin ends. Whatever libraries print goes to stderr, not between the answers."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answer: dict[str, Any] = worker.answer(json.loads(line))
        print(json.dumps(answer), file=answers, flush=True)
        if answer.get("fatal"):
            return


def main() -> None:
    """Entry of the process."""
    kind, device = sys.argv[1:]
    serve(Worker(kind, torch.device(device)))


if __name__ == "__main__":
    main()
