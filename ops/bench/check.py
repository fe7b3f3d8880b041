"""Every timed row passes this check first, or it has no time.

Two comparisons, neither of which uses this package's kernels:

1. *Sampled, against float64.* Elements of the result, the corners and random ones, are computed
   from the definition by gathering operands and multiplying in float64. A gradient of the weight
   is computed whole for a few taps.
2. *Whole, against PyTorch.* This package's rows are also compared element by element with
   PyTorch's own operator on the same operands, so that one wrong element anywhere is found. A
   float32 gradient of the weight is compared with float64 instead, whole: its sums are millions of
   products long, and cuDNN's own errors there exceed what is allowed to ours.

An element may differ by `2 * eps_out * |reference| + slack * rms`, with the root mean square of the
reference where it is not zero, and the relative Frobenius error of the sample must stay below
`frobenius`; all in `LIMITS`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from .cases import Case, Triple

SAMPLES = 1024
_GATHER_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Limit:
    """Unit roundoff of the stored result, slack for accumulation, relative Frobenius error."""

    eps_out: float
    slack: float
    frobenius: float

    def times(self, factor: float) -> Limit:
        """The limit with `factor` times the room for accumulation."""
        return Limit(self.eps_out, factor * self.slack, factor * self.frobenius)


# cuDNN's own relative Frobenius errors are 2.1e-4 (fp16), 1.7e-3 (bf16), 2.9e-4 (tf32) and 2e-7
# (fp32; weight gradient up to 3e-6). Ours has to stay within these limits; other implementations,
# whose algorithms are not ours to promise (Winograd, FFT, sums in another order), get
# `OTHERS_FACTOR` times as much: cuDNN's heuristic float32 weight gradient was seen at 1.8e-5.
OTHERS_FACTOR = 16.0
LIMITS = {
    "fp16": Limit(2**-11, 2e-3, 7e-4),
    "bf16": Limit(2**-8, 1e-2, 5e-3),
    "tf32": Limit(2**-24, 8e-3, 1.5e-3),
    "fp32": Limit(2**-24, 1e-5, 1e-6),
}
_GRAD_WEIGHT_FP32 = Limit(2**-24, 4e-5, 4e-6)


def limit_of(dtype: str, pass_name: str) -> Limit:
    """The limits of a result of `pass_name`; float32 allows a weight gradient more."""
    if dtype == "fp32" and pass_name == "grad_weight":
        return _GRAD_WEIGHT_FP32
    return LIMITS[dtype]


class WrongResult(Exception):
    """A result outside the limits; `error` is the figure that failed."""

    def __init__(self, message: str, error: float) -> None:
        super().__init__(message)
        self.error = error


def relative_error(result: Tensor, reference: Tensor) -> float:
    """Relative Frobenius error of `result` against `reference`, in float64."""
    difference = (result.double() - reference.double()).norm()
    scale = reference.double().norm()
    return float(difference / scale) if float(scale) else float(difference)


def assert_close(
    what: str, result: Tensor, reference: Tensor, limit: Limit, *, frobenius: bool = True
) -> float:
    """Raise `WrongResult` unless every element and the whole are within `limit`.

    Returns the relative Frobenius error. NaN anywhere fails.
    """
    if result.shape != reference.shape:
        raise WrongResult(
            f"{what}: shape {list(result.shape)} instead of {list(reference.shape)}", float("inf")
        )
    wide = torch.float64 if reference.dtype == torch.float64 else torch.float32
    reference = reference.to(wide)
    # Outputs that no tap reaches are zero, and would make the others look large.
    rms = (reference.square().sum() / reference.count_nonzero().clamp_min(1)).sqrt()
    allowed = reference.abs().mul_(2 * limit.eps_out).add_(limit.slack * rms)
    excess = (result.to(wide) - reference).abs_().sub_(allowed)
    bad = int(torch.count_nonzero(~(excess <= 0)))
    error = relative_error(result, reference) if wide == torch.float64 else float("nan")
    if bad:
        worst = float(excess.nan_to_num(nan=float("inf")).max() / rms.clamp_min(1e-300))
        text = f"{bad} of {reference.numel()} elements out of tolerance"
        raise WrongResult(f"{what}: {text}, worst by {worst:.2g} rms", error)
    if frobenius and not error <= limit.frobenius:
        text = f"relative error {error:.2g} exceeds {limit.frobenius:.2g}"
        raise WrongResult(f"{what}: {text}", error)
    return error


def sample_positions(size: Triple, batch: int, device: torch.device, count: int) -> Tensor:
    """(M, 4) indices n, d, h, w: the eight corners of the first and the last sample, then random.

    The generator is the device's own with a fixed seed, so every process samples alike.
    """
    edges = [(0, extent - 1) for extent in (batch, *size)]
    corners = torch.tensor(sorted(set(itertools.product(*edges))), device=device)
    generator = torch.Generator(device)
    generator.manual_seed(17)
    columns = [
        torch.randint(extent, (count,), generator=generator, device=device)
        for extent in (batch, *size)
    ]
    return torch.cat([corners, torch.stack(columns, dim=1)])


def _gathered_product(
    source: Tensor, weight: Tensor, positions: Tensor, index: Tensor, valid: Tensor
) -> Tensor:
    """Sum over taps t and channels c of source[n, c, index[:, t]] * weight[g, t, c, o] -> (M, G*O).

    `source` is (N, G*C, D, H, W), `weight` (G, T, C, O), `index` (M, T, 3), `valid` (M, T).
    """
    groups, taps, channels, outputs = weight.shape
    weight = weight.double().reshape(groups, taps * channels, outputs)
    rows = max(1, _GATHER_ELEMENTS // (taps * channels * groups))
    parts = []
    for start in range(0, positions.shape[0], rows):
        rows_of = slice(start, start + rows)
        where, mask = index[rows_of], valid[rows_of]
        batch = positions[rows_of, :1].expand(mask.shape)
        values = source[batch, :, where[..., 0], where[..., 1], where[..., 2]].double()
        values = values * mask.unsqueeze(-1)
        values = values.reshape(-1, taps, groups, channels).permute(2, 0, 1, 3)
        product = torch.bmm(values.reshape(groups, -1, taps * channels), weight)
        parts.append(product.permute(1, 0, 2).reshape(-1, groups * outputs))
    return torch.cat(parts)


def _taps(case: Case, device: torch.device) -> Tensor:
    ranges = [torch.arange(size, device=device) for size in case.kernel]
    return torch.cartesian_prod(*ranges).reshape(-1, 3)


def _row(values: Triple, device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)


def sampled_forward(case: Case, x: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
    """Output at `positions` (M, 4), float64, (M, Cout): y[o] = sum of x[(o + p - d*k) / s] w[k]."""
    device = x.device
    reached = positions[:, None, 1:] + _row(case.padding, device)
    reached = reached - _taps(case, device) * _row(case.dilation, device)
    stride = _row(case.stride, device)
    index = reached.div(stride, rounding_mode="floor")
    inside = (index >= 0) & (index < _row(case.input_size, device)) & (reached % stride == 0)
    index = index.clamp_min(0).minimum(_row(case.input_size, device) - 1)
    per_group = case.in_channels // case.groups
    by_tap = weight.reshape(case.groups, per_group, -1, weight[0, 0].numel()).permute(0, 3, 1, 2)
    return _gathered_product(x, by_tap, positions, index, inside.all(-1))


def sampled_grad_input(case: Case, grad: Tensor, weight: Tensor, positions: Tensor) -> Tensor:
    """grad_input at `positions`, float64, (M, Cin): gx[i] = sum of gy[s*i - p + d*k] * w[k]."""
    device = grad.device
    index = positions[:, None, 1:] * _row(case.stride, device) - _row(case.padding, device)
    index = index + _taps(case, device) * _row(case.dilation, device)
    size = _row((grad.shape[2], grad.shape[3], grad.shape[4]), device)
    inside = ((index >= 0) & (index < size)).all(-1)
    index = index.clamp_min(0).minimum(size - 1)
    per_group = case.in_channels // case.groups
    by_tap = weight.reshape(case.groups, per_group, -1, weight[0, 0].numel()).permute(0, 3, 2, 1)
    return _gathered_product(grad, by_tap, positions, index, inside)


def sampled_taps(case: Case) -> list[Triple]:
    """The taps whose weight gradient is computed in float64: both ends, the middle, one more."""
    last = tuple(size - 1 for size in case.kernel)
    middle = tuple(size // 2 for size in case.kernel)
    mixed = (0, last[1], middle[2])
    found = dict.fromkeys([(0, 0, 0), last, middle, mixed])
    return [(d, h, w) for d, h, w in found]


def sampled_grad_weight(case: Case, grad: Tensor, x: Tensor, tap: Triple) -> Tensor:
    """grad_weight at one tap, float64, (Cin, Cout/groups).

    The sum of x[i] * gy[s*i - p + d*k] over samples and input positions i.
    """
    spans = []
    for axis in range(3):
        stride, padding = case.stride[axis], case.padding[axis]
        offset = case.dilation[axis] * tap[axis] - padding
        first = max(0, -(offset // stride))
        last = min(case.input_size[axis] - 1, (case.output_size[axis] - 1 - offset) // stride)
        if last < first:
            return torch.zeros(case.weight[:2], dtype=torch.float64, device=x.device)
        spans.append((slice(first, last + 1), slice(stride * first + offset, None, stride)))
    counts = [span.stop - span.start for span, _ in spans]
    total = torch.zeros(case.weight[:2], dtype=torch.float64, device=x.device)
    total = total.view(case.groups, -1, case.weight[1])
    plane = counts[1] * counts[2]
    step = max(1, _GATHER_ELEMENTS // (plane * (case.in_channels + case.out_channels) * counts[0]))
    for start in range(0, x.shape[0], step):
        part = slice(start, start + step)
        left = x[part, :, spans[0][0], spans[1][0], spans[2][0]].double()
        right = grad[part, :, spans[0][1], spans[1][1], spans[2][1]]
        right = right[:, :, : counts[0], : counts[1], : counts[2]].double()
        # One matrix product per sample, depth and group keeps a long contraction parallel.
        left = left.transpose(1, 2).reshape(-1, left.shape[1] // case.groups, plane)
        right = right.transpose(1, 2).reshape(-1, case.weight[1], plane)
        product = torch.bmm(left, right.transpose(1, 2))
        total += product.view(-1, *total.shape).sum(0)
    return total.reshape(case.weight[:2])


def whole_grad_weight(case: Case, grad: Tensor, x: Tensor) -> Tensor:
    """grad_weight at every tap, float64, (Cin, Cout/groups, kD, kH, kW)."""
    taps = itertools.product(*(range(size) for size in case.kernel))
    found = [sampled_grad_weight(case, grad, x, (d, h, w)) for d, h, w in taps]
    return torch.stack(found, dim=-1).reshape(case.weight)


def check_sampled(
    case: Case,
    limit: Limit,
    pass_name: str,
    operands: tuple[Tensor, Tensor],
    result: Tensor,
) -> float:
    """Check samples of a result of forward, grad_input or grad_weight against float64.

    `operands` are the pass's own, as `Problem.operands` gives them. Returns the relative Frobenius
    error of the sample; raises `WrongResult`.
    """
    expected = {"forward": case.output, "grad_input": case.input, "grad_weight": case.weight}
    shape = expected[pass_name]
    if tuple(result.shape) != shape:
        raise WrongResult(
            f"{pass_name}: shape {list(result.shape)} instead of {list(shape)}", float("inf")
        )
    if pass_name == "grad_weight":
        taps = sampled_taps(case)
        reference = torch.stack([sampled_grad_weight(case, *operands, tap) for tap in taps])
        sample = torch.stack([result[:, :, d, h, w] for d, h, w in taps])
    else:
        sampler = sampled_forward if pass_name == "forward" else sampled_grad_input
        size = (shape[2], shape[3], shape[4])
        # Few channels leave room for more positions.
        count = max(SAMPLES, 16384 // shape[1])
        positions = sample_positions(size, shape[0], result.device, count)
        reference = sampler(case, *operands, positions)
        n, d, h, w = positions.unbind(1)
        sample = result[n, :, d, h, w]
    return assert_close(f"{pass_name} against float64", sample, reference, limit)
