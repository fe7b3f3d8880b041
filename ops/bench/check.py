"""Every timed row passes this check first, or it has no time.

Two comparisons, neither of which uses this package's kernels:

1. *Sampled, against float64* (`reference.sample`): every implementation. Each sampled element may
   differ by `2 * eps_out * |reference| + slack * rms`, with the root mean square of the reference
   where it is not zero, and the sample's relative Frobenius error must stay below `frobenius`.
2. *Whole, against PyTorch*: our rows, so that one wrong element anywhere is found. PyTorch's result
   has an error of its own (thousands of times float32's rounding in a weight gradient with millions
   of products), known from the same sample: an element is suspect where it differs by more than
   our own room and `_DEVIATIONS` times PyTorch's error. Suspects are then computed in float64, and
   only an element that is wrong by that is wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import reference
from .cases import Case


@dataclass(frozen=True)
class Limit:
    """Unit roundoff of the stored result, slack for accumulation, relative Frobenius error."""

    eps_out: float
    slack: float
    frobenius: float


# cuDNN's own relative Frobenius errors are 2.1e-4 (fp16), 1.7e-3 (bf16), 2.9e-4 (tf32) and 2e-7
# (fp32; weight gradient up to 3e-6 where its sums are short or cut). Ours has to stay within these.
LIMITS = {
    "fp16": Limit(2**-11, 2e-3, 7e-4),
    "bf16": Limit(2**-8, 1e-2, 5e-3),
    "tf32": Limit(2**-24, 8e-3, 1.5e-3),
    "fp32": Limit(2**-24, 1e-5, 1e-6),
    "fp64": Limit(2**-53, 1e-13, 1e-14),
}
# Sums over millions of positions, in the precision of the result.
_GRAD_WEIGHT_LIMITS = {
    "fp32": Limit(2**-24, 4e-5, 4e-6),
    "fp64": Limit(2**-53, 4e-13, 4e-14),
}
_OTHERS_FACTOR = 4.0
# Of a normal distribution, one element in 10^15 is further out.
_DEVIATIONS = 8.0
_MOST_SUSPECTS = 64


def limit_of(dtype: str, pass_name: str) -> Limit:
    """The limits of our result of `pass_name`; float32 and float64 allow a weight gradient more."""
    limits = _GRAD_WEIGHT_LIMITS if pass_name == "grad_weight" else {}
    return limits.get(dtype, LIMITS[dtype])


def terms(case: Case, pass_name: str) -> int:
    """Most products in one element of a result."""
    if pass_name == "grad_weight":
        return case.input[0] * math.prod(case.input_size)
    channels = case.in_channels if pass_name == "forward" else case.out_channels
    return channels // case.groups * math.prod(case.kernel)


def others_limit(case: Case, dtype: str, pass_name: str) -> Limit:
    """The limits of other implementations, whose algorithms are not ours to promise.

    Four times ours (Winograd, FFT), and what it costs to add the products of an element one after
    the other in float32 (float64): a relative error of the order of eps * sqrt(terms).
    """
    ours = limit_of(dtype, pass_name)
    in_turn = (2**-53 if dtype == "fp64" else 2**-24) * math.sqrt(terms(case, pass_name))
    return Limit(
        ours.eps_out,
        _OTHERS_FACTOR * ours.slack + _DEVIATIONS * in_turn,
        _OTHERS_FACTOR * ours.frobenius + in_turn,
    )


class WrongResult(Exception):
    """A result outside the limits; `error` is the figure that failed, None where there is none."""

    def __init__(self, message: str, error: float | None) -> None:
        super().__init__(message)
        self.error = error if error is not None and math.isfinite(error) else None


class NoReference(RuntimeError):
    """What a result should be compared with is itself too far off."""


@dataclass
class References:
    """What the results of one case and dtype are compared with, kept for its next layout.

    `samples` by pass; `whole` by pass: PyTorch's result with its relative error.
    """

    samples: dict[str, reference.Sample] = field(default_factory=dict)
    whole: dict[str, tuple[Tensor, float]] = field(default_factory=dict)

    def sample(
        self, case: Case, pass_name: str, operands: tuple[Tensor, Tensor]
    ) -> reference.Sample:
        """The float64 sample of a pass, computed once: operands have the same values in every
        layout."""
        if pass_name not in self.samples:
            self.samples[pass_name] = reference.sample(case, pass_name, operands)
        return self.samples[pass_name]


def relative_error(result: Tensor, expected: Tensor) -> float:
    """Relative Frobenius error of `result` against `expected`, in float64."""
    difference = (result.double() - expected.double()).norm()
    scale = expected.double().norm()
    return float(difference / scale) if float(scale) else float(difference)


def _rms(values: Tensor) -> Tensor:
    """Root mean square of what is not zero: outputs that no tap reaches would make it small."""
    return (values.square().sum() / values.count_nonzero().clamp_min(1)).sqrt()


def assert_close(what: str, result: Tensor, expected: Tensor, limit: Limit) -> float:
    """Raise `WrongResult` unless every element and the whole are within `limit` of `expected`.

    `expected` is float64. Returns the relative Frobenius error. NaN anywhere fails.
    """
    _check_shape(what, result, tuple(expected.shape))
    rms = _rms(expected)
    excess = _excess(result, expected, rms, limit)
    bad = int(torch.count_nonzero(~(excess <= 0)))
    error = relative_error(result, expected)
    if bad:
        raise WrongResult(f"{what}: {_out_of_tolerance(bad, expected, excess, rms)}", error)
    if not error <= limit.frobenius:
        text = f"relative error {error:.2g} exceeds {limit.frobenius:.2g}"
        raise WrongResult(f"{what}: {text}", error)
    return error


def _check_shape(what: str, result: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(result.shape) != shape:
        raise WrongResult(f"{what}: shape {list(result.shape)} instead of {list(shape)}", None)


def _excess(result: Tensor, expected: Tensor, rms: Tensor, limit: Limit) -> Tensor:
    """How far every element is beyond its tolerance; not above zero where it is right."""
    allowed = expected.abs().mul_(2 * limit.eps_out).add_(limit.slack * rms)
    return (result.to(expected.dtype) - expected).abs_().sub_(allowed)


def _out_of_tolerance(bad: int, expected: Tensor, excess: Tensor, rms: Tensor) -> str:
    worst = float(excess.nan_to_num(nan=float("inf")).max() / rms.clamp_min(1e-300))
    return f"{bad} of {expected.numel()} elements out of tolerance, worst by {worst:.2g} rms"


def check_sampled(
    case: Case,
    limit: Limit,
    pass_name: str,
    operands: tuple[Tensor, Tensor],
    result: Tensor,
    references: References | None = None,
) -> float:
    """Check a sample of a result of forward, grad_input or grad_weight against float64.

    `operands` are the pass's own, as `Problem.operands` gives them. Returns the relative Frobenius
    error of the sample; raises `WrongResult`.
    """
    _check_shape(pass_name, result, reference.shape_of(case, pass_name))
    found = (references or References()).sample(case, pass_name, operands)
    return assert_close(f"{pass_name} against float64", found.of(result), found.values, limit)


def check_whole(
    case: Case,
    dtype: str,
    pass_name: str,
    operands: tuple[Tensor, Tensor],
    result: Tensor,
    whole: tuple[Tensor, float],
) -> None:
    """Check every element of our `result` with the help of PyTorch's, given with its error.

    Raises `WrongResult`, or `NoReference` where PyTorch's result differs in too many places to
    compute them all in float64 and is wrong in the worst of them.
    """
    limit = limit_of(dtype, pass_name)
    others, error = whole
    # An error beyond what PyTorch is granted must not open the tolerance further.
    error = min(error, others_limit(case, dtype, pass_name).frobenius)
    wide = Limit(limit.eps_out, limit.slack + _DEVIATIONS * error, limit.frobenius)
    expected = others if dtype == "fp64" else others.float()
    rms = _rms(expected)
    excess = _excess(result, expected, rms, wide)
    suspect = ~(excess <= 0)
    count = int(torch.count_nonzero(suspect))
    if count == 0:
        return
    ranked = excess.nan_to_num_(nan=float("inf")).flatten()
    worst = ranked.topk(min(count, _MOST_SUSPECTS)).indices
    indices = torch.stack(torch.unravel_index(worst, result.shape), dim=1)
    right = reference.elements(case, pass_name, operands, indices)
    ours = result[tuple(indices.unbind(1))].double()
    # The root mean square belongs to the whole result, not to the suspects.
    wrong = int(torch.count_nonzero(~(_excess(ours, right, rms.double(), limit) <= 0)))
    if wrong:
        text = _out_of_tolerance(count, expected, excess, rms)
        raise WrongResult(f"{pass_name} against PyTorch: {text}; {wrong} checked in float64", None)
    if count > _MOST_SUSPECTS:
        raise NoReference(
            f"{pass_name}: PyTorch's own result is wrong in at least {_MOST_SUSPECTS} of {count} "
            "elements that differ, so the whole of ours was not checked"
        )
