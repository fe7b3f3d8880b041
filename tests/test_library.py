"""The shared libraries: schemas, tags, dispatch keys and what they import."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from cases import OPERATORS
from convt3d import _library

ROOT = Path(__file__).resolve().parent.parent

# The names and argument orders that other programs call.
SCHEMAS = {
    "forward": "forward(Tensor input, Tensor weight, Tensor? bias=None, int[3] stride=1, "
    "int[3] padding=0, int[3] output_padding=0, int groups=1, int[3] dilation=1) -> Tensor",
    "grad_input": "grad_input(Tensor grad_output, Tensor weight, int[3] stride, int[3] padding, "
    "int[3] output_padding, int groups, int[3] dilation) -> Tensor",
    "grad_weight": "grad_weight(Tensor grad_output, Tensor input, int[3] stride, int[3] padding, "
    "int[3] output_padding, int groups, int[3] dilation) -> Tensor",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_schema(name: str) -> None:
    schema = torch._C.parse_schema(f"convt3d::{SCHEMAS[name]}")
    assert getattr(torch.ops.convt3d, name).default._schema == schema
    assert str(getattr(torch.ops.convt3d, name).default._schema) == str(schema)


def test_schemas_of_the_source() -> None:
    source = (ROOT / "csrc" / "library.cpp").read_text()
    definitions = re.findall(r"m\.def\(\s*((?:\"[^\"]*\"\s*)+)\)", source)
    texts = ["".join(re.findall(r'"([^"]*)"', definition)) for definition in definitions]
    for name in OPERATORS:
        assert SCHEMAS[name] in texts


def test_forward_has_pytorchs_argument_order() -> None:
    ours = torch.ops.convt3d.forward.default._schema.arguments
    theirs = torch.ops.aten.conv_transpose3d.input._schema.arguments
    assert [a.name for a in ours] == [a.name for a in theirs]


@pytest.mark.parametrize("name", OPERATORS)
def test_tags(name: str) -> None:
    tags = getattr(torch.ops.convt3d, name).default.tags
    assert torch.Tag.pt2_compliant_tag in tags
    assert torch.Tag.needs_exact_strides in tags


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("key", ["CPU", "Meta", pytest.param("CUDA", marks=pytest.mark.gpu)])
def test_registered_for(key: str, name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"convt3d::{name}", key)


def libraries() -> list[Path]:
    return sorted(_library.FOLDER.glob("libconvt3d*.so"))


def symbols(library: Path, *options: str) -> list[str]:
    if shutil.which("nm") is None:
        pytest.skip("nm is not installed")
    command = ["nm", "-D", "--format=posix", *options, str(library)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split()[0].split("@")[0] for line in output.splitlines()]


# C++ names of PyTorch's namespaces: they change from version to version, the C shims do not.
UNSTABLE = re.compile(r"_Z[A-Z]*\d*N?[A-Z]*K?(2at|3c10|5torch|6caffe2|8pybind11)")


@pytest.mark.parametrize("library", libraries(), ids=lambda path: path.name)
def test_only_stable_symbols_are_imported(library: Path) -> None:
    imported = symbols(library, "--undefined-only")
    assert [s for s in imported if s.startswith(("torch_", "aoti_torch_"))], "nothing of torch?"
    assert not [s for s in imported if UNSTABLE.match(s)]
    assert not [s for s in imported if re.match(r"_?Py[A-Z_]|PyObject", s)], "Python's C API"


@pytest.mark.parametrize(
    ("symbol", "unstable"),
    [
        ("_ZN2at6TensorD1Ev", True),
        ("_ZNK3c1010TensorImpl5sizesEv", True),
        ("_ZN5torch7LibraryC1Ev", True),
        ("_ZTIN3c105ErrorE", True),
        ("_ZNSt6vectorIlSaIlEED1Ev", False),
        ("aoti_torch_empty_strided", False),
    ],
)
def test_unstable_symbols_are_recognised(symbol: str, unstable: bool) -> None:
    assert bool(UNSTABLE.match(symbol)) == unstable


@pytest.mark.parametrize("library", libraries(), ids=lambda path: path.name)
def test_linked_libraries(library: Path) -> None:
    """torch's core and the C++ run time alone: no Python, no CUDA run time."""
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    command = ["readelf", "--dynamic", str(library)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(\S+?)\.so", output))
    allowed = {"libtorch_cpu", "libtorch_cuda", "libstdc++", "libm", "libgcc_s", "libc"}
    system = {"libpthread", "libdl", "librt", "ld-linux-x86-64", "ld-linux-aarch64"}
    assert needed <= allowed | system
    assert "libtorch_cpu" in needed


def test_the_cuda_library_would_hear_of_the_precision() -> None:
    conv = torch.backends.cudnn.conv
    for precision, allowed in (("ieee", 0), ("tf32", 1), ("ieee", 0)):
        conv.fp32_precision = precision
        assert _library._allows_tf32() == allowed
