"""Fake functions against real results: sizes, strides, dtypes, devices."""

from __future__ import annotations

import pytest
import torch
from cases import LAYOUTS, OPERATORS, PUBLIC, SMALL, Case, arguments, call, make_tensors
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode


def fake_result(operator: str, values: tuple) -> Tensor:
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(v) if isinstance(v, Tensor) else v for v in values]
        return getattr(torch.ops.convt3d, operator)(*fakes)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_fake_equals_real(device: str, case: Case, layout: str) -> None:
    tensors = make_tensors(case, torch.float32, device, layout)
    for operator in OPERATORS:
        real = call(operator, tensors, case)
        fake = fake_result(operator, arguments(operator, tensors, case))
        assert fake.shape == real.shape, operator
        assert fake.stride() == real.stride(), operator
        assert (fake.dtype, fake.device, fake.layout) == (real.dtype, real.device, real.layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", [case for case in SMALL if case.batch is not None], ids=str)
def test_format_is_pytorchs_rule(device: str, case: Case, layout: str) -> None:
    """channels_last_3d where ``suggest_memory_format`` says so of one of the two operands."""
    tensors = make_tensors(case, torch.float32, device, layout)
    for operator in OPERATORS:
        first, second = (a for a in arguments(operator, tensors, case, bias=False)[:2])
        formats = {suggest_memory_format(first), suggest_memory_format(second)}
        channels_last = torch.channels_last_3d in formats
        memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        result = call(operator, tensors, case)
        wanted = torch.empty(result.shape, memory_format=memory_format)
        assert result.stride() == wanted.stride(), operator


@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_public_sizes(case: Case) -> None:
    """The sizes of all public layers, which PyTorch's own meta function computes as well."""
    sizes = {"x": case.input, "w": case.weight, "y": case.output}
    empty = {name: torch.empty(size, device="meta") for name, size in sizes.items()}
    y = torch.ops.convt3d.forward(empty["x"], empty["w"], None, *case.geometry)
    theirs = torch.nn.functional.conv_transpose3d(empty["x"], empty["w"], None, *case.geometry)
    assert y.shape == theirs.shape == case.output
    gx = torch.ops.convt3d.grad_input(y, empty["w"], *case.geometry)
    assert gx.shape == case.input
    gw = torch.ops.convt3d.grad_weight(y, empty["x"], *case.geometry)
    assert gw.shape == case.weight


def test_meta_sizes_beyond_2_to_the_31() -> None:
    x = torch.empty(4, 64, 512, 512, 512, device="meta")
    w = torch.empty(64, 64, 2, 2, 2, device="meta")
    y = torch.ops.convt3d.forward(x, w, None, 2)
    assert y.shape == (4, 64, 1024, 1024, 1024)
    assert y.stride(0) == 64 * 2**30
