"""The functional form, with the signature of ``torch.nn.functional.conv_transpose3d``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """3-D transposed convolution; a drop-in for ``torch.nn.functional.conv_transpose3d``.

    Args:
        input: ``(batch, in_channels, depth, height, width)``, or unbatched without ``batch``.
        weight: ``(in_channels, out_channels / groups, kernel_depth, kernel_height,
            kernel_width)``, of the dtype and on the device of ``input``.
        bias: ``(out_channels,)`` or None.
        stride, padding, output_padding, dilation: one int for all axes or one per axis
            (depth, height, width); ``output_padding`` is smaller than ``stride`` or ``dilation``.
        groups: number of blocks of channels that are convolved separately.

    Returns:
        ``(batch, out_channels, ...)`` with, per axis, ``(input - 1) * stride - 2 * padding +
        dilation * (kernel - 1) + output_padding + 1`` positions; channels_last_3d when ``input``
        or ``weight`` is, else contiguous.

    dtypes: float16, bfloat16, float32, float64, complex32, complex64, complex128; on CPU also
    int64. Half types are accumulated in float32.

    Raises:
        RuntimeError: where sizes, arguments, dtypes or devices do not fit, with PyTorch's texts.
    """
    return torch.ops.convt3d.forward(
        input, weight, bias, stride, padding, output_padding, groups, dilation
    )
