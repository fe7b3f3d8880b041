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
from .floor import DTYPES, Floor, floor

SURPRISING = 10.0
_SAVE_EVERY_S = 2.0
# A row under way at the time limit may finish within this.
_GRACE_S = 10.0


class OutOfTime(Exception):
    """The run's time limit is reached."""


class WorkerLost(RuntimeError):
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

    def start(self) -> None:
        """Start the process where there is none, without waiting for it."""
        self._started()

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
    """What a run measures. `budget_ms` is the most time for one row's repeats; `timeout_s` is the
    most that one row may take with everything around it; `time_limit_s` ends the whole run early.
    `alternatives` are measured in `alternative_dtypes`."""

    cases: tuple[Case, ...]
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    passes: tuple[str, ...]
    device: str
    budget_ms: float = 100.0
    timeout_s: float = 60.0
    time_limit_s: float = float("inf")
    alternatives: tuple[str, ...] = peers.QUICK_ALTERNATIVES
    alternative_dtypes: tuple[str, ...] = DTYPES

    def implementations(self, cell: Cell) -> tuple[str, ...]:
        """What is measured in a cell, ours first."""
        wanted = self.alternatives if cell.dtype in self.alternative_dtypes else ()
        return peers.implementations(cell.case, cell.pass_name, self.device, wanted)

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

    Rows that `result` already holds are not measured again, which is how an interrupted run is
    resumed. The time limit counts from here.
    """

    def __init__(self, settings: Settings, result: dict, path: Path | None) -> None:
        self.settings = settings
        self.result = result
        self._path = path
        self._saved = 0.0
        self._end = time.monotonic() + settings.time_limit_s
        kinds = peers.baselines(settings.device)
        self._workers = {
            kind: WorkerProcess(kind, settings.device) for kind in (peers.OURS, *kinds)
        }
        # Alternatives are built on cuDNN and get its better mode.
        self._workers |= {name: self._workers[kinds[-1]] for name in peers.ALTERNATIVES}
        self._floors: dict[tuple[str, str], Floor] = {}
        self._held: dict[results.Key, dict[str, dict]] = {}
        for row in result["rows"]:
            self._held.setdefault(results.key_of(row), {})[row["impl"]] = row
        self.pending = [cell for cell in settings.cells() if not self._is_complete(cell)]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.stop()
        self.save()

    def probe(self) -> None:
        """Fill in environment, and peaks and launch floor where the result has none of a dtype.

        Raises `ResultError` where the result was measured on another device or PyTorch.
        """
        wanted = [name for name in self.settings.dtypes if name not in self.result["peaks"]]
        if self.settings.device == "cuda":
            # The others load their libraries meanwhile.
            for worker in self._workers.values():
                worker.start()
        answer = self._workers[peers.OURS].ask({"task": "probe", "dtypes": wanted}, 300.0)
        before, now = self.result["environment"], answer["environment"]
        for name in ("device", "torch", "cudnn"):
            if before and before.get(name) != now.get(name):
                found = f"{before.get(name)}, not {now.get(name)}"
                raise results.ResultError(f"{self._path} is of {name} {found}: choose another file")
        self.result["environment"] = now
        self.result["peaks"] = answer["peaks"] | self.result["peaks"]
        if self.result["launch_floor_us"] is None:
            self.result["launch_floor_us"] = answer["launch_floor_us"]

    def rows(self) -> Iterator[tuple[Cell, list[dict]]]:
        """Measure the pending cells one by one; ends early at the time limit.

        Every row is in the result as soon as it is measured. A cell that the limit cuts is not
        yielded; a resumed run measures what it lacks.
        """
        for cell in self.pending:
            try:
                measured = self.measure(cell)
            except OutOfTime:
                return
            yield cell, measured

    def measure(self, cell: Cell) -> list[dict]:
        """The rows of all implementations of one cell. Raises `OutOfTime`.

        Where ours is over ten times faster than its baseline, both are measured a second time: such
        a ratio is more often a disturbed measurement than a fact.
        """
        rows = self._held.setdefault(cell.key, {})
        for impl in self.settings.implementations(cell):
            if impl not in rows:
                row = self._row(cell, impl)
                rows[impl] = row
                self.result["cases"][cell.case.name] = cell.case.to_dict()
                self.result["rows"].append(row)
                self._save_now_and_then()
        for row in _surprising(rows):
            again = self._row(cell, row["impl"]) | {"first_median_ms": row["median_ms"]}
            row.clear()
            row.update(again)
        return list(rows.values())

    def _is_complete(self, cell: Cell) -> bool:
        rows = self._held.get(cell.key, {})
        wanted = self.settings.implementations(cell)
        return all(impl in rows for impl in wanted) and not _surprising(rows)

    def _save_now_and_then(self) -> None:
        if time.monotonic() - self._saved > _SAVE_EVERY_S:
            self.save()

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
        left = self._end - time.monotonic()
        if left <= 0:
            raise OutOfTime
        allowed = min(self.settings.timeout_s, left + _GRACE_S)
        try:
            row = self._workers[impl].ask(request, allowed)
        except WorkerLost as lost:
            if lost.status == "timeout" and allowed < self.settings.timeout_s:
                raise OutOfTime from None
            row = {"case": cell.case.name, **names, "status": lost.status, "message": str(lost)}
        results.add_floor(row, self._floor(cell))
        return row

    def _floor(self, cell: Cell) -> Floor:
        key = (cell.case.name, cell.dtype)
        if key not in self._floors:
            peaks = self.result["peaks"]
            self._floors[key] = floor(cell.case, cell.dtype, peaks[cell.dtype], peaks["copy_gbs"])
        return self._floors[key]


def _surprising(rows: dict[str, dict]) -> list[dict]:
    """Our row and its baseline's, where ours is over ten times faster, of those measured once."""
    if peers.OURS not in rows:
        return []
    pair = results.pairs({"rows": list(rows.values())})[0]
    if pair.baseline is None or pair.speedup is None or pair.speedup <= SURPRISING:
        return []
    return [row for row in (pair.ours, pair.baseline) if "first_median_ms" not in row]


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
