"""The internal operators that run one engine by name, and no other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from cases import BY_NAME, OPERATORS, Tensors, arguments, call, make_case, make_tensors
from torch import Tensor

CASE = make_case("engines", (2, 16, 9, 9, 9), 16, 3, s=2, p=1, op=1)
ENGINES = {
    "forward": ("depthwise", "im2col", "tapwise", "gathered", "wgmma", "gemm", "direct"),
    "grad_input": ("depthwise", "im2col", "tapwise", "gathered", "wgmma", "gemm", "direct"),
    "grad_weight": ("depthwise", "im2col", "tapwise", "gathered", "wgmma", "gemm", "direct"),
}


def in_engine(operator: str, engine: str, tensors: Tensors) -> Tensor:
    function = getattr(torch.ops.convt3d, f"_{operator}")
    return function(*arguments(operator, tensors, CASE), engine=engine)


@pytest.mark.parametrize("operator", OPERATORS)
def test_schema_is_the_public_one_and_the_engine(operator: str) -> None:
    public = getattr(torch.ops.convt3d, operator).default._schema.arguments
    internal = getattr(torch.ops.convt3d, f"_{operator}").default._schema.arguments
    assert [(a.name, str(a.type)) for a in internal[:-1]] == [(a.name, str(a.type)) for a in public]
    assert (internal[-1].name, internal[-1].kwarg_only) == ("engine", True)
    assert not any(argument.has_default_value() for argument in internal)


@pytest.mark.parametrize("operator", OPERATORS)
def test_there_are_no_engines_on_the_cpu(operator: str) -> None:
    tensors = make_tensors(CASE, torch.float32, "cpu")
    message = f"Could not run 'convt3d::_{operator}' with arguments from the 'CPU' backend"
    with pytest.raises(NotImplementedError, match=message):
        in_engine(operator, "direct", tensors)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", OPERATORS)
def test_automatic_is_the_public_operator(operator: str) -> None:
    tensors = make_tensors(CASE, torch.bfloat16, "cuda")
    assert torch.equal(in_engine(operator, "auto", tensors), call(operator, tensors, CASE))


@pytest.mark.gpu
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("batch", ["full", "empty"])
def test_unknown_engine(operator: str, batch: str) -> None:
    """Also where there is nothing to compute."""
    case = CASE if batch == "full" else BY_NAME["batch0"]
    tensors = make_tensors(case, torch.float16, "cuda")
    function = getattr(torch.ops.convt3d, f"_{operator}")
    names = ", ".join(("auto", *ENGINES[operator]))
    with pytest.raises(RuntimeError, match=f"no engine 'fast' for this pass; there are {names}"):
        function(*arguments(operator, tensors, case), engine="fast")


@pytest.mark.gpu
@pytest.mark.parametrize("operator", OPERATORS)
def test_engine_that_cannot_says_why(operator: str) -> None:
    """complex64 has no tensor-core kernel: nothing else steps in."""
    tensors = make_tensors(CASE, torch.complex64, "cuda")
    for engine in ENGINES[operator][:-1]:
        with pytest.raises(RuntimeError, match=f"engine '{engine}' cannot run .*, because "):
            in_engine(operator, engine, tensors)
    assert torch.equal(in_engine(operator, "direct", tensors), call(operator, tensors, CASE))


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("operator", "engine"),
    [("forward", "wgmma"), ("grad_input", "wgmma"), ("grad_weight", "gathered")],
)
def test_hopper_engines_need_tf32_for_float32(operator: str, engine: str) -> None:
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("WGMMA is Hopper's alone")
    tensors = make_tensors(CASE, torch.float32, "cuda")
    with pytest.raises(RuntimeError, match="TF32, which is not allowed"):
        in_engine(operator, engine, tensors)
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert in_engine(operator, engine, tensors).dtype == torch.float32


@pytest.mark.gpu
def test_engines_do_differ() -> None:
    """Forcing has an effect: different orders of summation show in the last bits."""
    case = make_case("engines_differ", (2, 64, 8, 16, 16), 32, 3, p=1)
    tensors = make_tensors(case, torch.float32, "cuda")
    results = [
        torch.ops.convt3d._forward(*arguments("forward", tensors, case), engine=engine)
        for engine in ("gemm", "direct")
    ]
    assert not torch.equal(*results)


@pytest.mark.gpu
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("engine", ["tapwise", "wgmma"])
def test_first_call_of_a_thread(operator: str, engine: str) -> None:
    """Describing a tensor to the copy engine needs a context that is current in the thread."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("WGMMA is Hopper's alone")
    case = make_case("first_call", (2, 64, 5, 6, 7), 64, 3, s=2, p=1, op=1)
    tensors = make_tensors(case, torch.bfloat16, "cuda", "channels_last_3d")
    function = getattr(torch.ops.convt3d, f"_{operator}")

    def run() -> Tensor:
        return function(*arguments(operator, tensors, case), engine=engine)

    expected = run()
    with ThreadPoolExecutor(1) as pool:
        assert torch.equal(pool.submit(run).result(), expected)
