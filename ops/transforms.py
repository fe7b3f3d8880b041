"""``torch.vmap``: the mapped axis becomes part of the problem, so that one call serves all of it.

Which part depends on what is mapped (the third tensor of a problem is its result):

    input and output (weight is one for all)        the batch
    weight and output (input is one for all)        the output channels of each group
    weight and input (grad_output is one for all)   the input channels of each group
    all three (ensembles, per-sample gradients)     the groups

The results are tensors of the outer level: vmaps nest, and derivatives stand on either side.
"""

from __future__ import annotations

from typing import Any

import torch
from convt3d.meta.shape import (
    check_tensors,
    forward_problem,
    grad_input_problem,
    grad_weight_problem,
)
from torch import Tensor

_forward = torch.ops.convt3d.forward.default
_grad_input = torch.ops.convt3d.grad_input.default
_grad_weight = torch.ops.convt3d.grad_weight.default

_DEFAULTS = (None, (1, 1, 1), (0, 0, 0), (0, 0, 0), 1, (1, 1, 1))


def _size(tensor: Tensor, axis: int | None) -> list[int]:
    """The size of one sample, without the mapped axis."""
    return [size for dim, size in enumerate(tensor.shape) if dim != axis]


def _fold(tensor: Tensor, dim: int, blocks: int = 1) -> Tensor:
    """Axis 0 folded into ``dim`` of the sample, inside of each of the ``blocks`` there."""
    apart = tensor.unflatten(dim + 1, (blocks, tensor.shape[dim + 1] // blocks))
    return apart.movedim(0, dim + 1).flatten(dim, dim + 2)


def _unfold(tensor: Tensor, mapped: int, dim: int, blocks: int = 1) -> Tensor:
    """The inverse of ``_fold``: the mapped axis of that size comes back as axis 0."""
    apart = tensor.unflatten(dim, (blocks, mapped, tensor.shape[dim] // (blocks * mapped)))
    return apart.movedim(dim + 1, 0).flatten(dim + 1, dim + 2)


def _fold_batch(tensor: Tensor) -> Tensor:
    # Of unbatched samples the mapped axis is the batch.
    return tensor if tensor.dim() == 5 else tensor.flatten(0, 1)


def _unfold_batch(tensor: Tensor, mapped: int, batched: bool) -> Tensor:
    return tensor.unflatten(0, (mapped, tensor.shape[0] // mapped)) if batched else tensor


def _first(tensor: Tensor, axis: int | None) -> Tensor:
    return tensor if axis is None else tensor.movedim(axis, 0)


def _map_forward(info: Any, in_dims: tuple[Any, ...], input: Tensor, weight: Tensor, *rest: Any):
    given: list[Any] = [*rest, *_DEFAULTS[len(rest) :]]
    bias, geometry = given[0], given[1:]
    stride, padding, output_padding, groups, dilation = geometry
    of_input, of_weight, of_bias = (*in_dims, None)[:3]
    # A bad call is refused in terms of one sample, not of the problem it would be folded into.
    check_tensors("input", input, weight=weight, bias=bias)
    forward_problem(
        _size(input, of_input),
        _size(weight, of_weight),
        None if bias is None else _size(bias, of_bias),
        *geometry,
    )
    mapped, channels = info.batch_size, input.dim() - 4 - (of_input is not None)
    x, w = _first(input, of_input), _first(weight, of_weight)
    added = None if bias is None else _first(bias, of_bias)
    if of_weight is None:
        inside = added if of_bias is None else None
        if of_input is None:
            y = _forward(x, w, inside, *geometry).unsqueeze(0)
        else:
            y = _unfold_batch(_forward(_fold_batch(x), w, inside, *geometry), mapped, channels == 1)
        if added is not None and of_bias is not None:
            y = y + added.view(mapped, *[1] * channels, -1, 1, 1, 1)
        return y, 0
    if added is not None and of_bias is None:
        added = added.expand(mapped, -1)
    if of_input is None:
        added = None if added is None else _fold(added, 0, groups)
        return _unfold(_forward(x, _fold(w, 1), added, *geometry), mapped, channels, groups), 0
    geometry = [stride, padding, output_padding, mapped * groups, dilation]
    added = None if added is None else added.flatten()
    y = _forward(_fold(x, channels), _fold(w, 0), added, *geometry)
    return _unfold(y, mapped, channels), 0


def _map_grad_input(
    info: Any, in_dims: tuple[Any, ...], grad_output: Tensor, weight: Tensor, *geometry: Any
):
    of_grad, of_weight = in_dims[:2]
    check_tensors("grad_output", grad_output, weight=weight)
    grad_input_problem(_size(grad_output, of_grad), _size(weight, of_weight), *geometry)
    stride, padding, output_padding, groups, dilation = geometry
    mapped, channels = info.batch_size, grad_output.dim() - 4 - (of_grad is not None)
    y, w = _first(grad_output, of_grad), _first(weight, of_weight)
    if of_weight is None:
        x = _grad_input(_fold_batch(y), w, *geometry)
        return _unfold_batch(x, mapped, channels == 1), 0
    if of_grad is None:
        x = _grad_input(y, _fold(w, 0, groups), *geometry)
        return _unfold(x, mapped, channels, groups), 0
    geometry = (stride, padding, output_padding, mapped * groups, dilation)
    x = _grad_input(_fold(y, channels), _fold(w, 0), *geometry)
    return _unfold(x, mapped, channels), 0


def _map_grad_weight(
    info: Any, in_dims: tuple[Any, ...], grad_output: Tensor, input: Tensor, *geometry: Any
):
    of_grad, of_input = in_dims[:2]
    check_tensors("grad_output", grad_output, input=input)
    grad_weight_problem(_size(grad_output, of_grad), _size(input, of_input), *geometry)
    stride, padding, output_padding, groups, dilation = geometry
    mapped, channels = info.batch_size, grad_output.dim() - 4 - (of_grad is not None)
    y, x = _first(grad_output, of_grad), _first(input, of_input)
    if of_input is None:
        return _unfold(_grad_weight(_fold(y, channels, groups), x, *geometry), mapped, 1), 0
    if of_grad is None:
        w = _grad_weight(y, _fold(x, channels, groups), *geometry)
        return _unfold(w, mapped, 0, groups), 0
    geometry = (stride, padding, output_padding, mapped * groups, dilation)
    return _unfold(_grad_weight(_fold(y, channels), _fold(x, channels), *geometry), mapped, 0), 0


torch.library.register_vmap("convt3d::forward", _map_forward)
torch.library.register_vmap("convt3d::grad_input", _map_grad_input)
torch.library.register_vmap("convt3d::grad_weight", _map_grad_weight)
