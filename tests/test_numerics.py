"""Results of the three operators against the float64 reference: cases x dtypes x layouts."""

from __future__ import annotations

import pytest
import torch
from cases import (
    BY_NAME,
    DTYPES,
    LAYOUTS,
    OPERATORS,
    SMALL,
    Case,
    call,
    make_case,
    make_tensors,
)
from poison import poison_freed_memory, poisoned_allocations
from reference import check, expected, relative_error

CASES_AND_DTYPES = [
    pytest.param(
        device,
        case,
        dtype,
        id=f"{device}-{case}-{str(dtype).removeprefix('torch.')}",
        marks=[pytest.mark.gpu] if device == "cuda" else [],
    )
    for device, dtypes in DTYPES.items()
    for case in SMALL
    for dtype in dtypes
]
RANDOM_LAYOUTS = [layout for layout in LAYOUTS if layout != "expanded"]


@pytest.mark.parametrize(("device", "case", "dtype"), CASES_AND_DTYPES)
def test_every_case(device: str, case: Case, dtype: torch.dtype, seed: int) -> None:
    poison_freed_memory(device)
    for operator in OPERATORS:
        tensors = make_tensors(case, dtype, device, seed=seed)
        wanted = expected(operator, case, tensors)
        for layout in RANDOM_LAYOUTS:
            tensors = make_tensors(case, dtype, device, layout, seed)
            check(call(operator, tensors, case), wanted, f"{operator}, {layout}")
        tensors = make_tensors(case, dtype, device, "expanded", seed)
        wanted = expected(operator, case, tensors, random=False)
        check(call(operator, tensors, case), wanted, f"{operator}, expanded")


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_without_bias(device: str, case: Case, seed: int) -> None:
    tensors = make_tensors(case, torch.float32, device, seed=seed)
    wanted = expected("forward", case, tensors, bias=False)
    check(call("forward", tensors, case, bias=False), wanted, "forward without bias")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d", "sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_every_element_is_written(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    tensors = make_tensors(case, dtype, device, layout)
    for operator in OPERATORS:
        plain = call(operator, tensors, case)
        with poisoned_allocations():
            if case.batch != 0:
                assert torch.empty(7, dtype=dtype, device=device).isnan().all()
            result = call(operator, tensors, case)
        assert torch.equal(result, plain), f"{operator} depends on what was in its memory"


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [case for case in SMALL if case.batch], ids=str)
def test_bitwise_repeatable(device: str, case: Case, dtype: torch.dtype, layout: str) -> None:
    tensors = make_tensors(case, dtype, device, layout)
    for operator in OPERATORS:
        first = call(operator, tensors, case)
        for _ in range(3):
            poison_freed_memory(device)
            assert torch.equal(call(operator, tensors, case), first), operator


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("case", [c for c in SMALL if c.batch and c.batch > 1], ids=str)
def test_a_sample_does_not_depend_on_its_batch(
    device: str, case: Case, dtype: torch.dtype, layout: str
) -> None:
    tensors = make_tensors(case, dtype, device, layout)
    together = torch.ops.convt3d.forward(
        tensors.input, tensors.weight, tensors.bias, *case.geometry
    )
    gradients = torch.ops.convt3d.grad_input(tensors.grad_output, tensors.weight, *case.geometry)
    for n in range(tensors.input.shape[0]):
        one = slice(n, n + 1)
        alone = torch.ops.convt3d.forward(
            tensors.input[one], tensors.weight, tensors.bias, *case.geometry
        )
        assert torch.equal(alone, together[one]), f"forward of sample {n}"
        alone = torch.ops.convt3d.grad_input(
            tensors.grad_output[one], tensors.weight, *case.geometry
        )
        assert torch.equal(alone, gradients[one]), f"grad_input of sample {n}"


# cuDNN's own figures with 'ieee' precision, see the contract of the operator: 1.5e-7 to 3e-6.
FLOAT32_LIMITS = {"forward": 1e-6, "grad_input": 1e-6, "grad_weight": 4e-6}


@pytest.mark.parametrize("name", ["several_tiles", "several_tiles_stride2", "wide_channels"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
def test_float32_is_accurate(device: str, name: str, layout: str, seed: int) -> None:
    case = BY_NAME[name]
    tensors = make_tensors(case, torch.float32, device, layout, seed)
    for operator, limit in FLOAT32_LIMITS.items():
        wanted = expected(operator, case, tensors)
        assert relative_error(call(operator, tensors, case), wanted) <= limit, operator


# Thousands of products per sum, which must not all be added one after the other. (oneDNN takes the
# ones with four taps per axis as they are.)
LONG_SUMS = [
    make_case("long_sums", (1, 200, 3, 4, 5), 200, 3, p=1),
    make_case("long_sums_groups", (2, 300, 2, 4, 5), 300, 3, s=(2, 1, 1), p=1, g=2),
    make_case("long_sums_direct", (2, 80, 4, 7, 8), 90, 4, s=(1, 1, 2), p=1),
]


@pytest.mark.parametrize("case", LONG_SUMS, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
def test_long_sums_are_accurate(device: str, case: Case, layout: str, seed: int) -> None:
    tensors = make_tensors(case, torch.float32, device, layout, seed)
    for operator, limit in FLOAT32_LIMITS.items():
        wanted = expected(operator, case, tensors)
        result = call(operator, tensors, case)
        check(result, wanted, f"{operator}, {layout}")
        assert relative_error(result, wanted) <= limit, operator


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_bound_sees_one_missing_product(dtype: torch.dtype, seed: int) -> None:
    case = make_case("long_sum", (1, 8192, 1, 3, 5), 4, 1)
    tensors = make_tensors(case, dtype, "cpu", seed=seed)
    wanted = expected("forward", case, tensors, bias=False)
    check(wanted.value.to(dtype), wanted, "nothing is missing")
    products = tensors.input.double()[0, :, None] * tensors.weight.double()
    middle = products.abs().median(0).indices  # of an ordinary size
    missing = products.gather(0, middle[None])
    with pytest.raises(AssertionError, match=f"{missing.numel()} of {missing.numel()} elements"):
        check((wanted.value - missing).to(dtype), wanted, "one product is missing")


@pytest.mark.parametrize("name", ["several_tiles", "several_tiles_stride2", "wide_channels"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_types_are_rounded_once(device: str, name: str, dtype: torch.dtype, seed: int) -> None:
    case = BY_NAME[name]
    tensors = make_tensors(case, dtype, device, seed=seed)
    for operator in OPERATORS:
        wanted = expected(operator, case, tensors)
        # What the reference itself loses when it is rounded to the dtype.
        limit = 1.05 * relative_error(wanted.value.to(dtype), wanted)
        assert relative_error(call(operator, tensors, case), wanted) <= limit, operator


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_stays_where_it_belongs(device: str, value: float) -> None:
    """One bad input voxel reaches the outputs of its taps and no other."""
    case = BY_NAME["kernel3_stride2"]
    for layout in ("contiguous", "channels_last_3d"):
        tensors = make_tensors(case, torch.float32, device, layout)
        tensors.input[0, 1, 1, 2, 3] = value
        reached = torch.zeros_like(tensors.input)
        reached[0, :, 1, 2, 3] = 1
        touched = torch.ops.convt3d.forward(
            reached, torch.ones_like(tensors.weight), None, *case.geometry
        )
        result = call("forward", tensors, case)
        assert torch.equal(~result.isfinite(), touched != 0), layout
