"""AOTInductor packages with dynamic sizes, run by Python and by a C++ program without Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import convt3d
import pytest
import torch
from cpp_program import build, needs_build
from torch import Tensor, nn
from torch.export import Dim

SIZES = [(2, 4, 3, 4, 5), (1, 4, 6, 2, 7), (5, 4, 2, 9, 3)]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = convt3d.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.second = convt3d.ConvTranspose3d(6, 2, 2, stride=(1, 2, 2), groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.second(torch.relu(self.first(x))))


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Tensor], list[Tensor]]:
    """A package, inputs of several sizes, and what the module makes of them."""
    torch.manual_seed(0)
    module = Decoder().eval()
    sizes = {axis: Dim.DYNAMIC for axis in (0, 2, 3, 4)}
    path = tmp_path_factory.mktemp("aoti") / "decoder.pt2"
    with torch.no_grad():
        program = torch.export.export(module, (torch.randn(SIZES[0]),), dynamic_shapes=(sizes,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        inputs = [torch.randn(size) for size in SIZES]
        return path, inputs, [module(x) for x in inputs]


RUN = """
import sys
import convt3d
import torch
import torch._inductor.codecache  # which loading a package needs, and torch 2.10 forgets
package, inputs, outputs = sys.argv[1:]
model = torch._inductor.aoti_load_package(package)
torch.save([model(x) for x in torch.load(inputs)], outputs)
"""


def check(command: list, package: tuple[Path, list[Tensor], list[Tensor]], folder: Path) -> None:
    """Have `command PACKAGE INPUTS OUTPUTS` run the package, and compare."""
    path, inputs, expected = package
    torch.save(inputs, folder / "inputs.pt")
    files = [path, folder / "inputs.pt", folder / "outputs.pt"]
    process = subprocess.run([*command, *files], capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    torch.testing.assert_close(list(torch.load(folder / "outputs.pt")), expected)


def test_run_by_python(package: tuple[Path, list[Tensor], list[Tensor]], tmp_path: Path) -> None:
    check([sys.executable, "-c", RUN], package, tmp_path)


@needs_build
def test_run_by_a_program_in_cpp(
    package: tuple[Path, list[Tensor], list[Tensor]], tmp_path: Path
) -> None:
    program = build("run_package", tmp_path)
    linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
    assert "libconvt3d" in linked
    assert "libpython" not in linked
    check([program], package, tmp_path)
