"""Calls that must be refused, each on tensors from a factory: real, meta or fake ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import convt3d  # noqa: F401 (defines the operators)
import torch
from torch import Tensor


class Make(Protocol):
    """Makes a tensor of a size and dtype."""

    def __call__(self, *size: int, dtype: torch.dtype = torch.float32) -> Tensor: ...


Call = Callable[[Make], Tensor]
_ops = torch.ops.convt3d


def _input(make: Make) -> Tensor:
    return make(2, 4, 5, 6, 7)


def _weight(make: Make) -> Tensor:
    return make(4, 3, 3, 3, 3)


def _forward(*sizes: tuple[int, ...], **options: object) -> Call:
    return lambda make: _ops.forward(*(make(*size) for size in sizes), **options)


def _with(**options: object) -> Call:
    return lambda make: _ops.forward(_input(make), _weight(make), **options)


X, W = (2, 4, 5, 6, 7), (4, 3, 3, 3, 3)

FORWARD: dict[str, Call] = {
    "input_3d": _forward((4, 5, 6), W),
    "input_6d": _forward((1, 1, 4, 5, 6, 7), W),
    "input_empty_axis": _forward((2, 4, 0, 6, 7), W),
    "weight_4d": _forward(X, (4, 3, 3, 3)),
    "weight_empty_kernel": _forward(X, (4, 3, 0, 3, 3)),
    "weight_no_out_channels": _forward(X, (4, 0, 3, 3, 3)),
    "groups_zero": _with(groups=0),
    "groups_negative": _with(groups=-1),
    "stride_zero": _with(stride=[1, 0, 1]),
    "stride_negative": _with(stride=-2),
    "padding_negative": _with(padding=[0, 0, -1]),
    "output_padding_negative": _with(output_padding=-1),
    "dilation_zero": _with(dilation=[1, 1, 0]),
    "stride_of_two": _with(stride=[1, 2]),
    "padding_of_four": _with(padding=[1, 1, 1, 1]),
    "output_padding_of_two": _with(output_padding=[0, 0]),
    "dilation_of_two": _with(dilation=[1, 1]),
    "stride_of_none": _with(stride=[]),
    "groups_do_not_divide": _with(groups=3),
    "groups_above_channels": _with(groups=8),
    "channels_differ": _forward((2, 5, 5, 6, 7), W),
    "channels_differ_unbatched": _forward((5, 5, 6, 7), W),
    "bias_2d": _forward(X, W, (3, 1)),
    "bias_too_long": _forward(X, W, (4,)),
    "bias_ignores_groups": _forward(X, W, (3,), groups=2),
    "output_padding_too_large": _with(output_padding=1),
    "output_padding_too_large_on_one_axis": _with(stride=[2, 2, 1], output_padding=[1, 1, 1]),
    "output_too_small": _with(padding=[1, 1, 5]),
    "output_too_small_unbatched": _forward((4, 1, 1, 1), W, padding=2),
    "weight_of_other_dtype": lambda make: _ops.forward(
        _input(make), make(4, 3, 3, 3, 3, dtype=torch.float64)
    ),
    "bias_of_other_dtype": lambda make: _ops.forward(
        _input(make), _weight(make), make(3, dtype=torch.float16)
    ),
    "int32": lambda make: _ops.forward(make(*X, dtype=torch.int32), make(*W, dtype=torch.int32)),
    "bool": lambda make: _ops.forward(make(*X, dtype=torch.bool), make(*W, dtype=torch.bool)),
    "float8": lambda make: _ops.forward(
        make(*X, dtype=torch.float8_e4m3fn), make(*W, dtype=torch.float8_e4m3fn)
    ),
}

_GEOMETRY = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}


def _gradient(name: str, *sizes: tuple[int, ...], **options: object) -> Call:
    operator = getattr(_ops, name)
    return lambda make: operator(*(make(*size) for size in sizes), **(_GEOMETRY | options))


GRADIENTS: dict[str, Call] = {
    "grad_input_3d": _gradient("grad_input", (3, 7, 8), W),
    "grad_input_weight_4d": _gradient("grad_input", (2, 3, 7, 8, 9), (4, 3, 3, 3)),
    "grad_input_groups": _gradient("grad_input", (2, 3, 7, 8, 9), W, groups=3),
    "grad_input_channels": _gradient("grad_input", (2, 4, 7, 8, 9), W),
    "grad_input_too_small": _gradient("grad_input", (2, 3, 2, 8, 9), W),
    "grad_input_between_strides": _gradient("grad_input", (2, 3, 7, 8, 9), W, stride=2),
    "grad_input_output_padding": _gradient("grad_input", (2, 3, 7, 8, 9), W, output_padding=1),
    "grad_input_stride": _gradient("grad_input", (2, 3, 7, 8, 9), W, stride=0),
    "grad_input_dtype": lambda make: _ops.grad_input(
        make(2, 3, 7, 8, 9), make(*W, dtype=torch.bfloat16), 1, 0, 0, 1, 1
    ),
    "grad_weight_ranks": _gradient("grad_weight", (3, 7, 8, 9), X),
    "grad_weight_batches": _gradient("grad_weight", (1, 3, 7, 8, 9), X),
    "grad_weight_groups": _gradient("grad_weight", (2, 3, 7, 8, 9), X, groups=2),
    "grad_weight_no_kernel": _gradient("grad_weight", (2, 3, 4, 8, 9), X),
    "grad_weight_between_taps": _gradient("grad_weight", (2, 3, 8, 8, 9), X, dilation=2),
    "grad_weight_padding": _gradient("grad_weight", (2, 3, 7, 8, 9), X, padding=-1),
    "grad_weight_dtype": lambda make: _ops.grad_weight(
        make(2, 3, 7, 8, 9), make(*X, dtype=torch.float64), 1, 0, 0, 1, 1
    ),
    "grad_weight_int32": lambda make: _ops.grad_weight(
        make(2, 3, 7, 8, 9, dtype=torch.int32), make(*X, dtype=torch.int32), 1, 0, 0, 1, 1
    ),
}

ALL = FORWARD | GRADIENTS


def refusal(call: Call, make: Make) -> str:
    """Type and text of the error that a call raises; its first line."""
    try:
        call(make)
    except (RuntimeError, ValueError, TypeError) as error:
        text = str(error).splitlines()
        return f"{type(error).__name__}: {text[0] if text else ''}"
    raise AssertionError("the call was not refused")
