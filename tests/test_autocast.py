"""Autocast: the region's own dtype, PyTorch's rule of what is cast, compiled regions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import convt3d
import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.nn.functional import conv_transpose3d

LOW = (torch.float16, torch.bfloat16)
GEOMETRY = (2, 1, 1)
# The results of two implementations in 16 bits, which differ by a rounding or two.
NEAR = {"atol": 2e-2, "rtol": 2e-2}


def operands(device: str, *dtypes: torch.dtype) -> list[Tensor]:
    """Input, weight, bias that need gradients, of one dtype or one each."""
    sizes = [(2, 4, 3, 3, 3), (4, 3, 3, 3, 3), (3,)]
    kinds = dtypes if len(dtypes) == 3 else dtypes * 3
    return [
        torch.randn(size, device=device).to(dtype).requires_grad_()
        for size, dtype in zip(sizes, kinds, strict=True)
    ]


def step(function: Callable[..., Tensor], tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of all operands."""
    output = function(*tensors, *GEOMETRY)
    return [output, *torch.autograd.grad(output.float().square().mean(), tensors)]


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(
    "kinds",
    [
        (torch.float32,),
        (torch.float16,),
        (torch.bfloat16,),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.float16),
    ],
    ids=str,
)
def test_equals_pytorch(device: str, kinds: tuple[torch.dtype, ...], dtype: torch.dtype) -> None:
    tensors = operands(device, *kinds)
    with torch.autocast(device, dtype):
        theirs = step(conv_transpose3d, tensors)
        ours = step(torch.ops.convt3d.forward, tensors)
    assert ours[0].dtype == dtype
    for tensor, gradient in zip(tensors, ours[1:], strict=True):
        assert gradient.dtype == tensor.dtype
    torch.testing.assert_close(ours, theirs, **NEAR)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("kind", [torch.float64, torch.complex64, torch.complex128], ids=str)
def test_wide_and_complex_stay(device: str, kind: torch.dtype, dtype: torch.dtype) -> None:
    tensors = [tensor.detach() for tensor in operands(device, kind)]
    with torch.autocast(device, dtype):
        y = torch.ops.convt3d.forward(*tensors, *GEOMETRY)
    assert torch.equal(y, torch.ops.convt3d.forward(*tensors, *GEOMETRY))


def test_float64_with_others_is_refused_as_outside(device: str) -> None:
    tensors = operands(device, torch.float64, torch.float32, torch.float32)
    with (
        torch.autocast(device, torch.bfloat16),
        pytest.raises(RuntimeError, match="should be the same"),
    ):
        torch.ops.convt3d.forward(*tensors)


def test_nested_regions(device: str) -> None:
    """Each call has the dtype of the innermost region; a disabled one has none."""
    tensors = operands(device, torch.float32)
    found = []

    def call() -> None:
        found.append(torch.ops.convt3d.forward(*tensors, *GEOMETRY).dtype)

    with torch.autocast(device, torch.bfloat16):
        call()
        with torch.autocast(device, torch.float16):
            call()
            with torch.autocast(device, enabled=False):
                call()
            call()
        call()
    call()
    low, half, full = torch.bfloat16, torch.float16, torch.float32
    assert found == [low, half, full, half, low, full]


@pytest.mark.gpu
@pytest.mark.parametrize("device, other", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_region_of_another_device(device: str, other: str) -> None:
    with torch.autocast(other, torch.bfloat16):
        y = torch.ops.convt3d.forward(*operands(device, torch.float32))
    assert y.dtype == torch.float32


def test_arguments_by_name(device: str) -> None:
    x, w, b = operands(device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        y = torch.ops.convt3d.forward(x, w, bias=b, dilation=2, stride=2)
        short = torch.ops.convt3d.forward(x, w, stride=2, dilation=2)
    wanted = torch.ops.convt3d.forward(*(t.bfloat16() for t in (x, w, b)), [2], [0], [0], 1, [2])
    assert torch.equal(y, wanted)
    assert short.dtype == torch.bfloat16


def test_gradient_operators_are_not_cast(device: str) -> None:
    x, w, _ = operands(device, torch.float32)
    with torch.autocast(device, torch.bfloat16):
        g = torch.ops.convt3d.grad_input(x, w.transpose(0, 1), 1, 1, 0, 1, 1)
    assert g.dtype == torch.float32


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@torch._inductor.config.patch(force_disable_caches=True)  # torch 2.11's forgets the region's dtype
def test_compiled(device: str, backend: str, inside: bool, dtype: torch.dtype) -> None:
    """With the region in the compiled function or around it."""
    torch._dynamo.reset()
    module = nn.Sequential(
        convt3d.ConvTranspose3d(4, 3, 3, stride=2, padding=1),
        nn.ReLU(),
        convt3d.ConvTranspose3d(3, 2, 2, stride=2),
    ).to(device)
    x = torch.randn(2, 4, 3, 3, 3, device=device)

    def run(x: Tensor) -> Tensor:
        with torch.autocast(device, dtype):
            return module(x)

    compiled = torch.compile(run if inside else module, fullgraph=True, backend=backend)

    def train(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        with contextlib.nullcontext() if inside else torch.autocast(device, dtype):
            y = function(x)
        return [y, *torch.autograd.grad(y.float().square().mean(), list(module.parameters()))]

    ours = train(compiled)
    assert ours[0].dtype == dtype
    assert all(gradient.dtype == torch.float32 for gradient in ours[1:])
    torch.testing.assert_close(ours, train(run if inside else module), **NEAR)


def test_compiled_follows_a_change_of_dtype(device: str) -> None:
    torch._dynamo.reset()
    tensors = operands(device, torch.float32)
    compiled = torch.compile(
        lambda *operands: torch.ops.convt3d.forward(*operands), fullgraph=True, backend="aot_eager"
    )
    for dtype in (torch.bfloat16, torch.float16, torch.bfloat16):
        with torch.autocast(device, dtype):
            assert compiled(*tensors).dtype == dtype
    assert compiled(*tensors).dtype == torch.float32
