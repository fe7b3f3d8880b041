"""The demo's PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from torch import Tensor

matplotlib.use("Agg")

VOXEL_ASPECT = 2.2 / 2.0  # a slice is thicker than a voxel is wide
HEAD = slice(24, 104)  # the part of the width that is not air
DETAIL = (slice(30, 78), slice(44, 84))  # height and width of the close-up


@dataclass
class Results:
    """What there is to show; volumes are ``(depth, height, width)`` on the CPU."""

    scan: Tensor
    upsampled: Tensor
    coarse: Tensor
    trilinear: Tensor
    decoded: Tensor
    losses: Sequence[float]
    trilinear_loss: float  # on the half that is trained on
    psnr_trilinear: float
    psnr_decoded: float


def draw(results: Results, path: Path) -> None:
    """Slices of what went in and came out, and the loss, as a PNG."""
    figure = Figure(figsize=(12, 11), layout="constrained")
    parts = figure.subfigures(3, 1, height_ratios=[1.05, 1.0, 0.75], squeeze=False)
    top, middle, bottom = parts[:, 0]
    _draw_upsampling(top, results)
    _draw_decoder(middle, results)
    _draw_loss(bottom, results.losses, results.trilinear_loss)
    figure.savefig(path, dpi=110)


def _draw_upsampling(figure: SubFigure, results: Results) -> None:
    figure.suptitle(
        "torch.ops.convt3d.forward: 2x upsampling with trilinear weights", fontweight="bold"
    )
    axes = figure.subplot_mosaic(
        [["input", "output", "side input"], ["input", "output", "side output"]],
        width_ratios=[1, 1, 1.9],
    )
    depth, width = results.scan.shape[0] // 2, results.scan.shape[2] // 2
    rows, columns = DETAIL
    close_up = results.scan[depth, rows, columns]
    fine = results.upsampled[2 * depth, _doubled(rows), _doubled(columns)]
    side, fine_side = results.scan[:, :, width], results.upsampled[:, :, 2 * width]
    _show(axes["input"], close_up, f"axial detail, input\n{_size(results.scan)}")
    _show(axes["output"], fine, f"axial detail, output\n{_size(results.upsampled)}")
    _show(axes["side input"], side, "sagittal, input", VOXEL_ASPECT)
    _show(axes["side output"], fine_side, "sagittal, output", VOXEL_ASPECT)


def _draw_decoder(figure: SubFigure, results: Results) -> None:
    figure.suptitle(
        "2x decoder of convt3d.ConvTranspose3d, trained under torch.compile; "
        "PSNR of the held-out half",
        fontweight="bold",
    )
    axes = figure.subplots(1, 4)
    depth = results.scan.shape[0] // 2
    head = slice(HEAD.start // 2, HEAD.stop // 2)
    _show(axes[0], results.coarse[depth // 2, :, head], f"input\n{_size(results.coarse)}")
    for axis, volume, title in (
        (axes[1], results.trilinear, f"F.interpolate\n{results.psnr_trilinear:.1f} dB"),
        (axes[2], results.decoded, f"decoder\n{results.psnr_decoded:.1f} dB"),
        (axes[3], results.scan, f"original\n{_size(results.scan)}"),
    ):
        _show(axis, volume[depth, :, HEAD], title)
    middle = results.scan.shape[2] / 2 - HEAD.start - 0.5
    axes[2].axvline(middle, color="tab:orange", linestyle="--", linewidth=1)
    corners = axes[2].transAxes
    style = {"color": "tab:orange", "fontsize": 9, "va": "top", "transform": corners}
    axes[2].text(0.02, 0.98, "trained on", ha="left", **style)
    axes[2].text(0.98, 0.98, "held out", ha="right", **style)


def _draw_loss(figure: SubFigure, losses: Sequence[float], trilinear: float) -> None:
    axis = figure.subplots()
    steps = range(1, len(losses) + 1)
    axis.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="step")
    axis.plot(steps, _smooth(losses), color="tab:blue", linewidth=2, label="running mean")
    axis.axhline(trilinear, color="tab:gray", linestyle=":", label="F.interpolate, whole half")
    axis.set(yscale="log", xlabel="training step", ylabel="mean squared error")
    axis.set_xlim(1, len(losses))
    axis.set_title("loss on random patches of the half that is trained on", fontsize=10)
    axis.grid(which="both", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)


def _show(axis: Axes, image: Tensor, title: str, aspect: float = 1.0) -> None:
    axis.imshow(image.numpy(), cmap="gray", origin="lower", vmin=0, vmax=0.9, aspect=aspect)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def _smooth(losses: Sequence[float], weight: float = 0.92) -> list[float]:
    """Exponential running mean, free of the bias of its start."""
    total, mass, smooth = 0.0, 0.0, []
    for loss in losses:
        total = weight * total + (1 - weight) * loss
        mass = weight * mass + (1 - weight)
        smooth.append(total / mass)
    return smooth


def _doubled(part: slice) -> slice:
    return slice(2 * part.start, 2 * part.stop)


def _size(volume: Tensor) -> str:
    return " x ".join(str(n) for n in volume.shape)
