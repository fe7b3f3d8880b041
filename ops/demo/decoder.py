"""A small 3-D decoder, trained under torch.compile to restore a scan from a coarse copy of it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from convt3d.demo.upsample import trilinear_weight, upsample
from convt3d.modules import ConvTranspose3d
from torch import Tensor, nn
from torch.nn import functional as F

SCALE = 2
PATCH = (12, 16, 16)  # coarse voxels
BATCH = 4
OPERATOR_CALLS = 3  # in one pass of the decoder


class Decoder(nn.Module):
    """Coarse volume ``(batch, 1, D, H, W)`` to ``(batch, 1, 2D, 2H, 2W)``.

    Trilinear upsampling plus what two learned transposed convolutions add to it.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv3d(1, channels, 3, padding=1)
        self.up = ConvTranspose3d(channels, channels // 2, 4, stride=2, padding=1)
        self.head = ConvTranspose3d(channels // 2, 1, 3, padding=1)
        self.register_buffer("trilinear", trilinear_weight())

    def forward(self, coarse: Tensor) -> Tensor:
        """Three calls of the operator: two modules and one direct."""
        features = F.gelu(self.embed(coarse))
        features = F.gelu(self.up(features))
        return upsample(coarse, self.trilinear) + self.head(features)


def coarsen(volume: Tensor) -> Tensor:
    """The mean over cubes of `SCALE` voxels."""
    return F.avg_pool3d(volume, SCALE)


def halves(volume: Tensor) -> tuple[Tensor, Tensor]:
    """The half to train on and the held-out half, cut in the middle of the width."""
    middle = volume.shape[-1] // 2
    return volume[..., :middle], volume[..., middle:]


def psnr(found: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, for a peak of 1."""
    return -10 * F.mse_loss(found, expected).log10().item()


def choose_backend() -> tuple[str, str | None]:
    """torch.compile's backend here, and a sentence if it cannot be inductor.

    inductor compiles C++ against Python's headers. It looks for g++ unless CXX names another
    compiler; this names one that is there.
    """
    names = (os.environ.get("CXX"), "g++", "clang++", "c++")
    compiler = next((name for name in names if name and shutil.which(name)), None)
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    if compiler is None:
        missing = "there is no C++ compiler (install g++)"
    elif not headers.exists():
        missing = f"{headers} is missing (install python3-dev or the like)"
    else:
        os.environ.setdefault("CXX", compiler)
        return "inductor", None
    return "aot_eager", f"torch.compile runs without inductor here, because {missing}"


def train(
    model: nn.Module, volume: Tensor, steps: int, backend: str, seed: int = 0
) -> Iterator[float]:
    """Fit `model` to patches of `volume`; yields the loss of every step.

    The model is compiled with ``fullgraph=True``: a graph break would raise.
    """
    generator = torch.Generator().manual_seed(seed)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=backend)
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    coarse = coarsen(volume)
    for _ in range(steps):
        coarse_patch, patch = _patches(coarse, volume, generator)
        loss = F.mse_loss(compiled(coarse_patch), patch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.item()


def _patches(coarse: Tensor, fine: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of random patches, each perhaps mirrored."""
    pairs = []
    for _ in range(BATCH):
        room = [size - patch for size, patch in zip(coarse.shape[2:], PATCH, strict=True)]
        start = [int(torch.randint(r + 1, (), generator=generator)) for r in room]
        flip = [axis for axis in (2, 3, 4) if torch.rand((), generator=generator) < 0.5]
        pair = (_cut(coarse, start, 1), _cut(fine, start, SCALE))
        pairs.append(tuple(part.flip(flip) for part in pair))
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def _cut(volume: Tensor, start: list[int], scale: int) -> Tensor:
    d, h, w = (
        slice(first * scale, (first + size) * scale)
        for first, size in zip(start, PATCH, strict=True)
    )
    return volume[:, :, d, h, w]
