"""Routes PyTorch's 3-D transposed convolution to convt3d, for code that cannot be changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from convt3d.convert import why_not
from convt3d.functional import conv_transpose3d
from torch import Tensor
from torch.overrides import TorchFunctionMode


class override(TorchFunctionMode):
    """In ``with convt3d.override():``, 3-D transposed convolutions run on convt3d.

    Covers ``F.conv_transpose3d``, ``torch.convolution(..., transposed=True)``,
    ``torch.ops.aten.conv_transpose3d`` and ``torch.ops.aten.convolution``, called by functions,
    modules and code under ``torch.compile`` or ``torch.export``. Other convolutions, and tensors
    that convt3d has no kernels for, stay with PyTorch.

    It holds for the current thread, may be nested, and ends with the block, also by an exception.
    Backward passes use what the forward pass used, wherever they run; with activation
    checkpointing, which repeats the forward pass, keep them inside the block. Not seen are calls
    made from C++: TorchScript and AOTInductor packages.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace `func` where it is a 3-D transposed convolution."""
        kwargs = kwargs or {}
        # Comparisons one by one: torch.compile traces this.
        if (
            func is torch.conv_transpose3d
            or func is torch.ops.aten.conv_transpose3d
            or func is torch.ops.aten.conv_transpose3d.input
        ):
            return _conv_transpose3d(func, *args, **kwargs)
        if (
            func is torch.convolution
            or func is torch.ops.aten.convolution
            or func is torch.ops.aten.convolution.default
        ):
            return _convolution(func, *args, **kwargs)
        return func(*args, **kwargs)


def _conv_transpose3d(
    func: Callable[..., Tensor], input: Tensor, weight: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    if _is_ours(input, weight):
        return conv_transpose3d(input, weight, *args, **kwargs)
    return func(input, weight, *args, **kwargs)


def _convolution(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    **kwargs: Any,
) -> Tensor:
    # This function serves 1-D and 2-D too, by the input's size, and has no unbatched form.
    # `kwargs` can hold `out`.
    if transposed and input.dim() == 5 and not kwargs and _is_ours(input, weight):
        return conv_transpose3d(
            input, weight, bias, stride, padding, output_padding, groups, dilation
        )
    return func(
        input, weight, bias, stride, padding, dilation, transposed, output_padding, groups, **kwargs
    )


def _is_ours(input: Tensor, weight: Tensor) -> bool:
    return why_not(input) is None and why_not(weight) is None
