"""An independent float64 reference and the error bounds that results are held to.

The reference is the definition: tap k of input position i adds ``x[i] * w[k]`` to position
``stride * i + dilation * k`` of a canvas, whose inner part, ``padding`` off on both sides, is the
output. The two gradients read the same canvas. One matrix product over channels per tap, in plain
torch operations, so that it also runs on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from cases import Case, Tensors
from torch import Tensor

# Elements of the canvas that are worked on at once: 1 GiB of float64.
_CANVAS = 2**27


def _wide(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.int64:
        return tensor
    if tensor.dtype == torch.complex32:  # most operations lack it
        tensor = tensor.to(torch.complex64)
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """(batch, channels, ...) as (batch, groups, channels per group, ...)."""
    return tensor.unflatten(1, (groups, tensor.shape[1] // groups))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("...ij,...jk->...ik", a, b) if a.dtype == torch.int64 else a @ b


def _last(indices: Iterable[int | slice]) -> tuple:
    """The index of the last dimensions."""
    return (..., *indices)


class _Canvas:
    """(batch, groups, channels, depth, height, width): output with ``padding`` around it."""

    def __init__(self, case: Case, values: Tensor | None, batch: int, like: Tensor) -> None:
        self.case = case
        self.output = case.output[-3:]
        spatial = [o + 2 * p for o, p in zip(self.output, case.padding, strict=True)]
        channels = (case.groups, case.out_channels // case.groups)
        self.values = torch.zeros(
            (batch, *channels, *spatial), dtype=like.dtype, device=like.device
        )
        if values is not None:
            self.inner().copy_(_grouped(values, case.groups))

    def inner(self) -> Tensor:
        spans = (slice(p, p + o) for o, p in zip(self.output, self.case.padding, strict=True))
        return self.values[_last(spans)]

    def met_by(self, tap: Sequence[int]) -> Tensor:
        """View of the positions that the inputs meet through a tap, in the inputs' order."""
        spans = tuple(
            slice(d * k, d * k + (i - 1) * s + 1, s)
            for k, i, s, d in zip(
                tap, self.case.size, self.case.stride, self.case.dilation, strict=True
            )
        )
        return self.values[_last(spans)]


def _taps(case: Case) -> Iterator[tuple[int, ...]]:
    return product(*(range(k) for k in case.kernel))


