"""Random problems: results against the reference, and laws that hold whatever the numbers are.

A failing example prints ``@reproduce_failure``; ``--hypothesis-seed=N`` repeats a run.
"""

from __future__ import annotations

import pytest
import torch
from cases import DTYPES, LAYOUTS, OPERATORS, Case, arguments, call, make_tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import check, expected
from torch import Tensor

SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=False,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def cases(draw: st.DrawFn, *, most_channels: int = 6) -> Case:
    """Any geometry whose output exists, kept small."""

    def three(low: int, high: int) -> tuple[int, int, int]:
        one = st.integers(low, high)
        return draw(st.one_of(one.map(lambda n: (n, n, n)), st.tuples(one, one, one)))

    groups = draw(st.integers(1, 3))
    per_group = st.integers(1, most_channels)
    stride, dilation, kernel, size = three(1, 4), three(1, 4), three(1, 4), three(1, 5)
    output_padding, padding = [], []
    for s, d, k, i in zip(stride, dilation, kernel, size, strict=True):
        extra = draw(st.integers(0, max(s, d) - 1))
        most = ((i - 1) * s + d * (k - 1) + extra) // 2
        output_padding.append(extra)
        padding.append(draw(st.integers(0, most)))
    return Case(
        "drawn",
        draw(st.one_of(st.none(), st.integers(0, 3))),
        groups * draw(per_group),
        groups * draw(per_group),
        size,
        kernel,
        stride,
        (padding[0], padding[1], padding[2]),
        (output_padding[0], output_padding[1], output_padding[2]),
        groups,
        dilation,
    )


SEEDS = st.integers(0, 2**31)


@SETTINGS
@given(case=cases(), layout=st.sampled_from(LAYOUTS), index=st.integers(0, 6), seed=SEEDS)
def test_results(device: str, case: Case, layout: str, index: int, seed: int) -> None:
    dtype = DTYPES[device][index]
    tensors = make_tensors(case, dtype, device, layout, seed)
    for operator in OPERATORS:
        wanted = expected(operator, case, tensors, random=layout != "expanded")
        check(call(operator, tensors, case), wanted, f"{operator}, {dtype}, {layout}")


@SETTINGS
@given(case=cases(), layout=st.sampled_from(LAYOUTS), seed=SEEDS)
def test_fake_functions(device: str, case: Case, layout: str, seed: int) -> None:
    tensors = make_tensors(case, torch.float32, device, layout, seed)
    for operator in OPERATORS:
        values = arguments(operator, tensors, case)
        real = getattr(torch.ops.convt3d, operator)(*values)
        on_meta = [v.to("meta") if isinstance(v, Tensor) else v for v in values]
        # `to` makes gaps and overlaps dense; the strides are what the fake function goes by.
        on_meta[:2] = [torch.empty_strided(v.shape, v.stride(), device="meta") for v in values[:2]]
        fake = getattr(torch.ops.convt3d, operator)(*on_meta)
        assert (fake.shape, fake.stride()) == (real.shape, real.stride()), operator


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a.double() * b.double()).sum())


@SETTINGS
@given(case=cases(), seed=SEEDS)
def test_the_three_operators_are_adjoint(device: str, case: Case, seed: int) -> None:
    """<forward(x, w), y> = <x, grad_input(y, w)> = <w, grad_weight(y, x)>."""
    tensors = make_tensors(case, torch.float64, device, seed=seed)
    forward = _inner(call("forward", tensors, case, bias=False), tensors.grad_output)
    scale = 1 + sum(float(t.double().norm()) for t in (tensors.input, tensors.weight))
    for operator, operand in (("grad_input", tensors.input), ("grad_weight", tensors.weight)):
        other = _inner(call(operator, tensors, case), operand)
        assert other == pytest.approx(forward, rel=1e-9, abs=1e-9 * scale**2), operator


@SETTINGS
@given(case=cases(), seed=SEEDS)
def test_groups_are_separate_convolutions(device: str, case: Case, seed: int) -> None:
    tensors = make_tensors(case, torch.float64, device, seed=seed)
    together = call("forward", tensors, case, bias=False)
    stride, padding, output_padding, groups, dilation = case.geometry
    channel = together.dim() - 4
    parts = [
        torch.ops.convt3d.forward(x, w, None, stride, padding, output_padding, 1, dilation)
        for x, w in zip(
            tensors.input.chunk(groups, channel), tensors.weight.chunk(groups, 0), strict=True
        )
    ]
    torch.testing.assert_close(together, torch.cat(parts, channel), rtol=1e-10, atol=1e-10)
