"""ONNX: one ``ConvTranspose`` for one operator, and onnxruntime agrees with it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import convt3d
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = [(2, 4, 3, 4, 5), (1, 4, 6, 2, 7), (5, 4, 2, 9, 3)]


def exported(module: nn.Module, x: Tensor, *, dynamic: bool = True) -> torch.onnx.ONNXProgram:
    axes = [axis for axis in range(x.dim()) if axis != x.dim() - 4]
    program = torch.onnx.export(
        module.eval(),
        (x,),
        dynamo=True,
        verbose=False,
        custom_translation_table=convt3d.onnx_translation_table(),
        dynamic_shapes=({axis: Dim.DYNAMIC for axis in axes},) if dynamic else None,
    )
    assert program is not None
    return program


def operators(program: torch.onnx.ONNXProgram) -> list[str]:
    return [node.op_type for node in program.model.graph]


def session(program: torch.onnx.ONNXProgram, folder: Path):
    program.save(folder / "model.onnx")
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def run(session, x: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


LAYERS = {
    "stride2": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "no_bias": {"kernel_size": 2, "stride": 2, "bias": False},
    "asymmetric": {
        "kernel_size": (3, 2, 5),
        "stride": (2, 1, 3),
        "padding": (1, 0, 2),
        "output_padding": (1, 0, 2),
        "groups": 2,
        "dilation": (1, 2, 1),
    },
    "depthwise": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 4},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "padding_above_kernel": {"kernel_size": 1, "stride": 3, "padding": 2, "output_padding": 2},
    # onnxruntime takes no output padding of a stride or more.
    "output_padding_is_stride": {
        "kernel_size": 3,
        "padding": 1,
        "output_padding": 1,
        "dilation": 2,
    },
    "output_padding_above_stride": {
        "kernel_size": 2,
        "stride": 2,
        "padding": 2,
        "output_padding": 3,
        "dilation": 4,
    },
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_dynamic_sizes(name: str, tmp_path: Path) -> None:
    layer = convt3d.ConvTranspose3d(4, 4, **LAYERS[name])
    program = exported(layer, torch.randn(SIZES[0]))
    assert operators(program) == ["ConvTranspose"]
    runtime = session(program, tmp_path)
    for size in SIZES:
        if name == "padding_above_kernel" and min(size[2:]) < 3:
            continue  # nothing would be left of the output
        x = torch.randn(size)
        torch.testing.assert_close(run(runtime, x), layer(x).detach())


def test_static_sizes(tmp_path: Path) -> None:
    layer, x = convt3d.ConvTranspose3d(4, 6, 3), torch.randn(SIZES[0])
    program = exported(layer, x, dynamic=False)
    assert operators(program) == ["ConvTranspose"]
    torch.testing.assert_close(run(session(program, tmp_path), x), layer(x).detach())


def test_a_decoder(tmp_path: Path) -> None:
    """Also a call of the operator itself, with one number for all axes and arguments left out."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = convt3d.ConvTranspose3d(4, 6, 2, stride=2)
            self.weight = nn.Parameter(torch.randn(6, 2, 3, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.up(x))
            return torch.ops.convt3d.forward(y, self.weight, stride=2, padding=[1])

    module = Decoder()
    program = exported(module, torch.randn(SIZES[0]))
    assert operators(program) == ["ConvTranspose", "Relu", "ConvTranspose"]
    runtime = session(program, tmp_path)
    for size in SIZES:
        x = torch.randn(size)
        torch.testing.assert_close(run(runtime, x), module(x).detach())


def test_output_padding_below_the_stride_keeps_its_usual_form() -> None:
    layer = convt3d.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1)
    (node,) = exported(layer, torch.randn(SIZES[0])).model.graph
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    assert list(attributes["pads"]) == [1] * 6
    assert list(attributes["output_padding"]) == [1] * 3


def test_float16(tmp_path: Path) -> None:
    """onnxruntime computes it in float32 on CPUs and rounds the result."""
    layer, x = convt3d.ConvTranspose3d(4, 6, 3, 2).half(), torch.randn(SIZES[0]).half()
    output = run(session(exported(layer, x), tmp_path), x)
    assert output.dtype == torch.float16
    torch.testing.assert_close(output, layer(x).detach())


def test_float64_is_exported() -> None:
    layer, x = convt3d.ConvTranspose3d(4, 6, 3, 2).double(), torch.randn(SIZES[0]).double()
    program = exported(layer, x)
    assert operators(program) == ["ConvTranspose"]
    assert str(program.model.graph.outputs[0].dtype) == "DOUBLE"


def refused(module: nn.Module, x: Tensor) -> str:
    """The sentence at the root of the exporter's error."""
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as error:
        exported(module, x)
    found = re.search(r"<class 'ValueError'>: (.*)", str(error.value))
    assert found, str(error.value)
    return found.group(1)


def test_unbatched_is_refused() -> None:
    assert refused(convt3d.ConvTranspose3d(4, 6, 3), torch.randn(SIZES[0][1:])) == (
        "ONNX's ConvTranspose has no unbatched form: export conv_transpose3d with a 5-D (batched) "
        "input, not with 4 dimensions"
    )


def test_bfloat16_is_refused() -> None:
    layer = convt3d.ConvTranspose3d(4, 6, 3).bfloat16()
    assert refused(layer, torch.randn(SIZES[0]).bfloat16()) == (
        "ONNX export of conv_transpose3d supports float16, float32 and float64, but got BFLOAT16"
    )


def test_without_onnxscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'convt3d\[export\]'"):
        convt3d.onnx_translation_table()
