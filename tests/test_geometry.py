"""The index algebra: the C++ tap table against the definition, the Python twin against C++."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cases import PUBLIC, SMALL, Case
from convt3d.meta import forward_problem, grad_input_problem, grad_weight_problem

ROOT = Path(__file__).resolve().parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("geometry_test", 10_000),
        ("kernel_geometry_test", 3000),
        ("gathered_geometry_test", 700),
        ("depthwise_test", 1500),
    ],
)
def test_against_the_definition(tmp_path: Path, name: str, least: int) -> None:
    """The tap table, the index algebra of the tensor-core kernels, the depthwise threads."""
    program = tmp_path / name
    sources = [ROOT / "tests" / "cpp" / f"{name}.cpp", ROOT / "csrc" / "geometry.cpp"]
    command = [str(COMPILER), "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    found = re.fullmatch(r"(\d+) (axes|problems) agree\n", run.stdout)
    assert found is not None and int(found[1]) > least


@pytest.mark.parametrize("case", [*SMALL, *PUBLIC], ids=str)
def test_python_twin(case: Case) -> None:
    """The three Python problems agree with one another and with PyTorch's output size."""
    forward = forward_problem(case.input, case.weight, (case.out_channels,), *case.geometry)
    assert forward.output_size() == case.output
    module = torch.nn.ConvTranspose3d(
        case.in_channels,
        case.out_channels,
        case.kernel,
        case.stride,
        case.padding,
        case.output_padding,
        case.groups,
        False,
        case.dilation,
        device="meta",
    )
    assert tuple(module(torch.empty(case.input, device="meta")).shape) == case.output
    grad_input = grad_input_problem(case.output, case.weight, *case.geometry)
    assert grad_input.input_size() == case.input
    grad_weight = grad_weight_problem(case.output, case.input, *case.geometry)
    assert grad_weight.weight_size() == case.weight
    assert forward == grad_input == grad_weight
