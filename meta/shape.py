"""Sizes and checks: the Python twin of ``csrc/geometry.cpp`` and ``csrc/operators.cpp``.

The same conditions, in the same order, with the same texts; sizes may be symbolic. Sizes along an
axis follow ``torch.nn.ConvTranspose3d``:
``output = (input - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One spatial axis: sizes in elements, arguments as in ``torch.nn.ConvTranspose3d``."""

    input: int
    output: int
    kernel: int
    stride: int
    padding: int
    output_padding: int
    dilation: int


@dataclass(frozen=True)
class Problem:
    """A checked problem; ``axes`` are depth, height, width; unbatched problems have batch 1."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    batched: bool
    axes: tuple[Axis, ...]

    def input_size(self) -> tuple[int, ...]:
        """``([batch,] in_channels, depth, height, width)``."""
        return self._activation(self.in_channels, [axis.input for axis in self.axes])

    def output_size(self) -> tuple[int, ...]:
        """``([batch,] out_channels, depth, height, width)``."""
        return self._activation(self.out_channels, [axis.output for axis in self.axes])

    def weight_size(self) -> tuple[int, ...]:
        """``(in_channels, out_channels / groups, depth, height, width)``."""
        kernel = [axis.kernel for axis in self.axes]
        return (self.in_channels, self.out_channels // self.groups, *kernel)

    def _activation(self, channels: int, spatial: list[int]) -> tuple[int, ...]:
        return (*([self.batch] if self.batched else []), channels, *spatial)


def _require(condition: bool, text: str) -> None:
    # torch._check also takes symbolic conditions that cannot be decided yet.
    torch._check(condition, lambda: text)


def _expand(values: Sequence[int], name: str) -> list[int]:
    values = list(values)
    _require(
        len(values) in (1, 3),
        f"expected {name} to be a single integer value or a list of 3 values to match the "
        f"convolution dimensions, but got {name}={values}",
    )
    return values * 3 if len(values) == 1 else values


def _begin(
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> tuple[Axis, ...]:
    s = _expand(stride, "stride")
    p = _expand(padding, "padding")
    op = _expand(output_padding, "output_padding")
    d = _expand(dilation, "dilation")
    _require(groups > 0, "non-positive groups is not supported")
    _require(all(v > 0 for v in s), "non-positive stride is not supported")
    _require(all(v >= 0 for v in p), "negative padding is not supported")
    _require(all(v >= 0 for v in op), "negative output_padding is not supported")
    _require(
        all(v > 0 for v in d),
        f"dilation should be greater than zero, but got dilation_depth: {d[0]}, "
        f"dilation_height: {d[1]}, dilation_width: {d[2]}",
    )
    _require(
        all(op[a] < s[a] or op[a] < d[a] for a in range(3)),
        "output padding must be smaller than either stride or dilation, but got "
        f"output_padding_depth: {op[0]} output_padding_height: {op[1]} "
        f"output_padding_width: {op[2]} stride_depth: {s[0]} stride_height: {s[1]} "
        f"stride_width: {s[2]} dilation_depth: {d[0]} dilation_height: {d[1]} "
        f"dilation_width: {d[2]}",
    )
    return tuple(Axis(0, 0, 0, s[a], p[a], op[a], d[a]) for a in range(3))


def _require_activation(size: Sequence[int], name: str) -> None:
    _require(
        len(size) in (4, 5),
        f"Expected 4D (unbatched) or 5D (batched) {name} to conv_transpose3d, but got {name} of "
        f"size: {list(size)}",
    )
    for extent in size[-3:]:
        _require(
            extent > 0,
            f"Only zero batch or zero channel inputs are supported, but got {name} shape: "
            f"{list(size)}",
        )


def _require_weight(weight: Sequence[int], groups: int) -> None:
    _require(
        len(weight) == 5,
        f"Expected 5-dimensional weight for conv_transpose3d, but got {len(weight)}-dimensional "
        f"weight of size {list(weight)} instead",
    )
    _require(
        weight[0] >= groups,
        f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but got "
        f"weight of size {list(weight)} instead",
    )
    _require(
        weight[0] % groups == 0,
        f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, but "
        f"got weight of size {list(weight)} instead",
    )
    for extent in weight[1:]:
        _require(
            extent > 0,
            "non-empty 5D (in_channels x out_channels/groups x kernel_depth x kernel_height x "
            f"kernel_width) tensor expected for weight, but got: {list(weight)}",
        )


def _per_axis(values: Sequence[int]) -> str:
    return "(" + " x ".join(str(v) for v in values) + ")"


def _batch(size: Sequence[int]) -> int:
    return size[0] if len(size) == 5 else 1


def forward_problem(
    input: Sequence[int],
    weight: Sequence[int],
    bias: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Problem:
    """The problem of ``convt3d::forward`` from the sizes of its tensors.

    Raises:
        RuntimeError: where the sizes or arguments do not fit.
    """
    _require_activation(input, "input")
    axes = _begin(stride, padding, output_padding, groups, dilation)
    _require_weight(weight, groups)
    channels = input[-4]
    _require(
        channels == weight[0],
        f"Given transposed=1, weight of size {list(weight)}, expected input{list(input)} to have "
        f"{weight[0]} channels, but got {channels} channels instead",
    )
    out_channels = weight[1] * groups
    _require(
        bias is None or (len(bias) == 1 and bias[0] == out_channels),
        f"Given transposed=1, weight of size {list(weight)}, expected bias to be 1-dimensional "
        f"with {out_channels} elements, but got bias of size "
        f"{[] if bias is None else list(bias)} instead",
    )
    axes = tuple(
        replace(
            axis,
            input=size,
            kernel=kernel,
            output=(size - 1) * axis.stride
            - 2 * axis.padding
            + axis.dilation * (kernel - 1)
            + axis.output_padding
            + 1,
        )
        for axis, size, kernel in zip(axes, input[-3:], weight[2:], strict=True)
    )
    for axis in axes:
        _require(
            axis.output > 0,
            f"Given input size per channel: {_per_axis([a.input for a in axes])}. Calculated "
            f"output size per channel: {_per_axis([a.output for a in axes])}. Output size is too "
            "small",
        )
    return Problem(_batch(input), weight[0], out_channels, groups, len(input) == 5, axes)


def grad_input_problem(
    grad_output: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Problem:
    """The problem of ``convt3d::grad_input``: the input's size follows from ``grad_output``.

    Raises:
        RuntimeError: where the sizes or arguments do not fit.
    """
    _require_activation(grad_output, "grad_output")
    axes = _begin(stride, padding, output_padding, groups, dilation)
    _require_weight(weight, groups)
    channels = grad_output[-4]
    out_channels = weight[1] * groups
    _require(
        channels == out_channels,
        f"Given transposed=1, weight of size {list(weight)} and groups={groups}, expected "
        f"grad_output{list(grad_output)} to have {out_channels} channels, but got {channels} "
        "channels instead",
    )
    sized = []
    for axis, output, kernel in zip(axes, grad_output[-3:], weight[2:], strict=True):
        steps = (
            output - 1 + 2 * axis.padding - axis.output_padding - axis.dilation * (kernel - 1)
        )  # (input - 1) * stride
        for fits in (steps >= 0, steps % axis.stride == 0):
            _require(
                fits,
                f"grad_output of size {list(grad_output)} is not the size of an output for weight "
                f"of size {list(weight)} with these stride, padding, output_padding and dilation",
            )
        sized.append(replace(axis, input=steps // axis.stride + 1, output=output, kernel=kernel))
    return Problem(
        _batch(grad_output), weight[0], out_channels, groups, len(grad_output) == 5, tuple(sized)
    )


def grad_weight_problem(
    grad_output: Sequence[int],
    input: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> Problem:
    """The problem of ``convt3d::grad_weight``: the kernel size follows from the two activations.

    Raises:
        RuntimeError: where the sizes or arguments do not fit.
    """
    _require_activation(grad_output, "grad_output")
    _require_activation(input, "input")
    axes = _begin(stride, padding, output_padding, groups, dilation)
    _require(
        len(grad_output) == len(input) and _batch(grad_output) == _batch(input),
        "expected grad_output and input of the same batch size, but got grad_output of size "
        f"{list(grad_output)} and input of size {list(input)}",
    )
    in_channels, out_channels = input[-4], grad_output[-4]
    for fits in (
        in_channels > 0,
        out_channels > 0,
        in_channels % groups == 0,
        out_channels % groups == 0,
    ):
        _require(
            fits,
            f"Given groups={groups}, expected the channels of grad_output and input to be "
            f"positive and divisible by {groups}, but got grad_output of size "
            f"{list(grad_output)} and input of size {list(input)}",
        )
    sized = []
    for axis, output, size in zip(axes, grad_output[-3:], input[-3:], strict=True):
        reach = (
            output - 1 + 2 * axis.padding - axis.output_padding - (size - 1) * axis.stride
        )  # (kernel - 1) * dilation
        for fits in (reach >= 0, reach % axis.dilation == 0):
            _require(
                fits,
                f"no kernel size takes input of size {list(input)} to grad_output of size "
                f"{list(grad_output)} with these stride, padding, output_padding and dilation",
            )
        sized.append(replace(axis, input=size, output=output, kernel=reach // axis.dilation + 1))
    return Problem(_batch(input), in_channels, out_channels, groups, len(input) == 5, tuple(sized))


def suggests_channels_last_3d(tensor: Tensor) -> bool:
    """ATen's ``suggest_memory_format``: whether 5-D strides say channels_last_3d.

    An unbatched 4-D activation is asked after ATen's ``unsqueeze(0)``.
    """
    size, stride = list(tensor.shape), list(tensor.stride())
    if len(size) == 4:
        size, stride = [1, *size], [size[0] * stride[0], *stride]
    if len(size) != 5 or stride[1] == 0:
        return False
    smallest = 0
    for dim in (1, 4, 3, 2, 0):
        if size[dim] == 0 or stride[dim] < smallest:
            return False
        # A tensor of one position whose strides are all equal counts as contiguous.
        if dim == 0 and smallest == stride[1]:
            return False
        smallest = stride[dim] * size[dim]
    return True


def dense_strides(size: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """Strides, in elements, of a dense tensor of 5 or (unbatched) 4 dimensions."""
    rank = len(size)
    channel, spatial = rank - 4, [rank - 1, rank - 2, rank - 3]
    order = [channel, *spatial] if channels_last else [*spatial, channel]
    stride = [0] * rank
    step = 1
    for dim in order + list(range(channel)):
        stride[dim] = step
        # ATen counts an empty dimension as one element in contiguous strides only.
        step = step * (size[dim] if channels_last else torch.sym_max(size[dim], 1))
    return tuple(stride)


_TYPE_NAMES = {
    torch.float16: "HalfTensor",
    torch.bfloat16: "BFloat16Tensor",
    torch.float32: "FloatTensor",
    torch.float64: "DoubleTensor",
    torch.complex32: "ComplexHalfTensor",
    torch.complex64: "ComplexFloatTensor",
    torch.complex128: "ComplexDoubleTensor",
    torch.int64: "LongTensor",
    torch.int32: "IntTensor",
    torch.int16: "ShortTensor",
    torch.int8: "CharTensor",
    torch.uint8: "ByteTensor",
    torch.bool: "BoolTensor",
}
SUPPORTED_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex32,
    torch.complex64,
    torch.complex128,
)


def _type_name(tensor: Tensor) -> str:
    prefix = "torch.cuda." if tensor.device.type == "cuda" else "torch."
    return prefix + _TYPE_NAMES.get(tensor.dtype, "Tensor of another dtype")


def check_tensors(first_name: str, first: Tensor, **others: Tensor | None) -> None:
    """Checks layout, dtype and device of an operator's tensors, by argument name.

    Raises:
        RuntimeError: for a layout or dtype without kernels, or tensors that differ.
    """
    rest = {name: tensor for name, tensor in others.items() if tensor is not None}
    for name, tensor in {first_name: first, **rest}.items():
        _require(
            tensor.layout == torch.strided,
            f"convt3d supports strided (dense) tensors only, but {name} has another layout",
        )
    _require(
        first.dtype in SUPPORTED_DTYPES
        or (first.dtype == torch.int64 and first.device.type != "cuda"),
        "convt3d supports float16, bfloat16, float32, float64, complex32, complex64 and "
        f"complex128 (on CPU also int64), but {first_name} is a {_type_name(first)}",
    )
    label = first_name[0].upper() + first_name[1:]
    for name, tensor in rest.items():
        _require(
            first.dtype == tensor.dtype
            and (first.device.type == "cuda") == (tensor.device.type == "cuda"),
            f"{label} type ({_type_name(first)}) and {name} type ({_type_name(tensor)}) should be "
            "the same",
        )
        _require(
            first.device == tensor.device,
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{first.device} and {tensor.device}!",
        )
