"""Derivatives of all three operators to second order and beyond, and the gradients' format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import BY_NAME, OPERATORS, Case, arguments, make_case, make_tensors, with_layout
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

# Small enough for numerical Jacobians.
SOME = (
    make_case("stride2", (2, 2, 2, 3, 2), 3, 3, s=2, p=1, op=1),
    make_case("kernel_is_stride", (1, 2, 2, 1, 2), 2, 2, s=2),
    make_case(
        "asymmetric", (1, 4, 2, 1, 3), 2, (2, 1, 3), s=(1, 2, 3), p=(0, 0, 2), g=2, d=(2, 1, 2)
    ),
    make_case("dilated", (1, 2, 2, 2, 1), 2, 2, s=2, p=1, op=(0, 1, 1), d=(2, 3, 2)),
    make_case("depthwise", (2, 3, 2, 2, 1), 3, (2, 2, 1), p=(1, 0, 0), g=3),
    make_case("unbatched", (2, 2, 1, 3), 3, 2, s=2),
    make_case("batch0", (0, 2, 2, 2, 2), 3, 2),
)


def differentiable(
    operator: str, case: Case, dtype: torch.dtype, device: str
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The operator as a function of its tensors alone, and those tensors."""
    tensors = make_tensors(case, dtype, device)
    values = arguments(operator, tensors, case)
    operands = [v.requires_grad_() for v in values if isinstance(v, Tensor)]
    rest = values[len(operands) :]
    function = getattr(torch.ops.convt3d, operator)
    return lambda *operands: function(*operands, *rest), operands


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_first_and_second_derivative(
    device: str, case: Case, operator: str, dtype: torch.dtype
) -> None:
    function, operands = differentiable(operator, case, dtype, device)
    assert gradcheck(function, operands, fast_mode=case.batch is not None or dtype.is_complex)
    assert gradgradcheck(function, operands, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_third_derivative(device: str, operator: str) -> None:
    function, operands = differentiable(operator, SOME[0], torch.float64, device)

    def gradient(*operands: Tensor) -> tuple[Tensor, ...]:
        # tanh keeps the higher derivatives from vanishing: the operator alone is bilinear.
        return torch.autograd.grad(function(*operands).tanh().sum(), operands, create_graph=True)

    assert gradgradcheck(gradient, operands, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone(device: str, operator: str, wanted: int) -> None:
    """An operand that needs no gradient gets none, and the other's is right without it."""
    function, operands = differentiable(operator, SOME[0], torch.float64, device)
    both = torch.autograd.grad(function(*operands).square().sum(), operands[:2])
    for i, operand in enumerate(operands):
        operand.requires_grad_(i == wanted)
    (alone,) = torch.autograd.grad(function(*operands).square().sum(), operands[wanted])
    assert torch.equal(alone, both[wanted])


@pytest.mark.parametrize("unbatched", [False, True])
def test_bias_gradient_sums_over_positions(device: str, unbatched: bool) -> None:
    case = BY_NAME["unbatched" if unbatched else "kernel3_stride2"]
    tensors = make_tensors(case, torch.float64, device)
    bias = tensors.bias.requires_grad_()
    output = torch.ops.convt3d.forward(tensors.input, tensors.weight, bias, *case.geometry)
    output.backward(tensors.grad_output)
    channel = output.dim() - 4
    wanted = tensors.grad_output.transpose(0, channel).flatten(1).sum(1)
    torch.testing.assert_close(bias.grad, wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize(
    ("size", "in_steps"),
    [((2, 16, 4, 8, 16), True), ((16, 4, 8, 16), True), ((2, 16, 3, 5, 7), False)],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_bias_gradient_of_a_large_tensor(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    channels_last: bool,
    size: tuple[int, ...],
    in_steps: bool,
    dtype: torch.dtype,
) -> None:
    """In two steps it is the same sum, rounded to the result's dtype once."""
    monkeypatch.setattr("convt3d.autograd._LARGE", 0)
    generator = torch.Generator(device).manual_seed(len(size))
    grad = torch.randn(size, generator=generator, device=device).to(dtype)
    if channels_last:
        grad = grad.movedim(-4, -1).contiguous().movedim(-1, -4)
    bias = torch.zeros(16, dtype=dtype, device=device, requires_grad=True)
    # With a kernel of one voxel the output is as large as the input.
    weight = torch.zeros(16, 16, 1, 1, 1, dtype=dtype, device=device)
    output = torch.ops.convt3d.forward(torch.zeros_like(grad), weight, bias)
    with torch.profiler.profile() as profile:
        output.backward(grad)
    sums = sum(event.count for event in profile.key_averages() if event.key == "aten::sum")
    one_step = len(size) == 4 and not channels_last
    assert sums == (2 if (in_steps or not channels_last) and not one_step else 1)
    others = [dim for dim in range(len(size)) if dim != len(size) - 4]
    wanted = grad.to(torch.complex128 if dtype.is_complex else torch.float64).sum(others)
    rounding = 2.0**-8 if dtype == torch.bfloat16 else 1e-6
    assert bias.grad is not None
    torch.testing.assert_close(bias.grad.to(wanted.dtype), wanted, rtol=rounding, atol=1e-4)


@pytest.mark.parametrize("short", [True, False])
def test_arguments_left_out_have_their_defaults(device: str, short: bool) -> None:
    """The dispatcher drops trailing defaults; the backward must not count on them."""
    # In float64, where two orders of a sum that cancels agree within assert_close's tolerance.
    options = {"dtype": torch.float64, "device": device, "requires_grad": True}
    x = torch.randn(1, 2, 3, 3, 3, **options)
    w = torch.randn(2, 3, 2, 2, 2, **options)
    arguments = (x, w) if short else (x, w, None, [1], [0], [0], 1, [1])
    y = torch.ops.convt3d.forward(*arguments)
    gx, gw = torch.autograd.grad(y.square().sum(), (x, w))
    z = torch.nn.functional.conv_transpose3d(x, w)
    wanted = torch.autograd.grad(z.square().sum(), (x, w))
    torch.testing.assert_close((gx, gw), wanted)


FORMATS = ("contiguous", "channels_last_3d")


@pytest.mark.parametrize("of_gradient", FORMATS)
@pytest.mark.parametrize("of_weight", FORMATS)
@pytest.mark.parametrize("of_input", FORMATS)
@pytest.mark.parametrize("name", ["kernel3_stride2", "asymmetric", "unbatched"])
def test_gradients_follow_input_and_weight(
    device: str, name: str, of_input: str, of_weight: str, of_gradient: str
) -> None:
    """Whatever format the consumer of the output leaves its gradient in."""
    case = BY_NAME[name]
    tensors = make_tensors(case, torch.float32, device)
    x = with_layout(tensors.input, of_input).requires_grad_()
    w = with_layout(tensors.weight, of_weight).requires_grad_()
    y = torch.ops.convt3d.forward(x, w, None, *case.geometry)
    gx, gw = torch.autograd.grad(y, (x, w), with_layout(tensors.grad_output, of_gradient))
    # An unbatched sample says nothing of its batch's format: ATen's rule.
    telling = (of_weight,) if case.batch is None else (of_input, of_weight)
    wanted = "channels_last_3d" if "channels_last_3d" in telling else "contiguous"
    assert y.stride() == with_layout(y, wanted).stride()
    assert gx.stride() == with_layout(gx, wanted).stride()
    assert gw.stride() == with_layout(gw, wanted).stride()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d", "expanded"])
def test_gradients_of_a_sum(device: str, layout: str) -> None:
    """`sum().backward()` sends a gradient whose strides are all 0."""
    case = BY_NAME["groups2"]
    tensors = make_tensors(case, torch.float64, device, layout)
    x, w = tensors.input.detach().requires_grad_(), tensors.weight.detach().requires_grad_()
    torch.ops.convt3d.forward(x, w, None, *case.geometry).sum().backward()
    a, b = x.detach().requires_grad_(), w.detach().requires_grad_()
    torch.nn.functional.conv_transpose3d(a, b, None, *case.geometry).sum().backward()
    torch.testing.assert_close(x.grad, a.grad)
    torch.testing.assert_close(w.grad, b.grad)