def _chunks(case: Case) -> Iterator[slice]:
    """Slices of the batch whose canvas fits."""
    batch = 1 if case.batch is None else case.batch
    step = max(1, _CANVAS // max(1, math.prod(case.output[-4:])))
    for first in range(0, batch, step):
        yield slice(first, min(batch, first + step))


def _batched(tensor: Tensor) -> Tensor:
    return tensor.unsqueeze(0) if tensor.dim() == 4 else tensor


def _weight_per_group(case: Case, weight: Tensor) -> Tensor:
    """(groups, in channels, out channels, *kernel)."""
    return _wide(weight).unflatten(0, (case.groups, case.in_channels // case.groups))


def forward(case: Case, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Reference of ``convt3d::forward`` in float64, complex128 or int64."""
    w = _weight_per_group(case, weight)
    output = torch.zeros(_batched_size(case.output), dtype=w.dtype, device=w.device)
    for part in _chunks(case):
        x = _grouped(_wide(_batched(input)[part]), case.groups)
        canvas = _Canvas(case, None, x.shape[0], x)
        for tap in _taps(case):
            update = _product(w[_last(tap)].transpose(1, 2), x.flatten(3))
            canvas.met_by(tap).add_(update.unflatten(3, case.size))
        output[part] = canvas.inner().flatten(1, 2)
    if bias is not None:
        output += _wide(bias).view(-1, 1, 1, 1)
    return output.view(case.output)


def grad_input(case: Case, grad_output: Tensor, weight: Tensor) -> Tensor:
    """Reference of ``convt3d::grad_input``; bilinear, so nothing is conjugated."""
    w = _weight_per_group(case, weight)
    result = torch.zeros(_batched_size(case.input), dtype=w.dtype, device=w.device)
    for part in _chunks(case):
        gy = _wide(_batched(grad_output)[part])
        canvas = _Canvas(case, gy, gy.shape[0], gy)
        total = _grouped(result[part], case.groups)
        for tap in _taps(case):
            total += _product(w[_last(tap)], canvas.met_by(tap).flatten(3)).unflatten(3, case.size)
    return result.view(case.input)


def grad_weight(case: Case, grad_output: Tensor, input: Tensor) -> Tensor:
    """Reference of ``convt3d::grad_weight``; bilinear, so nothing is conjugated."""
    like = _wide(input[:0])
    result = torch.zeros(
        (case.groups, case.in_channels // case.groups, *case.weight[1:]),
        dtype=like.dtype,
        device=like.device,
    )
    for part in _chunks(case):
        x = _grouped(_wide(_batched(input)[part]), case.groups)
        gy = _wide(_batched(grad_output)[part])
        canvas = _Canvas(case, gy, gy.shape[0], gy)
        for tap in _taps(case):
            pairs = _product(x.flatten(3), canvas.met_by(tap).flatten(3).transpose(2, 3))
            result[_last(tap)] += pairs.sum(0)
    return result.view(case.weight)


def _batched_size(size: Sequence[int]) -> tuple[int, ...]:
    return tuple(size) if len(size) == 5 else (1, *size)


@dataclass(frozen=True)
class Expected:
    """A result, the same sum over absolute values, and how many products an element has."""

    value: Tensor
    magnitude: Tensor
    terms: int
    random: bool  # whether the products are independent of each other


def _terms(operator: str, case: Case) -> int:
    """The most products that make up one element of the result."""
    per_axis = zip(case.kernel, case.stride, case.dilation, strict=True)
    complex_parts = 2
    if operator == "forward":
        # Taps that meet the same output are stride / gcd(stride, dilation) apart.
        taps = math.prod(math.ceil(k * math.gcd(s, d) / s) for k, s, d in per_axis)
        return complex_parts * case.in_channels // case.groups * taps + 1
    if operator == "grad_input":
        return complex_parts * case.out_channels // case.groups * math.prod(case.kernel)
    return complex_parts * (1 if case.batch is None else case.batch) * math.prod(case.size)


def expected(
    operator: str, case: Case, tensors: Tensors, *, bias: bool = True, random: bool = True
) -> Expected:
    """The reference of one operator on operands as rounded to their dtype."""
    x, w, gy = tensors.input, tensors.weight, tensors.grad_output
    functions: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
        "forward": (forward, [x, w, tensors.bias] if bias else [x, w]),
        "grad_input": (grad_input, [gy, w]),
        "grad_weight": (grad_weight, [gy, x]),
    }
    function, operands = functions[operator]
    value = function(case, *operands)
    magnitude = function(case, *(_wide(operand).abs() for operand in operands))
    return Expected(value, magnitude, _terms(operator, case), random)


# The documented c of the bound below. On CPU at most 2.1 was measured. On an H200, whose tensor
# cores cut the low bits of the sums that they carry, a sum of 252 products in 96 steps needed 12.5,
# the most seen: cutting is no random walk, and each step may take one unit of the last place.
C = 16.0

_UNIT_ROUNDOFF = {
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float32: 2.0**-24,
    torch.float64: 2.0**-53,
    torch.complex32: 2.0**-11,
    torch.complex64: 2.0**-24,
    torch.complex128: 2.0**-53,
}
_SMALLEST = {torch.float16: 2.0**-25, torch.complex32: 2.0**-25}


def tolerance(wanted: Expected, dtype: torch.dtype, *, tf32: bool = False) -> Tensor:
    """The largest error allowed per element.

    ``C * eps_acc * sqrt(terms) * magnitude + eps_out * |value|``, where eps_acc is float32's
    epsilon (float64's for float64) and eps_out the rounding of the result. The error of a sum of n
    rounded products grows like sqrt(n) times the partial sums, and those of random products stay
    near magnitude / sqrt(n): for them the factor sqrt(terms) is left out, which keeps the bound
    sharp enough to see one missing product among thousands. TF32 rounds both operands to 11 bits
    first.
    """
    if dtype == torch.int64:
        return torch.zeros_like(wanted.magnitude)
    eps_acc = 2.0**-52 if dtype in (torch.float64, torch.complex128) else 2.0**-23
    growth = 1.0 if wanted.random else math.sqrt(wanted.terms)
    per_product = C * eps_acc * growth + (2.0**-10 if tf32 else 0.0)
    rounding = _UNIT_ROUNDOFF[dtype] * wanted.value.abs() + _SMALLEST.get(dtype, 0.0)
    return per_product * wanted.magnitude + rounding


def check(result: Tensor, wanted: Expected, label: str, *, tf32: bool = False) -> None:
    """Asserts that every element of a result is within its bound."""
    assert result.shape == wanted.value.shape, f"{label}: shape {tuple(result.shape)}"
    if result.numel() == 0:
        return
    error = (_wide(result) - wanted.value).abs()
    allowed = tolerance(wanted, result.dtype, tf32=tf32)
    wrong = ~(error <= allowed)  # NaN is wrong, too
    if wrong.any():
        worst = int(torch.where(wrong, (error / allowed).nan_to_num(math.inf), 0).argmax())
        index = [int(i) for i in torch.unravel_index(torch.tensor(worst), result.shape)]
        raise AssertionError(
            f"{label}: {int(wrong.sum())} of {result.numel()} elements are off; at {index} got "
            f"{_wide(result).flatten()[worst].item()}, expected "
            f"{wanted.value.flatten()[worst].item()} within {allowed.flatten()[worst].item():.3g}"
        )


def relative_error(result: Tensor, wanted: Expected) -> float:
    """Frobenius norm of the error over that of the reference."""
    return float((_wide(result) - wanted.value).norm() / wanted.value.norm())
