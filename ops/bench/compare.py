"""Two result files side by side: what got slower by more than the noise, what got faster.

A row got slower when its median grew by more than three spreads (the larger of the two rows') and
by more than 3 %. A row of ours that had a time and has none any more also counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from .peers import OURS
from .results import Key, ResultError, key_of

SPREADS = 3.0
LEAST_CHANGE = 0.03


@dataclass(frozen=True)
class Change:
    """One of our rows in both files; `now` is None where it lost its time (`reason` says how)."""

    key: Key
    before: float
    now: float | None
    reason: str = ""

    @property
    def ratio(self) -> float:
        """New time over old; infinite where there is none."""
        return float("inf") if self.now is None else self.now / self.before


@dataclass(frozen=True)
class Comparison:
    """`slower` and `faster` beyond the noise, worst first; `same` counts the rest in both files."""

    slower: list[Change]
    faster: list[Change]
    same: int

    @property
    def exit_code(self) -> int:
        """1 if anything got slower, else 0."""
        return 1 if self.slower else 0


def noise_ms(old: dict, new: dict) -> float:
    """How far two medians may lie apart and still be the same: max of 3 spreads and 3 %."""
    spread = max(old["spread_ms"], new["spread_ms"])
    return max(SPREADS * spread, LEAST_CHANGE * old["median_ms"])


def compare(old: dict, new: dict) -> Comparison:
    """Compare our rows of two results. Raises `ResultError` for results of different devices."""
    devices = [each["environment"]["device"] for each in (old, new)]
    if devices[0] != devices[1]:
        raise ResultError(f"results of different devices: {devices[0]} and {devices[1]}")
    before = _ours(old)
    slower: list[Change] = []
    faster: list[Change] = []
    same = 0
    for key, row in _ours(new).items():
        past = before.get(key)
        if past is None or past["status"] != "ok":
            continue
        if row["status"] != "ok":
            reason = f"{row['status']}: {row['message']}"
            slower.append(Change(key, past["median_ms"], None, reason))
            continue
        change = Change(key, past["median_ms"], row["median_ms"])
        difference = row["median_ms"] - past["median_ms"]
        if abs(difference) <= noise_ms(past, row):
            same += 1
        else:
            (slower if difference > 0 else faster).append(change)
    slower.sort(key=lambda change: -change.ratio)
    faster.sort(key=lambda change: change.ratio)
    return Comparison(slower, faster, same)


def _ours(result: dict) -> dict[Key, dict]:
    return {key_of(row): row for row in result["rows"] if row["impl"] == OURS}


def text(comparison: Comparison) -> str:
    """The comparison for a terminal."""
    lines = []
    for title, changes in (("slower", comparison.slower), ("faster", comparison.faster)):
        lines.append(f"{len(changes)} {title}{':' if changes else ''}")
        for change in changes:
            now = change.reason if change.now is None else f"{change.now:.4g} ms"
            ratio = "" if change.now is None else f" ({change.ratio:.2f}x)"
            lines.append(f"  {' '.join(change.key)}: {change.before:.4g} ms -> {now}{ratio}")
    lines.append(f"{comparison.same} unchanged within the noise")
    return "\n".join(lines)
