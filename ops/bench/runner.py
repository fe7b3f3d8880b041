"""Runs the benchmark: one process per way of measuring, asked cell by cell, in turn.

The processes live side by side, so that the rows of one cell are measured within seconds of each
other. A process that dies or hangs costs one row and is started again for the next.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from . import peers, results
from .cases import Case
from .floor import Floor, floor

SURPRISING = 10.0
_SAVE_EVERY_S = 2.0


class WorkerLost(Exception):
    """A worker died ("crash") or did not answer in time ("timeout")."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class WorkerProcess:
    """A `convt3d.bench.worker` of one kind, started when first asked and again after a loss."""

    def __init__(self, kind: str, device: str) -> None:
        self.kind = kind
        self._command = [sys.executable, "-m", "convt3d.bench.worker", kind, device]
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()
        self._log: IO[str] | None = None

    def ask(self, request: dict, timeout_s: float) -> dict:
        """Send one request, wait for the answer. Raises `WorkerLost`."""
        process = self._started()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            self.stop()
            raise WorkerLost("timeout", f"no answer within {timeout_s:g} s") from None
        except OSError:
            line = ""
        if not line:
            process.wait()
            message = f"process ended with code {process.returncode}: {self._last_words()}"
            self.stop()
            raise WorkerLost("crash", message)
        answer = json.loads(line)
        if answer.pop("fatal", False):
            self.stop()
        return answer

    def stop(self) -> None:
        """End the process; the next `ask` starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._log = tempfile.TemporaryFile(  # noqa: SIM115  (closed by stop)
                "w+", encoding="utf-8", errors="replace"
            )
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
            self._answers = queue.Queue()
            reader = threading.Thread(
                target=_forward_lines, args=(self._process.stdout, self._answers), daemon=True
            )
            reader.start()
        return self._process

    def _last_words(self) -> str:
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1][:300] if lines else "no message"


def _forward_lines(source: IO[str], answers: queue.Queue[str]) -> None:
    """Move lines into the queue; an empty string marks the end."""
    for line in source:
        answers.put(line)
    answers.put("")


@dataclass(frozen=True)
class Cell:
    """One thing to compare: a case in a dtype and a layout, for one pass."""

    case: Case
    dtype: str
    layout: str
    pass_name: str

    @property
    def key(self) -> results.Key:
        """As `results.key_of` of its rows."""
        return self.case.name, self.dtype, self.layout, self.pass_name


@dataclass(frozen=True)
class Settings:
    """What a run measures. `budget_ms` is the time for one row's repeats; `timeout_s` is the most
    that one row may take with everything around it; `time_limit_s` ends the whole run early."""

    cases: tuple[Case, ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    passes: tuple[str, ...]
    device: str
    budget_ms: float = 100.0
    timeout_s: float = 60.0
    time_limit_s: float = float("inf")

    def cells(self) -> list[Cell]:
        """Every cell to measure, case by case."""
        return [
            Cell(case, dtype, layout, pass_name)
            for case in self.cases
            for dtype in self.dtypes
            for layout in self.layouts
            for pass_name in self.passes
        ]


class Run:
    """A benchmark run over `settings`, filling `result` and saving it to `path` as it goes.

    Cells that `result` already holds are left out, which is how an interrupted run is resumed.
    """

    def __init__(self, settings: Settings, result: dict, path: Path | None) -> None:
        self.settings = settings
        self.result = result
        self._path = path
        self._saved = 0.0
        kinds = peers.baselines(settings.device)
        self._workers = {
            kind: WorkerProcess(kind, settings.device) for kind in (peers.OURS, *kinds)
        }
        # Alternatives are built on cuDNN and get its better mode.
        self._workers |= {name: self._workers[kinds[-1]] for name in peers.ALTERNATIVES}
        self._floors: dict[tuple[str, str], Floor] = {}
        done = {results.key_of(row) for row in result["rows"]}
        self.pending = [cell for cell in settings.cells() if cell.key not in done]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.stop()
        self.save()

    def probe(self) -> None:
        """Fill in environment, peaks and launch floor, from a process of its own."""
        worker = WorkerProcess("probe", self.settings.device)
        try:
            answer = worker.ask({"task": "probe", "dtypes": list(self.settings.dtypes)}, 300.0)
        finally:
            worker.stop()
        self.result.update(answer)

    def rows(self) -> Iterator[tuple[Cell, list[dict]]]:
        """Measure the pending cells one by one; ends early at the time limit."""
        end = time.monotonic() + self.settings.time_limit_s
        for cell in self.pending:
            if time.monotonic() > end:
                return
            measured = self.measure(cell)
            self.result["cases"][cell.case.name] = cell.case.to_dict()
            self.result["rows"].extend(measured)
            if time.monotonic() - self._saved > _SAVE_EVERY_S:
                self.save()
            yield cell, measured

    def measure(self, cell: Cell) -> list[dict]:
        """The rows of all implementations of one cell.

        Where ours is over ten times faster than its baseline, both are measured a second time: such
        a ratio is more often a disturbed measurement than a fact.
        """
        impls = peers.implementations(cell.case, cell.pass_name, self.settings.device)
        rows = {impl: self._row(cell, impl) for impl in impls}
        pair = results.pairs({"rows": list(rows.values())})[0]
        if pair.baseline is not None and pair.speedup is not None and pair.speedup > SURPRISING:
            for first in (pair.ours, pair.baseline):
                again = self._row(cell, first["impl"])
                rows[first["impl"]] = again | {"first_median_ms": first["median_ms"]}
        return list(rows.values())

    def save(self) -> None:
        """Write the result file, if there are rows and a path."""
        if self._path is not None and self.result["rows"]:
            results.save(self.result, self._path)
            self._saved = time.monotonic()

    def _row(self, cell: Cell, impl: str) -> dict:
        names = {"dtype": cell.dtype, "layout": cell.layout, "pass": cell.pass_name, "impl": impl}
        request = {
            "task": "cell",
            "case": cell.case.to_dict(),
            "budget_ms": self.settings.budget_ms,
            **names,
        }
        try:
            row = self._workers[impl].ask(request, self.settings.timeout_s)
        except WorkerLost as lost:
            row = {"case": cell.case.name, **names, "status": lost.status, "message": str(lost)}
        least = self._floor(cell)
        return row | {"floor_ms": least.ms, "bound": least.bound}

    def _floor(self, cell: Cell) -> Floor:
        key = (cell.case.name, cell.dtype)
        if key not in self._floors:
            peaks = self.result["peaks"]
            self._floors[key] = floor(cell.case, cell.dtype, peaks[cell.dtype], peaks["copy_gbs"])
        return self._floors[key]


def run_all(run: Run, show: Callable[[Cell, list[dict]], None]) -> int:
    """Measure everything pending, showing each cell; returns how many cells were measured."""
    count = 0
    for cell, rows in run.rows():
        show(cell, rows)
        count += 1
    return count


def empty_result(settings: Settings, started: str) -> dict:
    """A result without rows for a run of `settings`."""
    return {
        "schema": results.SCHEMA,
        "started": started,
        "settings": {
            "budget_ms": settings.budget_ms,
            "cases": [case.name for case in settings.cases],
            "dtypes": list(settings.dtypes),
            "layouts": list(settings.layouts),
            "passes": list(settings.passes),
        },
        "environment": {},
        "peaks": {},
        "launch_floor_us": None,
        "cold_start": {},
        "cases": {},
        "rows": [],
    }
