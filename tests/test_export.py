"""``torch.export``: dynamic sizes, the operator intact or decomposed, loaded in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import convt3d
import pytest
import torch
from cases import OPERATORS, SMALL, Case, arguments, make_tensors
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.proxy_tensor import make_fx

OTHER_SIZES = [(1, 4, 3, 4, 5), (3, 4, 6, 2, 7), (5, 4, 2, 9, 3)]


class Upsampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = convt3d.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.up(x)) + 1


def exported(device: str) -> tuple[nn.Module, ExportedProgram]:
    module = Upsampler().to(device).eval()
    x = torch.randn(2, 4, 3, 4, 5, device=device)
    sizes = {0: Dim("batch"), 2: Dim("depth"), 3: Dim("height"), 4: Dim("width")}
    return module, export(module, (x,), dynamic_shapes=(sizes,))


def test_dynamic_batch_and_spatial_sizes(device: str) -> None:
    module, program = exported(device)
    for size in OTHER_SIZES:
        x = torch.randn(size, device=device)
        torch.testing.assert_close(program.module()(x), module(x))


def test_the_operator_is_one_node(device: str) -> None:
    _, program = exported(device)
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    ours = [node for node in nodes if node.target is torch.ops.convt3d.forward.default]
    assert len(ours) == 1
    assert not [node for node in nodes if "conv" in str(node.target) and node not in ours]
    decomposed = program.run_decompositions()
    targets = [node.target for node in decomposed.graph.nodes]
    assert targets.count(torch.ops.convt3d.forward.default) == 1


RUN = """
import sys
import convt3d
import torch
torch.backends.cudnn.allow_tf32 = False  # as in the tests' own process
program, inputs, outputs = sys.argv[1:]
module = torch.export.load(program).module()
torch.save([module(x) for x in torch.load(inputs)], outputs)
"""


def test_saved_and_loaded_in_a_new_process(device: str, tmp_path: Path) -> None:
    module, program = exported(device)
    inputs = [torch.randn(size, device=device) for size in OTHER_SIZES]
    files = [str(tmp_path / name) for name in ("program.pt2", "inputs.pt", "outputs.pt")]
    torch.export.save(program, files[0])
    torch.save(inputs, files[1])
    subprocess.run([sys.executable, "-c", RUN, *files], check=True, timeout=300)
    for x, output in zip(inputs, torch.load(files[2]), strict=True):
        torch.testing.assert_close(output, module(x))


def test_bad_sizes_are_refused_while_exporting() -> None:
    with pytest.raises(Exception, match="to have 4 channels, but got 3 channels instead"):
        export(Upsampler(), (torch.randn(2, 3, 3, 4, 5),))


def decomposed(program: ExportedProgram, *, with_pytorchs: bool) -> ExportedProgram:
    table = convt3d.decompositions()
    if with_pytorchs:
        every = torch.export.default_decompositions()
        every.update(table)
        return program.run_decompositions(every)
    return program.run_decompositions(table)


@pytest.mark.parametrize("with_pytorchs", [False, True])
def test_decomposed_to_one_convolution(device: str, with_pytorchs: bool) -> None:
    module, program = exported(device)
    program = decomposed(program, with_pytorchs=with_pytorchs)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert [t for t in targets if "conv" in t] == ["aten.convolution.default"]
    for size in OTHER_SIZES:
        x = torch.randn(size, device=device)
        torch.testing.assert_close(program.module()(x), module(x))


RUN_WITHOUT = (
    RUN.replace("import convt3d\n", "") + "assert not hasattr(torch.ops.convt3d, 'forward')"
)


def test_decomposed_runs_where_convt3d_is_not(device: str, tmp_path: Path) -> None:
    module, program = exported(device)
    inputs = [torch.randn(size, device=device) for size in OTHER_SIZES]
    files = [str(tmp_path / name) for name in ("program.pt2", "inputs.pt", "outputs.pt")]
    torch.export.save(decomposed(program, with_pytorchs=False), files[0])
    torch.save(inputs, files[1])
    subprocess.run([sys.executable, "-c", RUN_WITHOUT, *files], check=True, timeout=300)
    for x, output in zip(inputs, torch.load(files[2]), strict=True):
        torch.testing.assert_close(output, module(x))


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_decomposition_of_every_case(case: Case, operator: str) -> None:
    overload = getattr(torch.ops.convt3d, operator).default
    values = arguments(operator, make_tensors(case, torch.float64, "cpu"), case)
    tensors = [value for value in values if isinstance(value, Tensor)]
    others = values[len(tensors) :]
    graph = make_fx(
        lambda *tensors: overload(*tensors, *others),
        decomposition_table=convt3d.decompositions(),
        tracing_mode="fake",
    )(*tensors)
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert not [target for target in targets if "convt3d" in target]
    torch.testing.assert_close(graph(*tensors), overload(*values))


@pytest.mark.parametrize("operator", OPERATORS)
def test_decomposition_takes_one_number_for_all_axes(operator: str) -> None:
    case = next(case for case in SMALL if case.name == "output_padding_is_stride")
    tensors = make_tensors(case, torch.float64, "cpu")
    first, second = arguments(operator, tensors, case)[:2]
    bias = (None,) if operator == "forward" else ()
    short = [[v[0]] if isinstance(v, tuple) else v for v in case.geometry]
    overload = getattr(torch.ops.convt3d, operator).default
    result = convt3d.decompositions()[overload](first, second, *bias, *short)
    torch.testing.assert_close(result, overload(first, second, *bias, *case.geometry))


@pytest.mark.parametrize("operator", OPERATORS)
def test_complex_is_not_decomposed(operator: str) -> None:
    case = SMALL[0]
    values = arguments(operator, make_tensors(case, torch.complex64, "cpu"), case)
    entry = convt3d.decompositions()[getattr(torch.ops.convt3d, operator).default]
    with pytest.raises(NotImplementedError, match=r"real dtypes only, but got torch.complex64"):
        entry(*values)
