"""Draws docs/how_it_works.svg: `python docs/how_it_works.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

matplotlib.rcParams["svg.hashsalt"] = "convt3d"  # the same file from the same drawing

INPUT, RESIDUES = "#c9d7ec", ("#f6b26b", "#93c47d")
STRIDE, KERNEL, PADDING = 2, 3, 1
INPUTS, OUTPUTS = 4, 7


def box(axis: Axes, x: float, y: float, text: str, color: str, w: float = 1.0, h: float = 0.8):
    """A rectangle around its centre, with a text in it."""
    axis.add_patch(Rectangle((x - w / 2, y - h / 2), w, h, facecolor=color, edgecolor="black"))
    axis.text(x, y, text, ha="center", va="center", fontsize=11)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
    """A straight arrow between two points."""
    axis.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=color, linewidth=1.3)
    )


def draw_axis(axis: Axes) -> None:
    """Kernel 3, stride 2, padding 1 along one axis: which input meets which tap where."""
    top, bottom, step = 4.0, 0.0, 1.15
    for i in range(INPUTS):
        box(axis, step * STRIDE * i, top, f"$x_{i}$", INPUT)
    for o in range(OUTPUTS):
        residue = (o + PADDING) % STRIDE
        box(axis, step * o, bottom, f"$y_{o}$", RESIDUES[residue])
    for i in range(INPUTS):
        for k in range(KERNEL):
            o = STRIDE * i - PADDING + k
            if not 0 <= o < OUTPUTS:
                continue
            residue = (o + PADDING) % STRIDE
            start, end = (step * STRIDE * i, top - 0.4), (step * o, bottom + 0.42)
            arrow(axis, start, end, RESIDUES[residue])
            x, y = (0.35 * start[n] + 0.65 * end[n] for n in (0, 1))
            axis.text(x, y, f"$w_{k}$", fontsize=10, ha="center", va="center",
                      bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8})  # fmt: skip
    axis.text(-0.7, -1.15, "residue 1:  $y_{2q} = w_1 x_q$", fontsize=11)
    axis.text(3.2, -1.15, "residue 0:  $y_{2q+1} = w_2 x_q + w_0 x_{q+1}$", fontsize=11)
    axis.set_title(
        "One axis, kernel 3, stride 2, padding 1.\nOutputs of a residue share their taps; "
        "no zero is inserted or multiplied.",
        fontsize=12,
    )
    axis.set(xlim=(-1, 8.2), ylim=(-1.6, 4.9), aspect="equal")


def draw_tile(axis: Axes) -> None:
    """The tensor-core kernels: tile, product, interleaved tile."""
    # Operand tile with its halo.
    for row in range(5):
        for column in range(5):
            halo = row == 4 or column == 4
            axis.add_patch(
                Rectangle((column * 0.5, 1.2 + row * 0.5), 0.5, 0.5, edgecolor="black",
                          facecolor="white" if halo else INPUT)
            )  # fmt: skip
    axis.text(1.25, 4.05, "input tile + halo,\nread once", ha="center", fontsize=11)
    axis.text(
        1.25,
        0.3,
        "rows: positions\ndepth: channels\n x shifts",
        ha="center",
        va="center",
        fontsize=10,
    )
    # Packed weights, one column block per residue.
    for n in range(8):
        axis.add_patch(
            Rectangle((4.2 + 0.35 * n, 1.2), 0.35, 2.5, edgecolor="black",
                      facecolor=RESIDUES[n % 2], alpha=0.55 + 0.06 * (n // 2))
        )  # fmt: skip
    axis.text(5.6, 4.05, "packed weights,\nresidues side by side", ha="center", fontsize=11)
    axis.text(
        5.6, 0.3, "columns: 8 residues\nx output channels", ha="center", va="center", fontsize=10
    )
    # Output tile, residues interleaved.
    for row in range(8):
        for column in range(8):
            color = RESIDUES[column % 2]
            axis.add_patch(
                Rectangle((8.8 + column * 0.31, 1.2 + row * 0.31), 0.31, 0.31, edgecolor="black",
                          facecolor=color, alpha=0.6 if row % 2 else 0.95, linewidth=0.6)
            )  # fmt: skip
    axis.text(10.05, 4.05, "output tile,\nwritten in whole lines", ha="center", fontsize=11)
    axis.text(10.05, 0.3, "residues\ninterleaved", ha="center", va="center", fontsize=10)
    axis.text(3.35, 2.45, "x", ha="center", va="center", fontsize=22)
    arrow(axis, (7.35, 2.45), (8.55, 2.45), "black")
    axis.text(7.9, 2.75, "tensor\ncores", ha="center", fontsize=10)
    axis.set_title(
        "In 3-D, stride 2 has 8 residues. All of them come from\none matrix product on the GPU.",
        fontsize=12,
    )
    axis.set(xlim=(-0.3, 11.5), ylim=(-0.6, 5.0), aspect="equal")


def main() -> None:
    """Write the picture next to this file, or to the path given."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg")
    figure = Figure(figsize=(13.5, 5.0))
    figure.set_layout_engine("constrained", h_pad=0.15)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    for axis in (left, right):
        axis.set_axis_off()
    draw_axis(left)
    draw_tile(right)
    metadata = {"Date": None} if target.suffix == ".svg" else None
    figure.savefig(target, metadata=metadata, facecolor="white", dpi=80)


if __name__ == "__main__":
    main()
