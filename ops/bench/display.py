"""The live view of a run: a table of the last cells, progress and time left.

With `rich` on a terminal the table stays in place; elsewhere every cell is one plain line.
"""

from __future__ import annotations

import sys
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import results

if TYPE_CHECKING:
    from rich.table import Table

    from .runner import Cell

_HEAD = ("case", "dtype", "layout", "pass", "ours ms", "baseline ms", "speed-up", "x floor")
_LAST = 15


def line_of(cell: Cell, rows: list[dict]) -> tuple[str, ...]:
    """The table line of a cell, as `_HEAD` names it; a failure shows its status."""
    pair = results.pairs({"rows": rows})[0]
    baseline = pair.baseline
    return (
        *cell.key,
        f"{pair.ours['median_ms']:.4g}" if pair.ours["status"] == "ok" else pair.ours["status"],
        f"{baseline['median_ms']:.4g} ({baseline['impl']})" if baseline else "none",
        f"{pair.speedup:.2f}x" if pair.speedup is not None else "-",
        f"{pair.floor_ratio:.2f}" if pair.floor_ratio is not None else "-",
    )


class PlainDisplay:
    """One line a cell."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, cell: Cell, rows: list[dict]) -> None:
        """Print a measured cell."""
        self._done += 1
        print(f"[{self._done}/{self._total}]", "  ".join(line_of(cell, rows)), flush=True)


class LiveDisplay:
    """A `rich` table of the last cells over a progress bar with the time left."""

    def __init__(self, total: int) -> None:
        from rich import progress
        from rich.live import Live

        self._progress = progress.Progress(
            progress.TextColumn("{task.completed}/{task.total} cells"),
            progress.BarColumn(bar_width=None),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(elapsed_when_finished=False),
        )
        self._task = self._progress.add_task("cells", total=total)
        self._lines: deque[tuple[str, ...]] = deque(maxlen=_LAST)
        self._live = Live(self._view(), refresh_per_second=4)

    def __enter__(self) -> LiveDisplay:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, cell: Cell, rows: list[dict]) -> None:
        """Add a measured cell to the table."""
        self._lines.append(line_of(cell, rows))
        self._progress.advance(self._task)
        self._live.update(self._view())

    def _view(self) -> Any:
        from rich.console import Group

        return Group(self._table(), self._progress)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(*_HEAD)
        for line in self._lines:
            ratio = line[6]
            won = ratio != "-" and float(ratio[:-1]) >= 1
            table.add_row(*line[:6], f"[{'green' if won else 'red'}]{ratio}[/]", line[7])
        return table


def choose(total: int) -> PlainDisplay | LiveDisplay:
    """The live view on a terminal that has `rich`, else plain lines."""
    if sys.stdout.isatty():
        try:
            return LiveDisplay(total)
        except ImportError:
            pass
    return PlainDisplay(total)
