"""Derivatives. The operators are bilinear and closed under differentiation:

    forward(x, w)       d/dx = grad_input(g, w)    d/dw = grad_weight(g, x)    d/db = sum of g
    grad_input(y, w)    d/dy = forward(g, w)       d/dw = grad_weight(y, g)
    grad_weight(y, x)   d/dy = forward(x, g)       d/dx = grad_input(y, g)

with g the gradient of the result (design: adjoint of a bilinear map, one argument held fixed), so
that derivatives of any order stay among the three. For complex tensors the fixed argument is
conjugated, as PyTorch's convention for gradients demands. In forward mode the tangent of a result
is the operator itself with one operand replaced by its tangent, summed over the operands.

``torch.library.register_autograd`` knows no forward mode and would let ``torch.func.jvp`` return
zeros. So an ``autograd.Function`` with a ``jvp`` stands behind the Autograd dispatch key instead,
and calls the operator again below that key, which is where the other transforms take over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from convt3d.meta.shape import suggests_channels_last_3d
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad

# Of the sum that is a bias' gradient (measured on an H200): elements from which on two steps pay,
# parts of the first and the channels that fill its lines, and the dtypes that carry sums of halves.
_LARGE = 1 << 23
_MOST_PARTS = 256
_FEW_CHANNELS = 16
_CARRIED = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}

_forward = torch.ops.convt3d.forward.default
_grad_input = torch.ops.convt3d.grad_input.default
_grad_weight = torch.ops.convt3d.grad_weight.default

_library = torch.library.Library("convt3d", "IMPL")  # the kernels live as long as this object


def _below_autograd(operator: Any, keyset: Any, *arguments: Any) -> Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def _may_have_tangents() -> bool:
    # Whether a tensor has one cannot be asked for cheaply. A compiled `torch.func.jvp` enters its
    # dual level past the count that `forward_ad` keeps.
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _needs_derivative(*tensors: Tensor | None) -> bool:
    return _may_have_tangents() or (
        torch.is_grad_enabled() and torch._C._any_requires_grad(*tensors)
    )


def _apply(function: Any, operator: Any, keyset: Any, *arguments: Any) -> Tensor:
    """``function.apply`` at the one level of ``torch.func`` whose turn it is, if there are any."""
    # `Function.apply` would look for levels, and run all of them, which is the dispatcher's task.
    apply = super(torch.autograd.Function, function).apply
    if not torch._C._are_functorch_transforms_active():
        return apply(partial(_below_autograd, operator, keyset), *arguments)
    backward, forward = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()

    def below(*arguments: Any) -> Tensor:
        # A Function's forward runs with both modes off; the outer levels have yet to differentiate.
        with torch.set_grad_enabled(backward), forward_ad._set_fwd_grad_enabled(forward):
            return _below_autograd(operator, keyset, *arguments)

    with enable_single_level_autograd_function():
        return apply(below, *arguments)


def _derivative(operator: Any, first: Tensor, second: Tensor, *rest: Any) -> Tensor:
    """The operator on two tensors, past the Python of its Autograd kernel if that can be.

    That Python takes a third of the time that the CPU needs for an operator.
    """
    if torch.compiler.is_compiling() or _needs_derivative(first, second):
        return operator(first, second, *rest)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(first, second, *rest)


def _save(ctx: Any, first: Tensor, second: Tensor, geometry: tuple[Any, ...]) -> None:
    """Saves of the two operands what the derivative by the other one needs."""
    ctx.save_for_backward(
        first if ctx.needs_input_grad[2] else None,
        second if ctx.needs_input_grad[1] else None,
    )
    if _may_have_tangents():
        ctx.save_for_forward(first, second)
    ctx.geometry = geometry
    ctx.channels_last = suggests_channels_last_3d(first) or suggests_channels_last_3d(second)


def _clone(tensor: Tensor, channels_last: bool) -> Tensor:
    if not channels_last:
        return tensor.clone(memory_format=torch.contiguous_format)
    # As a contiguous clone of a permuted view: vmap refuses to clone into channels_last_3d.
    permuted = tensor.permute(0, 2, 3, 4, 1).clone(memory_format=torch.contiguous_format)
    return permuted.permute(0, 4, 1, 2, 3)


def _in_format(grad: Tensor, channels_last: bool) -> Tensor:
    """``grad`` in the memory format of the result it belongs to.

    Results take their format from the operands they see; this makes gradients follow input and
    weight whatever format the consumer of the output left in ``grad``. Of an unbatched problem only
    the weight has a format, see ``_weight_gradient``.
    """
    if suggests_channels_last_3d(grad) == channels_last or grad.dim() == 4:
        return grad
    return _clone(grad, channels_last)


def _weight_gradient(ctx: Any, grad_output: Tensor, input: Tensor) -> Tensor:
    """``grad_weight`` in the weight's format, of which two unbatched activations cannot tell."""
    grad = _derivative(_grad_weight, grad_output, input, *ctx.geometry)
    return _clone(grad, True) if grad_output.dim() == 4 and ctx.channels_last else grad


