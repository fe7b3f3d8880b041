"""Pictures of a result: speed-up by case, roofline, before and after. Needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from . import results
from .floor import DTYPES, tensor_bytes
from .problem import LAYOUTS, PASSES
from .results import Pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS = "#1b6ca8"
_BASELINE = "#d1495b"
_LAYOUT_COLORS = {"contiguous": _OURS, "channels_last_3d": "#66a182"}
_LABELS = {"contiguous": "NCDHW", "channels_last_3d": "NDHWC"}


def _subplots(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without pyplot: no display, no state between calls."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RuntimeError("plots need matplotlib: pip install 'convt3d[bench]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version stamp, the same rows give the same file.
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def default_dtype(result: dict) -> str:
    """The dtype that a picture shows unless told: bf16 where it was measured."""
    measured = {row["dtype"] for row in result["rows"]}
    return next(name for name in ("bf16", *DTYPES) if name in measured)


def default_pass(result: dict) -> str:
    """The pass that a picture shows unless told: forward where it was measured."""
    measured = {row["pass"] for row in result["rows"]}
    return next(name for name in PASSES if name in measured)


def _timed(result: dict, dtype: str, pass_name: str) -> list[Pair]:
    """Cells of one dtype and pass with both times. Raises `ValueError` where there is none."""
    found = [
        pair
        for pair in results.pairs(result)
        if pair.key[1] == dtype and pair.key[3] == pass_name and pair.speedup is not None
    ]
    if not found:
        raise ValueError(f"the result has no timed cell of {dtype} {pass_name}")
    return found


def speedup(result: dict, path: Path, dtype: str, pass_name: str) -> Path:
    """Horizontal bars, one a case and layout: baseline's time over ours, on a log scale."""
    found = _timed(result, dtype, pass_name)
    names = list(dict.fromkeys(pair.key[0] for pair in found))
    figure, axes = _subplots(8, 1.6 + 0.32 * len(names))
    layouts = [name for name in LAYOUTS if any(pair.key[2] == name for pair in found)]
    height = 0.8 / len(layouts)
    for index, layout in enumerate(layouts):
        bars = [pair for pair in found if pair.key[2] == layout]
        rows = [
            names.index(pair.key[0]) + (index - (len(layouts) - 1) / 2) * height for pair in bars
        ]
        ratios = [pair.speedup or 1.0 for pair in bars]
        axes.barh(
            rows,
            [ratio - 1 for ratio in ratios],
            height,
            left=1,
            color=_LAYOUT_COLORS[layout],
            label=_LABELS[layout],
        )
        for row, ratio in zip(rows, ratios, strict=True):
            side = "left" if ratio >= 1 else "right"
            axes.annotate(
                f"{ratio:.2f}",
                (ratio, row),
                xytext=(3 if ratio >= 1 else -3, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=7,
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}x")
    axes.margins(x=0.12, y=0.01)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    device = result["environment"]["device"]
    axes.set_xlabel("speed-up (baseline's time / ours; right of 1 is faster)")
    axes.set_title(f"{pass_name}, {dtype}, {device}")
    axes.legend(frameon=False)
    return _save(figure, path)


def roofline(result: dict, path: Path, dtype: str, pass_name: str) -> Path:
    """TFLOP/s over operations per byte, our points and the baseline's under the measured peaks."""
    found = _timed(result, dtype, pass_name)
    cases = results.cases_of(result)
    peak, bandwidth = result["peaks"][dtype], result["peaks"]["copy_gbs"]
    figure, axes = _subplots(8, 5.5)
    intensities = []
    for pair in found:
        case = cases[pair.key[0]]
        flops = 2 * case.macs
        intensities.append(flops / tensor_bytes(case, dtype))
        marker = "o" if pair.key[2] == "contiguous" else "s"
        times = [(pair.ours, _OURS), (pair.baseline or pair.ours, _BASELINE)]
        rates = [flops / row["median_ms"] / 1e9 for row, _ in times]
        axes.plot([intensities[-1]] * 2, rates, color="0.8", linewidth=1, zorder=1)
        for rate, (_, color) in zip(rates, times, strict=True):
            axes.plot(intensities[-1], rate, marker, color=color, markersize=5, alpha=0.8)
    low, high = min(intensities) / 2, max(max(intensities), peak / bandwidth * 1e3) * 2
    ridge = peak * 1e3 / bandwidth
    roof = sorted({low, min(max(ridge, low), high), high})
    axes.plot(roof, [min(peak, x * bandwidth / 1e3) for x in roof], color="black", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte of input, output and weight")
    axes.set_ylabel("TFLOP/s")
    axes.set_title(f"{pass_name}, {dtype}, {result['environment']['device']}")
    for label, marker, color in (
        ("convt3d", "o", _OURS),
        ("baseline", "o", _BASELINE),
        (_LABELS["contiguous"], "o", "0.5"),
        (_LABELS["channels_last_3d"], "s", "0.5"),
    ):
        axes.plot([], [], marker, color=color, label=label)
    axes.legend(frameon=False, loc="lower right")
    return _save(figure, path)


def before_after(old: dict, new: dict, path: Path, dtype: str, pass_name: str) -> Path:
    """Our times in two results against each other; below the diagonal is faster now."""
    past = {p.key: p.ours for p in results.pairs(old) if p.ours["status"] == "ok"}
    present = [p for p in results.pairs(new) if p.ours["status"] == "ok" and p.key in past]
    chosen = [p for p in present if p.key[1] == dtype and p.key[3] == pass_name]
    if not chosen:
        raise ValueError(f"the two results share no timed cell of {dtype} {pass_name}")
    figure, axes = _subplots(6.5, 6)
    for layout in LAYOUTS:
        points = [
            (past[p.key]["median_ms"], p.ours["median_ms"], p.key[0])
            for p in chosen
            if p.key[2] == layout
        ]
        if not points:
            continue
        x, y, names = zip(*points, strict=True)
        axes.plot(x, y, "o", color=_LAYOUT_COLORS[layout], label=_LABELS[layout], markersize=5)
        for name, before, now in zip(names, x, y, strict=True):
            if abs(math.log2(now / before)) > 0.5:
                axes.annotate(name, (before, now), fontsize=7)
    ends = [f(f(axes.get_xlim()), f(axes.get_ylim())) for f in (min, max)]
    ends[0] = max(ends[0], 1e-4)
    axes.plot(ends, ends, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"before, ms ({_stamp(old)})")
    axes.set_ylabel(f"after, ms ({_stamp(new)})")
    axes.set_title(f"{pass_name}, {dtype}, {new['environment']['device']}")
    axes.legend(frameon=False)
    return _save(figure, path)


def _stamp(result: dict) -> str:
    return result["environment"].get("commit") or result["started"][:10]
