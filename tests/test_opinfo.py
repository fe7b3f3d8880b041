"""PyTorch's own description of ``conv_transpose3d`` with convt3d in the place of its kernels."""

from __future__ import annotations

from copy import copy

import convt3d
import pytest
import torch

# PyTorch's testing tools need it, and it is the one thing that a plain GPU machine may lack.
pytest.importorskip("expecttest")

from reference import Expected, check
from torch.autograd import gradcheck, gradgradcheck
from torch.testing._internal.common_device_type import OpDTypes, instantiate_device_type_tests, ops
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_utils import TestCase
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

(PYTORCH,) = (op for op in op_db if op.name == "nn.functional.conv_transpose3d")


def _with_convt3d() -> OpInfo:
    op = copy(PYTORCH)
    op.op = convt3d.conv_transpose3d
    op.decorators = op.skips = ()  # they excuse shortcomings of PyTorch's kernels
    return op


OPS = [_with_convt3d()]


def exact(sample: SampleInput) -> Expected:
    """PyTorch's result of a sample in float64 or complex128, and that of its absolute values."""

    def wide(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        # From complex32 there is no direct way everywhere.
        value = value.to(torch.complex64) if value.dtype == torch.complex32 else value
        return value.to(torch.complex128 if value.is_complex() else torch.float64)

    def magnitude(value: object) -> object:
        return value.abs() if isinstance(value, torch.Tensor) else value

    value = sample.transform(wide)
    absolute = value.transform(magnitude)
    return Expected(
        PYTORCH(value.input, *value.args, **value.kwargs),
        PYTORCH(absolute.input, *absolute.args, **absolute.kwargs),
        terms=1,
        random=True,
    )


class TestConvTranspose3d(TestCase):
    @ops(OPS)
    def test_equals_pytorch(self, device: str, dtype: torch.dtype, op: OpInfo) -> None:
        samples = list(op.sample_inputs(device, dtype, requires_grad=False))
        assert len(samples) == 10
        for sample in samples:
            ours = op(sample.input, *sample.args, **sample.kwargs)
            assert ours.dtype == dtype
            check(ours, exact(sample), str(sample))

    @ops(OPS, allowed_dtypes=(torch.float64, torch.complex128))
    def test_gradients(self, device: str, dtype: torch.dtype, op: OpInfo) -> None:
        for sample in op.sample_inputs(device, dtype, requires_grad=True):
            operands = [sample.input, *(a for a in sample.args if a is not None)]

            def function(*operands: torch.Tensor, kwargs: dict = sample.kwargs) -> torch.Tensor:
                return op(*operands, **kwargs)

            assert gradcheck(function, operands, fast_mode=True)
            assert gradgradcheck(function, operands, fast_mode=True)

    @ops(OPS, dtypes=OpDTypes.unsupported)
    def test_other_dtypes_are_refused(self, device: str, dtype: torch.dtype, op: OpInfo) -> None:
        x = torch.empty(1, 2, 3, 3, 3, dtype=dtype, device=device)
        w = torch.empty(2, 2, 2, 2, 2, dtype=dtype, device=device)
        if dtype == torch.complex32:  # supported here on CPU, too
            assert op(x, w).dtype == dtype
        else:
            with self.assertRaisesRegex(RuntimeError, "convt3d supports float16"):
                op(x, w)


instantiate_device_type_tests(TestConvTranspose3d, globals(), only_for=("cpu", "cuda"))
if "TestConvTranspose3dCUDA" in globals():
    globals()["TestConvTranspose3dCUDA"].pytestmark = [pytest.mark.gpu]
