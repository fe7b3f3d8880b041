"""Fake functions: what ``torch.compile``, ``torch.export`` and meta tensors see of the operators.

Each repeats the kernels' checks and gives an empty tensor with the size and strides of the real
result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from convt3d.meta.shape import (
    check_tensors,
    dense_strides,
    forward_problem,
    grad_input_problem,
    grad_weight_problem,
    suggests_channels_last_3d,
)
from torch import Tensor


def _empty(size: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
    channels_last = suggests_channels_last_3d(first) or suggests_channels_last_3d(second)
    return first.new_empty_strided(size, dense_strides(size, channels_last))


@torch.library.register_fake("convt3d::forward")
def forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """Empty output of ``convt3d::forward``."""
    check_tensors("input", input, weight=weight, bias=bias)
    bias_size = None if bias is None else bias.shape
    problem = forward_problem(
        input.shape, weight.shape, bias_size, stride, padding, output_padding, groups, dilation
    )
    return _empty(problem.output_size(), input, weight)


@torch.library.register_fake("convt3d::grad_input")
def grad_input(
    grad_output: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """Empty result of ``convt3d::grad_input``."""
    check_tensors("grad_output", grad_output, weight=weight)
    problem = grad_input_problem(
        grad_output.shape, weight.shape, stride, padding, output_padding, groups, dilation
    )
    return _empty(problem.input_size(), grad_output, weight)


@torch.library.register_fake("convt3d::grad_weight")
def grad_weight(
    grad_output: Tensor,
    input: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    """Empty result of ``convt3d::grad_weight``."""
    check_tensors("grad_output", grad_output, input=input)
    problem = grad_weight_problem(
        grad_output.shape, input.shape, stride, padding, output_padding, groups, dilation
    )
    return _empty(problem.weight_size(), grad_output, input)
