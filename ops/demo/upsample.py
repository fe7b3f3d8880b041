"""2x trilinear upsampling as one transposed convolution."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def trilinear_weight(channels: int = 1) -> Tensor:
    """Depthwise ``(channels, 1, 4, 4, 4)`` weight of 2x trilinear upsampling.

    With stride 2 and padding 1 an output voxel lies a quarter of a voxel from its nearest input
    voxel, which it takes by 3/4, and the next one by 1/4: the taps (1, 3, 3, 1) / 4 per axis.
    """
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    cube = torch.einsum("i,j,k->ijk", line, line, line)
    return cube.expand(channels, 1, 4, 4, 4).contiguous()


def upsample(volume: Tensor, weight: Tensor) -> Tensor:
    """``(batch, channels, D, H, W)`` at twice the resolution, by a direct call of the operator.

    `weight` is `trilinear_weight` for as many channels.
    """
    groups = weight.shape[0]
    # input, weight, bias, stride, padding, output_padding, groups
    return torch.ops.convt3d.forward(volume, weight, None, [2], [1], [0], groups)


def difference(volume: Tensor, upsampled: Tensor) -> float:
    """Largest difference from `F.interpolate`, but for the outermost voxels.

    There interpolation repeats the border voxel, while a convolution sees zeros beyond it.
    """
    expected = F.interpolate(volume, scale_factor=2, mode="trilinear", align_corners=False)
    inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))
    return (upsampled[inner] - expected[inner]).abs().max().item()
