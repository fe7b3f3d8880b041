"""The definition in float64: values of a result at chosen places, by gathering its operands.

Nothing here uses this package's kernels or PyTorch's convolutions. A value of the forward pass or
of `grad_input` is one gathered product; of a weight gradient, whole taps are matrix products over
all samples and positions, single elements are dot products.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cases import Case, Triple

SAMPLES = 1024
_GATHER_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Sample:
    """Values of one pass in float64 at `places`: (M, 4) positions n, d, h, w with all channels, or
    of a weight gradient (T, 3) taps with all pairs of channels."""

    places: Tensor
    values: Tensor

    def of(self, result: Tensor) -> Tensor:
        """The values of `result` at the same places."""
        if self.places.shape[1] == 3:
            d, h, w = self.places.unbind(1)
            return result[:, :, d, h, w].movedim(2, 0)
        n, d, h, w = self.places.unbind(1)
        return result[n, :, d, h, w]


def shape_of(case: Case, pass_name: str) -> tuple[int, ...]:
    """Shape of the result of a pass."""
    return {"forward": case.output, "grad_input": case.input, "grad_weight": case.weight}[pass_name]


def sample(case: Case, pass_name: str, operands: tuple[Tensor, Tensor]) -> Sample:
    """A sample of a pass: corners and over a thousand random positions, or up to four taps.

    `operands` are the pass's own, as `Problem.operands` gives them. The places are the same for
    every process and layout.
    """
    device = operands[0].device
    if pass_name == "grad_weight":
        taps = sampled_taps(case)
        values = torch.stack([sampled_grad_weight(case, *operands, tap) for tap in taps])
        return Sample(torch.tensor(taps, device=device), values)
    shape = shape_of(case, pass_name)
    sampler = sampled_forward if pass_name == "forward" else sampled_grad_input
    # Few channels leave room for more positions.
    count = max(SAMPLES, 16384 // shape[1])
    positions = sample_positions((shape[2], shape[3], shape[4]), shape[0], device, count)
    return Sample(positions, sampler(case, *operands, positions))


def elements(
    case: Case, pass_name: str, operands: tuple[Tensor, Tensor], indices: Tensor
) -> Tensor:
    """Values of a pass in float64 at full `indices` (M, 5) of its result; (M,)."""
    if pass_name != "grad_weight":
        sampler = sampled_forward if pass_name == "forward" else sampled_grad_input
        values = sampler(case, *operands, indices[:, [0, 2, 3, 4]])
        return values.gather(1, indices[:, 1:2]).squeeze(1)
    grad, x = operands
    one = replace(case, input=(case.input[0], 1, *case.input_size), out_channels=1, groups=1)
    found = []
    for source, target, d, h, w in indices.tolist():
        # The weight counts the output channels of a group, the gradient all of them.
        group = source // (case.in_channels // case.groups)
        target += group * case.weight[1]
        left, right = grad[:, target : target + 1], x[:, source : source + 1]
        found.append(sampled_grad_weight(one, left, right, (d, h, w)).reshape(()))
    return torch.stack(found)


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
