"""The 26 public layers on a GPU: outputs and gradients in both layouts against the reference."""

from __future__ import annotations

import pytest
import torch
from cases import OPERATORS, PUBLIC, Case, Tensors, make_tensors
from reference import Expected, check, expected, relative_error
from torch import Tensor

pytestmark = pytest.mark.gpu

TF32_ERROR = 2.9e-4  # relative, of cuDNN in TF32


def trained(case: Case, tensors: Tensors) -> dict[str, Tensor]:
    """The output and the gradients as autograd delivers them."""
    x, w, b = (t.detach().requires_grad_() for t in (tensors.input, tensors.weight, tensors.bias))
    output = torch.ops.convt3d.forward(x, w, b, *case.geometry)
    output.backward(tensors.grad_output)
    assert x.grad is not None and w.grad is not None and b.grad is not None
    return {
        "forward": output.detach(),
        "grad_input": x.grad,
        "grad_weight": w.grad,
        "grad_bias": b.grad,
    }


def pytorch(case: Case, tensors: Tensors) -> dict[str, Tensor]:
    stride, padding, output_padding, groups, dilation = case.geometry
    x, w, b = tensors.input, tensors.weight, tensors.bias
    gx, gw, _ = torch.ops.aten.convolution_backward(
        tensors.grad_output,
        x,
        w,
        None,
        stride,
        padding,
        dilation,
        True,
        output_padding,
        groups,
        (True, True, False),
    )
    output = torch.nn.functional.conv_transpose3d(x, w, b, *case.geometry)
    return {"forward": output, "grad_input": gx, "grad_weight": gw}


def bias_gradient(tensors: Tensors) -> Expected:
    gy = tensors.grad_output.double()
    dims = (0, 2, 3, 4)
    terms = gy.numel() // gy.shape[1]
    return Expected(gy.sum(dims), gy.abs().sum(dims), terms, True)


def check_public(case: Case, dtype: torch.dtype, *, tf32: bool) -> None:
    limits: dict[str, float] = {}
    ieee = {"forward": 1e-6, "grad_input": 1e-6, "grad_weight": 4e-6}
    if dtype == torch.float32 and not tf32:
        limits = ieee
    tensors = make_tensors(case, dtype, "cuda")
    wanted = {operator: expected(operator, case, tensors) for operator in OPERATORS}
    if not limits:  # at most twice PyTorch's own error
        theirs = pytorch(case, tensors)
        limits = {op: 2 * relative_error(theirs[op], wanted[op]) for op in OPERATORS}
        if tf32:  # where cuDNN itself takes float32, what it measures elsewhere
            limits = {op: max(limits[op], 2 * TF32_ERROR) for op in OPERATORS}
        del theirs
    for layout in ("contiguous", "channels_last_3d"):
        placed = make_tensors(case, dtype, "cuda", layout)
        results = trained(case, placed)
        check(results["grad_bias"], bias_gradient(tensors), f"{layout} grad_bias")
        for operator in OPERATORS:
            label = f"{layout} {operator}"
            check(results[operator], wanted[operator], label, tf32=tf32)
            error = relative_error(results[operator], wanted[operator])
            assert error <= limits[operator], f"{label}: relative error {error:.3g}"
        assert (
            results["forward"].is_contiguous(memory_format=torch.channels_last_3d)
            == (layout == "channels_last_3d")
            or case.out_channels == 1
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_public_shape(case: Case, dtype: torch.dtype) -> None:
    check_public(case, dtype, tf32=False)


@pytest.mark.parametrize("case", PUBLIC, ids=str)
def test_public_shape_in_tf32(case: Case) -> None:
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    check_public(case, torch.float32, tf32=True)
