"""``torch.func``, forward mode and vmap: values of PyTorch's own convolution, by our kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
import torch
from cases import OPERATORS, Case, arguments, make_case, make_tensors
from test_autograd import SOME, differentiable
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.nn.functional import conv_transpose3d
from torch.utils._python_dispatch import TorchDispatchMode

CASES = (
    make_case("grouped", (2, 4, 3, 2, 2), 6, (2, 1, 2), s=2, p=(1, 0, 1), op=(0, 1, 0), g=2),
    make_case("unbatched", (2, 1, 2, 3), 3, 2, s=2, d=(1, 2, 1), op=1),
)
Function = Callable[..., Tensor]


class OursOnly(TorchDispatchMode):
    """Fails where PyTorch's convolution is called, and notes calls of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.called = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        assert "convolution" not in str(function), function
        self.called += "convt3d" in str(function)
        return function(*args, **(kwargs or {}))


def pair(case: Case) -> tuple[Function, Function]:
    """Ours and PyTorch's, as functions of input, weight and bias."""
    return (
        lambda *operands: torch.ops.convt3d.forward(*operands, *case.geometry),
        lambda *operands: conv_transpose3d(*operands, *case.geometry),
    )


def operands(case: Case, device: str, *mapped: int | None, of: int = 3, seed: int = 0):
    """Input, weight and bias; where ``mapped`` has a position, with an axis of size ``of``."""
    generator = torch.Generator(device).manual_seed(seed)
    sizes = [list(case.input), list(case.weight), [case.out_channels]]
    for size, axis in zip(sizes, mapped, strict=False):
        if axis is not None:
            size.insert(axis if axis >= 0 else len(size) + 1 + axis, of)
    return tuple(
        torch.randn(size, dtype=torch.float64, device=device, generator=generator) for size in sizes
    )


def compare(transformed: Callable[[Function], Any], case: Case) -> None:
    """``transformed`` of ours equals that of PyTorch's, and runs our kernels."""
    ours, theirs = pair(case)
    with OursOnly() as mode:
        found = transformed(ours)
    assert mode.called
    torch.testing.assert_close(found, transformed(theirs))


def curved(function: Function) -> Function:
    """A scalar: the operator alone is bilinear, which would hide higher derivatives."""
    return lambda *operands: function(*operands).tanh().sum()


