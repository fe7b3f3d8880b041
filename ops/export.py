"""What targets without convt3d's libraries run instead: ATen's operators, and ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from convt3d.meta.shape import grad_input_problem, grad_weight_problem
from torch import Tensor

_aten = torch.ops.aten


def decompositions() -> dict[torch._ops.OpOverload, Callable[..., Tensor]]:
    """convt3d's operators in terms of ``aten.convolution`` and ``aten.convolution_backward``.

    For ``ExportedProgram.run_decompositions``, alone or merged into another table, and wherever
    PyTorch takes a ``decomposition_table``. The result needs no library but PyTorch's, and
    computes on its kernels. Real dtypes, batched and unbatched, sizes may be dynamic.

    Returns:
        A new table with an entry for each of ``forward``, ``grad_input`` and ``grad_weight``.

    The entries raise NotImplementedError for complex tensors, which ``aten.convolution`` does not
    compute.
    """
    ours = torch.ops.convt3d
    return {
        ours.forward.default: _forward,
        ours.grad_input.default: _grad_input,
        ours.grad_weight.default: _grad_weight,
    }


def _forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    _refuse_complex(input)
    output = _aten.convolution.default(
        _batched(input), weight, bias, stride, padding, dilation, True, output_padding, groups
    )
    return output if input.dim() == 5 else output.squeeze(0)


def _grad_input(
    grad_output: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    _refuse_complex(grad_output)
    size = grad_input_problem(
        grad_output.shape, weight.shape, stride, padding, output_padding, groups, dilation
    ).input_size()
    grad = _aten.convolution.default(
        _batched(grad_output), weight, None, stride, padding, dilation, False, [0, 0, 0], groups
    )
    grad = grad if grad_output.dim() == 5 else grad.squeeze(0)
    # A convolution goes on into the output padding where that holds whole strides.
    for axis, pad, step in zip((-3, -2, -1), _three(output_padding), _three(stride), strict=True):
        if pad >= step:
            grad = grad.narrow(axis, 0, size[axis])
    return grad


def _grad_weight(
    grad_output: Tensor,
    input: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Tensor:
    _refuse_complex(grad_output)
    size = grad_weight_problem(
        grad_output.shape, input.shape, stride, padding, output_padding, groups, dilation
    ).weight_size()
    # Of the weight only the size is read.
    return _aten.convolution_backward.default(
        _batched(grad_output), _batched(input), input.new_empty(size), None,
        stride, padding, dilation, True, output_padding, groups, [False, True, False],
    )[1]  # fmt: skip


def _batched(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 5 else tensor.unsqueeze(0)


def _three(values: Sequence[int]) -> Sequence[int]:
    return list(values) * 3 if len(values) == 1 else values


def _refuse_complex(tensor: Tensor) -> None:
    if tensor.is_complex():
        raise NotImplementedError(
            f"convt3d's decompositions support real dtypes only, but got {tensor.dtype}"
        )


def onnx_translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """convt3d's forward operator as ONNX's ``ConvTranspose``, one node for one call.

    For ``torch.onnx.export(..., dynamo=True, custom_translation_table=onnx_translation_table())``.
    Batched input of float16, float32 or float64; batch and spatial sizes may be dynamic. What runs
    the file has its own limits: onnxruntime's CPU provider has no float64, and no
    ``output_padding`` that exceeds ``padding`` by a stride or more.

    Raises:
        ImportError: onnxscript is not installed.

    For unbatched input and other dtypes the export ends with a ``torch.onnx`` error that says so.
    """
    try:
        from onnxscript import ir
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError("ONNX export needs onnxscript: pip install 'convt3d[export]'") from error
    dtypes = (ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)

    # The exporter reads the annotations: values of the graph have none, attributes need theirs.
    def forward(
        input,
        weight,
        bias=None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        output_padding: Sequence[int] = (0,),
        groups: int = 1,
        dilation: Sequence[int] = (1,),
    ):
        if len(input.shape) != 5:
            raise ValueError(
                "ONNX's ConvTranspose has no unbatched form: export conv_transpose3d with a 5-D "
                f"(batched) input, not with {len(input.shape)} dimensions"
            )
        if input.dtype not in dtypes:
            raise ValueError(
                "ONNX export of conv_transpose3d supports float16, float32 and float64, but got "
                f"{input.dtype}"
            )
        ends, extra = _cropped_ends(_three(stride), _three(padding), _three(output_padding))
        return op.ConvTranspose(
            input,
            weight,
            bias,
            dilations=list(_three(dilation)),
            group=groups,
            output_padding=extra,
            pads=[*_three(padding), *ends],
            strides=list(_three(stride)),
        )

    return {torch.ops.convt3d.forward.default: forward}


def _cropped_ends(
    stride: Sequence[int], padding: Sequence[int], output_padding: Sequence[int]
) -> tuple[list[int], list[int]]:
    """ONNX's end pads and output padding.

    Both move the same edge of the output, ONNX's pads inwards and output padding outwards.
    onnxruntime takes no output padding of a stride or more, so that much is taken from the pads.
    """
    ends, extra = [], []
    for step, pad, out in zip(stride, padding, output_padding, strict=True):
        moved = min(pad, out) if out >= step else 0
        ends.append(pad - moved)
        extra.append(out - moved)
    return ends, extra
