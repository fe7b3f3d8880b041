"""Markdown of a result: the losing cases first, then the summary, then everything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from . import results
from .peers import OURS
from .results import Pair

README_BEGIN = "<!-- bench:begin -->"
README_END = "<!-- bench:end -->"


@dataclass(frozen=True)
class Group:
    """Speed-up over the cases of one dtype, layout and pass; `worst` is a pair of that group.

    `count` counts the cells whose baseline has a time; a `failed` one of ours is not won, and has
    no part in the geometric mean.
    """

    dtype: str
    layout: str
    pass_name: str
    count: int
    won: int
    failed: int
    geomean: float
    worst: Pair


def groups(result: dict) -> list[Group]:
    """One `Group` for each dtype, layout and pass that has a cell with both times."""
    by_group: dict[tuple[str, str, str], list[Pair]] = {}
    for pair in results.pairs(result):
        if pair.baseline is not None:
            by_group.setdefault(pair.key[1:], []).append(pair)
    found = []
    for (dtype, layout, pass_name), compared in by_group.items():
        members = [pair for pair in compared if pair.speedup is not None]
        if not members:
            continue
        ratios = [pair.speedup or 0.0 for pair in members]
        geomean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        won = sum(ratio >= 1 for ratio in ratios)
        worst = members[ratios.index(min(ratios))]
        count = len(compared)
        failed = count - len(members)
        found.append(Group(dtype, layout, pass_name, count, won, failed, geomean, worst))
    return found


def losing(result: dict) -> list[Pair]:
    """Cells where the baseline is faster than ours, the worst first."""
    slower = [p for p in results.pairs(result) if p.speedup is not None and p.speedup < 1]
    return sorted(slower, key=lambda pair: pair.speedup or 0.0)


def markdown(result: dict) -> str:
    """The whole report."""
    sections = [
        _heading(result),
        _losing(result),
        _failures(result),
        "## Summary\n\n" + summary_table(result),
        _alternatives(result),
        _memory(result),
        _cold_start(result),
        _spent(result),
        _everything(result),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def summary_table(result: dict) -> str:
    """Geometric mean, worst case and share of cases won, by dtype, layout and pass."""
    rows = [
        (
            group.dtype,
            group.layout,
            group.pass_name,
            f"{group.geomean:.2f}x",
            f"{group.worst.speedup:.2f}x ({group.worst.key[0]})",
            f"{group.won} of {group.count}" + (f" ({group.failed} failed)" * bool(group.failed)),
        )
        for group in groups(result)
    ]
    head = ("dtype", "layout", "pass", "geometric mean", "worst case", "cases won")
    return _table(head, rows) if rows else "No cell has both times."


def _heading(result: dict) -> str:
    env, peaks = result["environment"], result["peaks"]
    versions = f"torch {env['torch']}"
    if env.get("cudnn"):
        versions += f", cuDNN {env['cudnn']}, CUDA {env['cuda']}"
    commit = f" ({env['commit']})" if env.get("commit") else ""
    rates = ", ".join(f"{name} {peaks[name]:.4g}" for name in peaks if name != "copy_gbs")
    lines = [
        f"# convt3d on {env['device']}",
        "",
        f"convt3d {env['convt3d']}{commit}, {versions}, {result['started'][:10]}.",
        f"Measured peaks: matmul TFLOP/s {rates}; copy {peaks['copy_gbs']:.4g} GB/s.",
    ]
    if result.get("launch_floor_us"):
        lines.append(f"An empty kernel in a CUDA graph takes {result['launch_floor_us']:.2f} us.")
    lines += [
        "Times are medians in milliseconds; x floor is our time over the floor.",
        f"Speed-up is the baseline's time over ours; the baseline is {_baseline_words(result)}.",
    ]
    return "\n".join(lines)


def _baseline_words(result: dict) -> str:
    if result["environment"]["device_type"] == "cuda":
        return "the faster of cuDNN's heuristic and benchmark mode"
    return "PyTorch's own operator"


def _losing(result: dict) -> str:
    slower = losing(result)
    compared = sum(pair.speedup is not None for pair in results.pairs(result))
    title = f"## Losing cases: {len(slower)} of {compared}"
    if not slower:
        return title
    return f"{title}\n\n{_pair_table(slower)}"


def _pair_table(found: Iterable[Pair]) -> str:
    head = ("case", "dtype", "layout", "pass", "ours", "spread", "baseline", "by", "speed-up")
    rows = []
    for pair in found:
        baseline = pair.baseline or {}
        rows.append(
            (
                *pair.key,
                _ms(pair.ours.get("median_ms")) or pair.ours["status"],
                _ms(pair.ours.get("spread_ms")),
                _ms(baseline.get("median_ms")),
                baseline.get("impl", ""),
                f"{pair.speedup:.2f}x" if pair.speedup else "",
                f"{pair.floor_ratio:.2f}" if pair.floor_ratio else "",
                pair.ours["bound"],
            )
        )
    return _table((*head, "x floor", "bound"), rows)


def _failures(result: dict) -> str:
    failed = sorted(results.failures(result), key=lambda row: row["impl"] != OURS)
    if not failed:
        return ""
    rows = [(*results.key_of(r), r["impl"], r["status"], _cell(r["message"])) for r in failed]
    head = ("case", "dtype", "layout", "pass", "by", "status", "message")
    return f"## Failures: {len(failed)}\n\nThese rows have no time.\n\n{_table(head, rows)}"


def _alternatives(result: dict) -> str:
    found = results.alternatives(result)
    ours = {results.key_of(row): row for row in result["rows"] if row["impl"] == OURS}
    rows = []
    for row in found:
        own = ours.get(results.key_of(row), {}).get("median_ms")
        ratio = f"{row['median_ms'] / own:.2f}x" if own else ""
        rows.append((*results.key_of(row)[:3], row["impl"], _ms(row["median_ms"]), _ms(own), ratio))
    if not rows:
        return ""
    head = ("case", "dtype", "layout", "alternative", "its time", "ours", "speed-up")
    return (
        "## What one might write instead\n\n"
        "`interpolate_conv` computes another function of the same size.\n\n" + _table(head, rows)
    )


def _memory(result: dict) -> str:
    largest: dict[tuple[str, str], dict] = {}
    for row in result["rows"]:
        key = row["pass"], row["impl"]
        if row.get("peak_mb") is None:
            continue
        if key not in largest or row["peak_mb"] > largest[key]["peak_mb"]:
            largest[key] = row
    if not largest:
        return ""
    rows = [
        (key[0], key[1], f"{row['peak_mb']:.1f}", f"{row['case']} {row['dtype']} {row['layout']}")
        for key, row in sorted(largest.items())
    ]
    table = _table(("pass", "by", "MB", "in"), rows)
    return f"## Largest memory beyond operands and output\n\n{table}"


def _cold_start(result: dict) -> str:
    found = result.get("cold_start") or {}
    if not found:
        return ""
    head = ("", "process", "import", "first result")
    rows = [
        (
            name,
            *(f"{found[name][part]:.2f} s" for part in ("total_s", "import_s", "first_result_s")),
        )
        for name in found
    ]
    return f"## Cold start\n\nA fresh process, to a first small result.\n\n{_table(head, rows)}"


def _spent(result: dict) -> str:
    totals: dict[str, list[float]] = {}
    for row in result["rows"]:
        if "took_s" in row:
            parts = totals.setdefault(row["impl"], [0.0] * len(row["took_s"]))
            totals[row["impl"]] = [a + b for a, b in zip(parts, row["took_s"], strict=True)]
    if not totals:
        return ""
    rows = [(impl, *(f"{part:.1f} s" for part in parts)) for impl, parts in totals.items()]
    head = ("by", "operands and first call", "check", "timing")
    return f"## Where the run's time went\n\n{_table(head, rows)}"


def _everything(result: dict) -> str:
    return "## All cells\n\n" + _pair_table(results.pairs(result))


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def readme_block(result: dict, figure: str) -> str:
    """What stands between the README's markers: the device, the figure, the summary table."""
    env = result["environment"]
    return (
        f"{env['device']}, torch {env['torch']}, {result['started'][:10]}; speed-up over "
        f"{_baseline_words(result)}.\n\n![Speed-up by case]({figure})\n\n{summary_table(result)}"
    )


def replace_block(text: str, block: str) -> str:
    """`text` with `block` between its markers. Raises `ValueError` where they are missing."""
    before, begin, rest = text.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not begin or not end:
        raise ValueError(f"no {README_BEGIN} ... {README_END} to write between")
    return f"{before}{begin}\n{block}\n{end}{after}"