def _bias_gradient(grad: Tensor) -> Tensor:
    """Sum of ``grad`` over all but its channels.

    PyTorch reduces a large tensor twice as fast over neighbours in memory first (NCDHW: the
    positions of a channel; NDHWC: positions, in parts) and then over what is left. A compiler
    finds its own order.
    """
    others = [dim for dim in range(grad.dim()) if dim != grad.dim() - 4]
    if torch.compiler.is_compiling() or grad.numel() < _LARGE:
        return grad.sum(others)
    carried = _CARRIED.get(grad.dtype, grad.dtype)  # between the two sums
    if grad.is_contiguous():
        sums = grad.sum((-3, -2, -1), dtype=carried)
        return (sums if grad.dim() == 4 else sums.sum(0)).to(grad.dtype)
    rows = grad.movedim(-4, -1)
    channels = rows.shape[-1]
    parts = math.gcd(grad.numel() // channels, _MOST_PARTS)
    if not rows.is_contiguous() or channels < _FEW_CHANNELS or 4 * parts < _MOST_PARTS:
        return grad.sum(others)
    return rows.reshape(parts, -1, channels).sum(1, dtype=carried).sum(0).to(grad.dtype)


def _tangent(
    operator: Any, ctx: Any, first: Tensor | None, second: Tensor | None, *added: Any
) -> Tensor:
    """The tangent of a bilinear ``operator`` from those of its operands, one of them at least."""
    # A Function's jvp runs with forward mode off, which outer levels need; turned on again, the
    # saved operands must come without their tangents of this level.
    with forward_ad._set_fwd_grad_enabled(True):
        x, y = (forward_ad.unpack_dual(t, level=0).primal for t in ctx.saved_tensors)
        if first is None:
            return operator(x, second, *added, *ctx.geometry)
        by_first = operator(first, y, *added, *ctx.geometry)
        if second is None:
            return by_first
        return by_first + operator(x, second, *(None for _ in added), *ctx.geometry)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        below: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *geometry: Any,
    ) -> Tensor:
        output = below(input, weight, bias, *geometry)
        _save(ctx, input, weight, geometry)
        ctx.size = output.shape
        return output

    @staticmethod
    def jvp(ctx: Any, _: None, input: Any, weight: Any, bias: Any, *rest: Any) -> Tensor:  # type: ignore[override]
        if input is None and weight is None:
            return bias.view(-1, 1, 1, 1).expand(ctx.size)
        return _tangent(_forward, ctx, input, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        input, weight = ctx.saved_tensors
        grad = _in_format(grad, ctx.channels_last)
        by_input = by_weight = by_bias = None
        if ctx.needs_input_grad[1]:
            by_input = _derivative(_grad_input, grad, weight.conj(), *ctx.geometry)
        if ctx.needs_input_grad[2]:
            by_weight = _weight_gradient(ctx, grad, input.conj())
        if ctx.needs_input_grad[3]:
            by_bias = _bias_gradient(grad)
        return None, by_input, by_weight, by_bias, None, None, None, None, None


class _GradInput(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, below: Callable[..., Tensor], grad_output: Tensor, weight: Tensor, *geometry: Any
    ) -> Tensor:
        _save(ctx, grad_output, weight, geometry)
        return below(grad_output, weight, *geometry)

    @staticmethod
    def jvp(ctx: Any, _: None, grad_output: Any, weight: Any, *rest: Any) -> Tensor:  # type: ignore[override]
        return _tangent(_grad_input, ctx, grad_output, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_output, weight = ctx.saved_tensors
        grad = _in_format(grad, ctx.channels_last)
        by_grad_output = by_weight = None
        if ctx.needs_input_grad[1]:
            by_grad_output = _derivative(_forward, grad, weight.conj(), None, *ctx.geometry)
        if ctx.needs_input_grad[2]:
            by_weight = _weight_gradient(ctx, grad_output.conj(), grad)
        return None, by_grad_output, by_weight, None, None, None, None, None


class _GradWeight(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, below: Callable[..., Tensor], grad_output: Tensor, input: Tensor, *geometry: Any
    ) -> Tensor:
        _save(ctx, grad_output, input, geometry)
        return below(grad_output, input, *geometry)

    @staticmethod
    def jvp(ctx: Any, _: None, grad_output: Any, input: Any, *rest: Any) -> Tensor:  # type: ignore[override]
        return _tangent(_grad_weight, ctx, grad_output, input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_output, input = ctx.saved_tensors
        grad = _in_format(grad, ctx.channels_last)
        by_grad_output = by_input = None
        if ctx.needs_input_grad[1]:
            by_grad_output = _derivative(_forward, input.conj(), grad, None, *ctx.geometry)
        if ctx.needs_input_grad[2]:
            by_input = _derivative(_grad_input, grad_output.conj(), grad, *ctx.geometry)
        return None, by_grad_output, by_input, None, None, None, None, None


# The dispatcher leaves trailing arguments out that equal their defaults; formulas need all of them.
_DEFAULTS = (None, (1, 1, 1), (0, 0, 0), (0, 0, 0), 1, (1, 1, 1))


def _forward_kernel(keyset: Any, input: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    if _needs_derivative(input, weight, *rest[:1]):
        return _apply(_Forward, _forward, keyset, input, weight, *rest, *_DEFAULTS[len(rest) :])
    return _below_autograd(_forward, keyset, input, weight, *rest)


def _gradient_kernel(operator: Any, function: Any) -> Callable[..., Tensor]:
    def kernel(keyset: Any, first: Tensor, second: Tensor, *geometry: Any) -> Tensor:
        if _needs_derivative(first, second):
            return _apply(function, operator, keyset, first, second, *geometry)
        return _below_autograd(operator, keyset, first, second, *geometry)

    return kernel


for _name, _kernel in (
    ("forward", _forward_kernel),
    ("grad_input", _gradient_kernel(_grad_input, _GradInput)),
    ("grad_weight", _gradient_kernel(_grad_weight, _GradWeight)),
):
    _library.impl(_name, _kernel, "Autograd", with_keyset=True)
