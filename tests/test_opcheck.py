"""``torch.library.opcheck`` on every case of all three operators.

It checks the schema (nothing is aliased or changed), the registration of derivatives, fake tensors
against real ones and tracing with symbolic sizes.
"""

from __future__ import annotations

import pytest
import torch
from cases import BY_NAME, LAYOUTS, OPERATORS, SMALL, Case, arguments, make_tensors
from torch import Tensor

# Tracing with symbolic sizes takes most of the time: for the gradients on these cases alone.
TRACED = (
    "kernel3_stride2",
    "kernel_is_stride2",
    "stride2_dilation2",
    "padding_above_kernel",
    "output_padding_above_stride",
    "asymmetric",
    "depthwise",
    "one_channel",
    "unbatched_groups",
    "batch0",
)
QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")
ALL = (*QUICK, "test_aot_dispatch_dynamic")


def check(operator: str, case: Case, device: str, layout: str, tests: tuple[str, ...]) -> None:
    # float64: gradients through a trace differ by roundings of other memory formats, which float32
    # would show.
    tensors = make_tensors(case, torch.float64, device, layout)
    values = tuple(
        v.detach().requires_grad_() if isinstance(v, Tensor) else v
        for v in arguments(operator, tensors, case)
    )
    overload = getattr(torch.ops.convt3d, operator).default
    results = torch.library.opcheck(overload, values, test_utils=tests)
    assert results == dict.fromkeys(tests, "SUCCESS")


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_every_case(case: Case, operator: str) -> None:
    traced = operator == "forward" or case.name in TRACED
    check(operator, case, "cpu", "contiguous", ALL if traced else QUICK)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["kernel3_stride2", "unbatched"])
def test_every_layout(device: str, name: str, layout: str, operator: str) -> None:
    check(operator, BY_NAME[name], device, layout, QUICK)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.complex64], ids=str)
def test_other_dtypes(device: str, dtype: torch.dtype, operator: str) -> None:
    case = BY_NAME["asymmetric"]
    values = arguments(operator, make_tensors(case, dtype, device), case)
    torch.library.opcheck(getattr(torch.ops.convt3d, operator).default, values)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(
    "name", ["asymmetric", "stride2_dilation2", "depthwise", "several_tiles", "batch0"]
)
def test_cases_on_cuda(name: str, operator: str) -> None:
    check(operator, BY_NAME[name], "cuda", "channels_last_3d", ALL)
