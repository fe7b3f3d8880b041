"""Drop-ins for ``torch.nn.ConvTranspose3d`` and ``torch.nn.LazyConvTranspose3d``.

They are subclasses of their twins, so constructor, initialisation, ``state_dict``, ``extra_repr``,
pickling and ``isinstance`` are PyTorch's own; only the computation is convt3d's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from convt3d.functional import conv_transpose3d
from torch import Tensor

if TYPE_CHECKING:
    _Base = torch.nn.ConvTranspose3d
else:
    _Base = object


class _Forward(_Base):
    # Shared by both classes: a lazy module's first call runs the lazy class's forward.
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose3d")
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            3,
            self.dilation,  # type: ignore[arg-type]
        )
        return conv_transpose3d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


class ConvTranspose3d(_Forward, torch.nn.ConvTranspose3d):
    """``torch.nn.ConvTranspose3d`` on convt3d's kernels; see there for arguments and shapes.

    ``forward(input, output_size=None)`` takes ``(batch, in_channels, depth, height, width)`` or
    the same without ``batch``; ``output_size`` has 3 spatial entries or all of them.
    """


class LazyConvTranspose3d(_Forward, torch.nn.LazyConvTranspose3d):  # type: ignore[misc]
    """``ConvTranspose3d`` whose ``in_channels`` is read from the first input."""

    cls_to_become = ConvTranspose3d  # type: ignore[assignment]
