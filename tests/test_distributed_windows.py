"""The arithmetic of windows: every shard's local problem gives its part of the whole result."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
from cases import Case, make_case
from convt3d.distributed.windows import Window, chunks, grad_output_window, input_window
from convt3d.meta.shape import Problem, forward_problem
from distributed_problems import random_case
from torch import Tensor
from torch.nn import functional as F


def problem_of(case: Case) -> Problem:
    return forward_problem(case.input, case.weight, None, *case.geometry)


def take(whole: Tensor, window: Window) -> Tensor:
    """The window's planes and its zeros along depth."""
    planes = whole.narrow(-3, window.start, window.end - window.start)
    return F.pad(planes, (0, 0, 0, 0, window.front, window.back))


def geometry_of(case: Case, window: Window) -> tuple:
    stride, padding, output_padding, groups, dilation = case.geometry
    return (
        stride,
        (window.padding, *padding[1:]),
        (window.output_padding, *output_padding[1:]),
        groups,
        dilation,
    )


@pytest.mark.parametrize("number", range(100))
def test_parts_make_the_whole(number: int, seed: int) -> None:
    rng = random.Random(1000 * seed + number)
    case, parts = random_case(rng), rng.randint(1, 5)
    torch.manual_seed(number)
    x, w, g = (
        torch.randn(size, dtype=torch.float64) for size in (case.input, case.weight, case.output)
    )
    axis = problem_of(case).axes[0]
    inputs, outputs = chunks(axis.input, parts), chunks(axis.output, parts)
    found: dict[str, list[Tensor]] = {"forward": [], "grad_input": [], "grad_weight": []}
    for has, gives in zip(inputs, outputs, strict=True):
        window = input_window(axis, gives, has)
        assert (window is None) == (gives[0] == gives[1])
        if window is not None:
            arguments = geometry_of(case, window)
            planes = take(x, window)
            part = g.narrow(-3, gives[0], gives[1] - gives[0])
            found["forward"].append(torch.ops.convt3d.forward(planes, w, None, *arguments))
            found["grad_weight"].append(torch.ops.convt3d.grad_weight(part, planes, *arguments))
        window = grad_output_window(axis, has, gives)
        assert (window is None) == (has[0] == has[1])
        if window is not None:
            arguments = geometry_of(case, window)
            found["grad_input"].append(torch.ops.convt3d.grad_input(take(g, window), w, *arguments))
    checks = {
        "forward": (torch.cat(found["forward"], -3), (x, w, None)),
        "grad_input": (torch.cat(found["grad_input"], -3), (g, w)),
        "grad_weight": (torch.stack(found["grad_weight"]).sum(0), (g, x)),
    }
    for operator, (result, operands) in checks.items():
        expected = getattr(torch.ops.convt3d, operator)(*operands, *case.geometry)
        torch.testing.assert_close(
            result, expected, rtol=1e-10, atol=1e-10, msg=lambda t, o=operator: f"{o} {case!r}: {t}"
        )


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 5, 8, 9])
def test_chunks_are_those_of_torch(size: int, parts: int) -> None:
    expected = [len(chunk) for chunk in torch.arange(size).chunk(parts)]
    expected += [0] * (parts - len(expected))
    assert [last - first for first, last in chunks(size, parts)] == expected
    assert chunks(size, parts)[0][0] == 0 and chunks(size, parts)[-1][1] == size


@pytest.mark.parametrize(
    "options", [{"s": 2}, {"s": 3, "op": 1}, {"s": 4, "op": 2}, {"s": 3, "d": 2}]
)
def test_taps_within_a_stride_need_nothing_from_others(options: dict) -> None:
    # Extent of the taps at most the stride, no padding, shards whose ends meet: no halo, no copy.
    case = make_case("tiling", (1, 1, 8, 1, 1), 1, 2, **options)
    axis = problem_of(case).axes[0]
    assert axis.output == 8 * axis.stride
    for has, gives in zip(chunks(axis.input, 4), chunks(axis.output, 4), strict=True):
        for window in (input_window(axis, gives, has), grad_output_window(axis, has, gives)):
            assert window is not None and (window.start, window.end) in (has, gives)
            assert window.is_range((window.start, window.end))


def test_a_halo_is_no_wider_than_the_taps() -> None:
    axis = problem_of(make_case("overlap", (1, 1, 16, 1, 1), 1, 4, s=2, p=1)).axes[0]
    window = input_window(axis, (8, 16), (4, 8))
    assert window is not None and (window.start, window.end) == (3, 9)
    window = grad_output_window(axis, (4, 8), (8, 16))
    assert window is not None and (window.start, window.end) == (7, 17)


def run_python(text: str) -> str:
    command = [sys.executable, "-c", text]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_import_brings_the_rules_when_dtensor_comes() -> None:
    loaded = "print('convt3d.distributed' in sys.modules)"
    text = f"import sys, convt3d; {loaded}; import torch.distributed.tensor; {loaded}"
    assert run_python(text).split() == ["False", "True"]
    text = f"import sys, torch.distributed.tensor, convt3d; {loaded}"
    assert run_python(text).split() == ["True"]


def test_without_torch_distributed() -> None:
    text = """
import torch
torch.distributed.is_available = lambda: False
import convt3d
print(tuple(convt3d.conv_transpose3d(torch.ones(1, 1, 2, 2, 2), torch.ones(1, 1, 2, 2, 2)).shape))
try:
    import convt3d.distributed
except ImportError as error:
    print(error)
"""
    size, message = run_python(text).splitlines()
    assert size == "(1, 1, 3, 3, 3)"
    assert message == ("convt3d.distributed needs a PyTorch that was built with torch.distributed")
