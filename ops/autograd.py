"""Derivatives. The operators are bilinear and closed under differentiation:

    forward(x, w)       d/dx = grad_input(g, w)    d/dw = grad_weight(g, x)    d/db = sum of g
    grad_input(y, w)    d/dy = forward(g, w)       d/dw = grad_weight(y, g)
    grad_weight(y, x)   d/dy = forward(x, g)       d/dx = grad_input(y, g)

with g the gradient of the result (design: adjoint of a bilinear map, one argument held fixed), so
that derivatives of any order stay among the three. For complex tensors the fixed argument is
conjugated, as PyTorch's convention for gradients demands.
"""

from __future__ import annotations

from typing import Any

import torch
from convt3d.meta.shape import suggests_channels_last_3d
from torch import Tensor

_forward = torch.ops.convt3d.forward.default
_grad_input = torch.ops.convt3d.grad_input.default
_grad_weight = torch.ops.convt3d.grad_weight.default


def _needs(ctx: Any, position: int) -> bool:
    # Trailing arguments that the caller left out are missing here.
    return position < len(ctx.needs_input_grad) and ctx.needs_input_grad[position]


def _save(ctx: Any, first: Tensor, second: Tensor, geometry: tuple[Any, ...]) -> None:
    """Saves of the two operands what the derivative by the other one needs."""
    ctx.save_for_backward(
        first if _needs(ctx, 1) else None,
        second if _needs(ctx, 0) else None,
    )
    ctx.geometry = geometry
    ctx.channels_last = suggests_channels_last_3d(first) or suggests_channels_last_3d(second)


def _in_format(grad: Tensor, channels_last: bool) -> Tensor:
    """``grad`` in the memory format of the result it belongs to.

    Results take their format from the operands they see; this makes gradients follow input and
    weight whatever format the consumer of the output left in ``grad``. Of an unbatched problem only
    the weight has a format, see ``_weight_gradient``.
    """
    if suggests_channels_last_3d(grad) == channels_last or grad.dim() == 4:
        return grad
    return grad.clone(
        memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format
    )


def _weight_gradient(ctx: Any, grad_output: Tensor, input: Tensor) -> Tensor:
    """``grad_weight`` in the weight's format, of which two unbatched activations cannot tell."""
    grad = _grad_weight(grad_output, input, *ctx.geometry)
    if grad_output.dim() == 4 and ctx.channels_last:
        return grad.clone(memory_format=torch.channels_last_3d)
    return grad


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, _, *geometry = inputs
    _save(ctx, input, weight, tuple(geometry))


def _backward_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    grad = _in_format(grad, ctx.channels_last)
    by_input = by_weight = by_bias = None
    if _needs(ctx, 0):
        by_input = _grad_input(grad, weight.conj(), *ctx.geometry)
    if _needs(ctx, 1):
        by_weight = _weight_gradient(ctx, grad, input.conj())
    if _needs(ctx, 2):
        by_bias = grad.sum([dim for dim in range(grad.dim()) if dim != grad.dim() - 4])
    return by_input, by_weight, by_bias, None, None, None, None, None


def _setup_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, *geometry = inputs
    _save(ctx, first, second, tuple(geometry))


def _as_forward(x: Tensor, w: Tensor, geometry: tuple[Any, ...]) -> Tensor:
    return _forward(x, w, None, *geometry)


def _backward_grad_input(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_output, weight = ctx.saved_tensors
    grad = _in_format(grad, ctx.channels_last)
    by_grad_output = by_weight = None
    if _needs(ctx, 0):
        by_grad_output = _as_forward(grad, weight.conj(), ctx.geometry)
    if _needs(ctx, 1):
        by_weight = _weight_gradient(ctx, grad_output.conj(), grad)
    return by_grad_output, by_weight, None, None, None, None, None


def _backward_grad_weight(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grad_output, input = ctx.saved_tensors
    grad = _in_format(grad, ctx.channels_last)
    by_grad_output = by_input = None
    if _needs(ctx, 0):
        by_grad_output = _as_forward(input.conj(), grad, ctx.geometry)
    if _needs(ctx, 1):
        by_input = _grad_input(grad_output.conj(), grad, *ctx.geometry)
    return by_grad_output, by_input, None, None, None, None, None


torch.library.register_autograd("convt3d::forward", _backward_forward, setup_context=_setup_forward)
torch.library.register_autograd(
    "convt3d::grad_input", _backward_grad_input, setup_context=_setup_gradient
)
torch.library.register_autograd(
    "convt3d::grad_weight", _backward_grad_weight, setup_context=_setup_gradient
)