def stacked(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> list[Tensor]:
    return [torch.stack(pair) for pair in zip(first, second, strict=True)]


TRANSFORMS: dict[str, Callable[[Function, tuple[Tensor, ...], tuple[Tensor, ...]], Any]] = {
    "grad": lambda f, x, t: grad(curved(f), (0, 1, 2))(*x),
    "vjp": lambda f, x, t: vjp(f, *x)[1](torch.ones_like(f(*x)) * 0.5),
    "jvp": lambda f, x, t: jvp(f, x, t),
    "linearize": lambda f, x, t: linearize(f, *x)[1](*t),
    "jacfwd": lambda f, x, t: jacfwd(f, (0, 1, 2))(*x),
    "jacrev": lambda f, x, t: jacrev(f, (0, 1, 2))(*x),
    "hessian": lambda f, x, t: hessian(curved(f), (1, 2))(*x),
    "grad_of_grad": lambda f, x, t: grad(lambda *y: grad(curved(f))(*y).sin().sum(), 1)(*x),
    "jvp_of_grad": lambda f, x, t: jvp(grad(curved(f), (0, 1)), x, t),
    "grad_of_jvp": lambda f, x, t: grad(lambda *y: jvp(curved(f), y, t)[1], (0, 1))(*x),
    "jvp_of_jvp": lambda f, x, t: jvp(lambda *y: jvp(curved(f), y, t)[1], x, t),
    "vmap_of_grad": lambda f, x, t: vmap(grad(curved(f), (0, 1)))(*stacked(x, t)),
    "grad_of_vmap": lambda f, x, t: grad(lambda *y: vmap(curved(f))(*y).sum(), (0, 1, 2))(
        *stacked(x, t)
    ),
    "jvp_of_vmap": lambda f, x, t: jvp(
        vmap(f),
        tuple(stacked(x, t)),
        tuple(stacked(t, x)),
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_equal_pytorchs(device: str, name: str, case: Case) -> None:
    primals, tangents = operands(case, device), operands(case, device, seed=1)
    compare(lambda f: TRANSFORMS[name](f, primals, tangents), case)


@pytest.mark.parametrize("which", [c for c in product([0, 1], repeat=3) if any(c)], ids=str)
def test_tangents_of_some_operands(device: str, which: tuple[int, ...]) -> None:
    case = CASES[0]
    primals, tangents = operands(case, device), operands(case, device, seed=1)

    def dual(function: Function) -> Any:
        with forward_ad.dual_level():
            mixed = [
                forward_ad.make_dual(p, t) if chosen else p
                for p, t, chosen in zip(primals, tangents, which, strict=True)
            ]
            return forward_ad.unpack_dual(function(*mixed))

    compare(dual, case)


MAPPED = [c for c in product([0, None], [0, None], [0, None]) if any(a == 0 for a in c)]
ELSEWHERE = [(-1, 2, 1), (1, -1, None), (4, None, -1), (None, 5, 0), (2, 1, None)]


@pytest.mark.parametrize("mapped", MAPPED + ELSEWHERE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_over_any_operands(device: str, case: Case, mapped: tuple[int | None, ...]) -> None:
    """Values, the gradients through it, and jvp of it."""
    tensors = operands(case, device, *mapped)
    compare(lambda f: vmap(f, mapped)(*tensors), case)
    compare(lambda f: vmap(f, mapped, out_dims=-1)(*tensors), case)
    compare(
        lambda f: grad(lambda *t: curved(vmap(f, mapped))(*t), (0, 1, 2))(*tensors),
        case,
    )
    compare(lambda f: vmap(grad(curved(f), (0, 1, 2)), mapped)(*tensors), case)


@pytest.mark.parametrize("mapped", MAPPED[:6:2], ids=str)
@pytest.mark.parametrize("outer", [(0, None, None), (None, 0, 0), (0, 0, None)], ids=str)
def test_nested_vmap(device: str, outer: tuple[int | None, ...], mapped: tuple[int | None, ...]):
    case = CASES[0]
    tensors = [
        torch.stack([t, t * 2]) if axis == 0 else t
        for t, axis in zip(operands(case, device, *mapped), outer, strict=True)
    ]
    compare(lambda f: vmap(vmap(f, mapped), outer)(*tensors), case)
    compare(lambda f: vmap(vmap(grad(curved(f), (0, 1)), mapped), outer)(*tensors), case)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0), (-1, 1)], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_of_every_operator(
    device: str, case: Case, mapped: tuple[int | None, int | None], operator: str
) -> None:
    """Against a loop."""
    first, second, *rest = arguments(operator, make_tensors(case, torch.float64, device), case)
    function = getattr(torch.ops.convt3d, operator)
    many = [
        t if axis is None else torch.stack([t, 2 * t + 1, t.sin()], axis)
        for t, axis in zip((first, second), mapped, strict=True)
    ]
    with OursOnly():
        found = vmap(lambda a, b: function(a, b, *rest), mapped)(*many)
    for i in range(3):
        pick = [
            t if axis is None else t.select(axis, i) for t, axis in zip(many, mapped, strict=True)
        ]
        torch.testing.assert_close(found[i], function(*pick, *rest))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_gradcheck(device: str, case: Case, dtype: torch.dtype, operator: str) -> None:
    function, tensors = differentiable(operator, case, dtype, device)
    options = {"check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(
        function, tensors, fast_mode=dtype.is_complex, check_batched_forward_grad=True, **options
    )
    assert gradgradcheck(function, tensors, fast_mode=True, check_fwd_over_rev=True)


def test_gradgradcheck_in_full(device: str) -> None:
    for operator in OPERATORS:
        function, tensors = differentiable(operator, SOME[0], torch.float64, device)
        assert gradgradcheck(function, tensors, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("layout", ["input", "weight"])
def test_per_sample_gradients_of_channels_last(device: str, layout: str) -> None:
    """vmap has no channels_last_3d clones, of which backward makes some."""
    case = CASES[0]
    x, w, b = operands(case, device, 0)
    if layout == "weight":
        w = w.to(memory_format=torch.channels_last_3d)
    else:
        x = torch.stack([sample.to(memory_format=torch.channels_last_3d) for sample in x])
    compare(lambda f: vmap(grad(curved(f), (0, 1, 2)), (0, None, None))(x, w, b), case)


@pytest.mark.parametrize(
    "sizes, text",
    [
        ([(2, 4, 3, 3, 3), (5, 6, 2, 2, 2), (6,)], "to have 5 channels, but got 4 channels"),
        ([(2, 4, 3, 3, 3), (4, 6, 2, 2, 2), (1,)], "with 6 elements, but got bias of size"),
        ([(4, 3, 3), (4, 6, 2, 2, 2), (6,)], "Expected 4D"),
        ([(2, 4, 3, 3, 3), (4, 6, 2, 2), (6,)], "Expected 5-dimensional weight"),
    ],
)
@pytest.mark.parametrize("mapped", MAPPED, ids=str)
def test_bad_sizes_in_vmap(mapped: tuple[int | None, ...], sizes: Any, text: str) -> None:
    """The sizes in the sentence are those of one sample, whatever is mapped."""
    tensors = [
        torch.randn(size if axis is None else (3, *size))
        for size, axis in zip(sizes, mapped, strict=True)
    ]
    with pytest.raises(RuntimeError, match=text):
        vmap(torch.ops.convt3d.forward, mapped)(*tensors)


def test_modes_of_the_caller(device: str) -> None:
    """``no_grad`` inside of a transform and around it means what it means for PyTorch."""
    case = CASES[0]
    primals, tangents = operands(case, device), operands(case, device, seed=1)

    def inside(function: Function) -> Any:
        def without(*t: Tensor) -> Tensor:
            with torch.no_grad():
                constant = function(*t).sin()
            return (function(*t) * constant).sum()

        return grad(without, (0, 1, 2))(*primals)

    def around(function: Function) -> Any:
        with torch.no_grad():
            return grad(curved(function))(*primals), jvp(function, primals, tangents)

    compare(inside, case)
    compare(around, case)


def test_ordinary_backward_through_a_transform(device: str) -> None:
    case = CASES[0]

    def backward(function: Function) -> Any:
        leaves = [t.clone().requires_grad_() for t in operands(case, device)]
        loss = sum(g.square().sum() for g in grad(curved(function), (0, 1))(*leaves))
        return torch.autograd.grad(loss, leaves)

    compare(backward, case)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_tensor_that_outlives_its_transform(device: str) -> None:
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x.sum()

    input = torch.randn(1, 2, 3, 3, 3, device=device)
    weight = torch.randn(2, 2, 2, 2, 2, device=device, requires_grad=True)
    grad(keep)(input)
    output = torch.ops.convt3d.forward(kept[0], weight)
    output.sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(output, torch.ops.convt3d.forward(input, weight), rtol=0, atol=0)


# `linearize` PyTorch does not trace, whatever the operator.
@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "linearize"])
def test_compiled_transforms(device: str, name: str, _fresh_compiler: None) -> None:
    case = CASES[0]
    ours, theirs = pair(case)
    primals, tangents = operands(case, device), operands(case, device, seed=1)

    def compiled(function: Function) -> Any:
        transformed = torch.compile(
            lambda x, t: TRANSFORMS[name](function, x, t), fullgraph=True, backend="aot_eager"
        )
        return transformed(primals, tangents)

    try:
        found = compiled(ours)
    except torch._dynamo.exc.TorchDynamoException:
        # torch 2.11 does not trace jacfwd on CUDA, whatever the operator.
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiled(theirs)
        pytest.skip("this torch does not trace the transform")
    torch.testing.assert_close(found, TRANSFORMS[name](ours, primals, tangents))
