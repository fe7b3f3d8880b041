"""The result file: what is in it, how it is saved, loaded, merged, and read in pairs.

    schema        version of this layout (`SCHEMA`); a file of another one is refused
    started       ISO time, UTC
    settings      budget_ms and the cases, dtypes, layouts, passes asked for
    environment   device, versions, commit, cache size (`environment.describe`)
    peaks         matmul TFLOP/s by dtype, copy_gbs in GB/s, as measured in this run
    launch_floor_us   one empty kernel in a CUDA graph
    cold_start    seconds to a first result in a fresh process, for convt3d and torch
    cases         name -> `Case.to_dict()`: the layer, its multiply-adds and elements
    rows          one for each case, dtype, layout, pass and impl

A row holds those five names, `status` ("ok", "wrong", "error", "timeout", "crash"), and with
"ok": `median_ms`, `spread_ms` (interquartile range), `repeats`, `calls` per repeat, `method`
("graph", "events", "wall"), `peak_mb` beyond the output, `error` (relative, against float64),
`clocks_mhz` before and after, `took_s` (seconds for operands and first call, for the check, for
timing), `floor_ms`, `floor_ratio` and `bound` ("math" or "memory"), and `first_median_ms` where
the row was surprising and measured again. Otherwise `message` says what happened, and there
is no time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .cases import Case
from .floor import Floor, floor
from .peers import ALTERNATIVES, BASELINES, OURS

SCHEMA = 1

Key = tuple[str, str, str, str]


class ResultError(ValueError):
    """A file that is no result file of this schema, or files that do not belong together."""


@dataclass(frozen=True)
class Pair:
    """Our row of one (case, dtype, layout, pass) and the fastest valid baseline's, if any."""

    key: Key
    ours: dict
    baseline: dict | None

    @property
    def speedup(self) -> float | None:
        """Baseline's time over ours; None unless both have one."""
        if self.baseline is None or self.ours["status"] != "ok":
            return None
        return self.baseline["median_ms"] / self.ours["median_ms"]

    @property
    def floor_ratio(self) -> float | None:
        """Our time over the floor."""
        if self.ours["status"] != "ok":
            return None
        return self.ours["median_ms"] / self.ours["floor_ms"]


def key_of(row: dict) -> Key:
    """Case, dtype, layout and pass of a row."""
    return row["case"], row["dtype"], row["layout"], row["pass"]


def load(path: str | Path) -> dict:
    """Read a result file. Raises `ResultError` if it is not one, or of another schema."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ResultError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or "rows" not in data or "schema" not in data:
        raise ResultError(f"{path} is not a benchmark result")
    if data["schema"] != SCHEMA:
        raise ResultError(f"{path} has schema {data['schema']}, this version reads {SCHEMA}")
    return data


def save(result: dict, path: str | Path) -> None:
    """Write atomically, one row a line, so that a kill leaves the last whole file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {key: value for key, value in result.items() if key not in ("rows", "cases")}
    cases = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in result["cases"].items())
    rows = ",\n".join(f"  {json.dumps(_rounded(row))}" for row in result["rows"])
    text = json.dumps(_rounded(head), indent=1)[:-2]
    text += f',\n "cases": {{\n{cases}\n }},\n "rows": [\n{rows}\n ]\n}}\n'
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _rounded(value: object) -> object:
    """Floats to six significant digits: no measurement here has more."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value


def merge(parts: Iterable[dict]) -> dict:
    """One result of several, later rows replacing earlier ones of the same cell and implementation.

    Raises `ResultError` unless all parts ran on the same device under the same PyTorch. Peaks are
    the highest of any part, and every row's floor follows from them; the launch floor is the first
    part's.
    """
    parts = list(parts)
    merged = {**parts[0], "cases": {}, "peaks": {}, "merged": []}
    rows: dict[tuple, dict] = {}
    for part in parts:
        for name in ("device", "torch", "cudnn"):
            here, there = (each["environment"].get(name) for each in (part, parts[0]))
            if here != there:
                raise ResultError(f"cannot merge results of different {name}: {there} and {here}")
        merged["cases"] |= part["cases"]
        merged["merged"].append({key: part[key] for key in ("started", "settings", "peaks")})
        merged["cold_start"] = part.get("cold_start") or merged.get("cold_start")
        for name, rate in part["peaks"].items():
            merged["peaks"][name] = max(rate, merged["peaks"].get(name, 0.0))
        rows |= {(*key_of(row), row["impl"]): dict(row) for row in part["rows"]}
    settings = [part["settings"] for part in parts]
    merged["settings"] = {
        key: list(dict.fromkeys(item for each in settings for item in each[key]))
        if isinstance(value, list)
        else value
        for key, value in settings[0].items()
    }
    merged["rows"] = list(rows.values())
    peaks = merged["peaks"]
    for row in merged["rows"]:
        case = Case.from_dict(merged["cases"][row["case"]])
        add_floor(row, floor(case, row["dtype"], peaks[row["dtype"]], peaks["copy_gbs"]))
    return merged


def add_floor(row: dict, least: Floor) -> None:
    """Note a row's floor, and its ratio to it where it has a time."""
    row |= {"floor_ms": least.ms, "bound": least.bound}
    if row["status"] == "ok":
        row["floor_ratio"] = row["median_ms"] / least.ms


def pairs(result: dict) -> list[Pair]:
    """Our row and its best baseline for every cell that has a row of ours, in file order."""
    best: dict[Key, dict] = {}
    for row in result["rows"]:
        if row["impl"] in BASELINES and row["status"] == "ok":
            key = key_of(row)
            if key not in best or row["median_ms"] < best[key]["median_ms"]:
                best[key] = row
    ours = (row for row in result["rows"] if row["impl"] == OURS)
    return [Pair(key_of(row), row, best.get(key_of(row))) for row in ours]


def failures(result: dict) -> Iterator[dict]:
    """Rows without a time."""
    return (row for row in result["rows"] if row["status"] != "ok")


def alternatives(result: dict) -> list[dict]:
    """Timed rows of what a user might write instead."""
    rows = result["rows"]
    return [row for row in rows if row["impl"] in ALTERNATIVES and row["status"] == "ok"]


def cases_of(result: dict) -> dict[str, Case]:
    """The cases of a result by name."""
    return {name: Case.from_dict(data) for name, data in result["cases"].items()}
