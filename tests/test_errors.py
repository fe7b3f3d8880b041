"""Refused calls: their texts, the same from kernels and fake functions, before any launch."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from types import SimpleNamespace

import bad_calls
import convt3d
import pytest
import torch
from bad_calls import ALL, FORWARD, GRADIENTS, Call, Make, refusal
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def zeros_on(device: str) -> Make:
    def make(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    return make


def listing(calls: dict[str, Call]) -> str:
    """One paragraph per call, wrapped to the width of this file."""
    wrapper = textwrap.TextWrapper(
        98, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    return "".join(
        f"{name}\n{wrapper.fill(refusal(call, zeros_on('cpu')))}\n" for name, call in calls.items()
    )


def test_texts_of_forward() -> None:
    expecttest = pytest.importorskip("expecttest")
    expecttest.assert_expected_inline(
        listing(FORWARD),
        """\
input_3d
  RuntimeError: Expected 4D (unbatched) or 5D (batched) input to conv_transpose3d, but got input
  of size: [4, 5, 6]
input_6d
  RuntimeError: Expected 4D (unbatched) or 5D (batched) input to conv_transpose3d, but got input
  of size: [1, 1, 4, 5, 6, 7]
input_empty_axis
  RuntimeError: Only zero batch or zero channel inputs are supported, but got input shape: [2, 4,
  0, 6, 7]
weight_4d
  RuntimeError: Expected 5-dimensional weight for conv_transpose3d, but got 4-dimensional weight
  of size [4, 3, 3, 3] instead
weight_empty_kernel
  RuntimeError: non-empty 5D (in_channels x out_channels/groups x kernel_depth x kernel_height x
  kernel_width) tensor expected for weight, but got: [4, 3, 0, 3, 3]
weight_no_out_channels
  RuntimeError: non-empty 5D (in_channels x out_channels/groups x kernel_depth x kernel_height x
  kernel_width) tensor expected for weight, but got: [4, 0, 3, 3, 3]
groups_zero
  RuntimeError: non-positive groups is not supported
groups_negative
  RuntimeError: non-positive groups is not supported
stride_zero
  RuntimeError: non-positive stride is not supported
stride_negative
  RuntimeError: non-positive stride is not supported
padding_negative
  RuntimeError: negative padding is not supported
output_padding_negative
  RuntimeError: negative output_padding is not supported
dilation_zero
  RuntimeError: dilation should be greater than zero, but got dilation_depth: 1, dilation_height:
  1, dilation_width: 0
stride_of_two
  RuntimeError: expected stride to be a single integer value or a list of 3 values to match the
  convolution dimensions, but got stride=[1, 2]
padding_of_four
  RuntimeError: expected padding to be a single integer value or a list of 3 values to match the
  convolution dimensions, but got padding=[1, 1, 1, 1]
output_padding_of_two
  RuntimeError: expected output_padding to be a single integer value or a list of 3 values to
  match the convolution dimensions, but got output_padding=[0, 0]
dilation_of_two
  RuntimeError: expected dilation to be a single integer value or a list of 3 values to match the
  convolution dimensions, but got dilation=[1, 1]
stride_of_none
  RuntimeError: expected stride to be a single integer value or a list of 3 values to match the
  convolution dimensions, but got stride=[]
groups_do_not_divide
  RuntimeError: Given groups=3, expected weight to be divisible by 3 at dimension 0, but got
  weight of size [4, 3, 3, 3, 3] instead
groups_above_channels
  RuntimeError: Given groups=8, expected weight to be at least 8 at dimension 0, but got weight of
  size [4, 3, 3, 3, 3] instead
channels_differ
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3], expected input[2, 5, 5, 6, 7]
  to have 4 channels, but got 5 channels instead
channels_differ_unbatched
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3], expected input[5, 5, 6, 7] to
  have 4 channels, but got 5 channels instead
bias_2d
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3], expected bias to be
  1-dimensional with 3 elements, but got bias of size [3, 1] instead
bias_too_long
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3], expected bias to be
  1-dimensional with 3 elements, but got bias of size [4] instead
bias_ignores_groups
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3], expected bias to be
  1-dimensional with 6 elements, but got bias of size [3] instead
output_padding_too_large
  RuntimeError: output padding must be smaller than either stride or dilation, but got
  output_padding_depth: 1 output_padding_height: 1 output_padding_width: 1 stride_depth: 1
  stride_height: 1 stride_width: 1 dilation_depth: 1 dilation_height: 1 dilation_width: 1
output_padding_too_large_on_one_axis
  RuntimeError: output padding must be smaller than either stride or dilation, but got
  output_padding_depth: 1 output_padding_height: 1 output_padding_width: 1 stride_depth: 2
  stride_height: 2 stride_width: 1 dilation_depth: 1 dilation_height: 1 dilation_width: 1
output_too_small
  RuntimeError: Given input size per channel: (5 x 6 x 7). Calculated output size per channel: (5
  x 6 x -1). Output size is too small
output_too_small_unbatched
  RuntimeError: Given input size per channel: (1 x 1 x 1). Calculated output size per channel: (-1
  x -1 x -1). Output size is too small
weight_of_other_dtype
  RuntimeError: Input type (torch.FloatTensor) and weight type (torch.DoubleTensor) should be the
  same
bias_of_other_dtype
  RuntimeError: Input type (torch.FloatTensor) and bias type (torch.HalfTensor) should be the same
int32
  RuntimeError: convt3d supports float16, bfloat16, float32, float64, complex32, complex64 and
  complex128 (on CPU also int64), but input is a torch.IntTensor
bool
  RuntimeError: convt3d supports float16, bfloat16, float32, float64, complex32, complex64 and
  complex128 (on CPU also int64), but input is a torch.BoolTensor
float8
  RuntimeError: convt3d supports float16, bfloat16, float32, float64, complex32, complex64 and
  complex128 (on CPU also int64), but input is a torch.Tensor of another dtype
""",
    )


def test_texts_of_gradients() -> None:
    expecttest = pytest.importorskip("expecttest")
    expecttest.assert_expected_inline(
        listing(GRADIENTS),
        """\
grad_input_3d
  RuntimeError: Expected 4D (unbatched) or 5D (batched) grad_output to conv_transpose3d, but got
  grad_output of size: [3, 7, 8]
grad_input_weight_4d
  RuntimeError: Expected 5-dimensional weight for conv_transpose3d, but got 4-dimensional weight
  of size [4, 3, 3, 3] instead
grad_input_groups
  RuntimeError: Given groups=3, expected weight to be divisible by 3 at dimension 0, but got
  weight of size [4, 3, 3, 3, 3] instead
grad_input_channels
  RuntimeError: Given transposed=1, weight of size [4, 3, 3, 3, 3] and groups=1, expected
  grad_output[2, 4, 7, 8, 9] to have 3 channels, but got 4 channels instead
grad_input_too_small
  RuntimeError: grad_output of size [2, 3, 2, 8, 9] is not the size of an output for weight of
  size [4, 3, 3, 3, 3] with these stride, padding, output_padding and dilation
grad_input_between_strides
  RuntimeError: grad_output of size [2, 3, 7, 8, 9] is not the size of an output for weight of
  size [4, 3, 3, 3, 3] with these stride, padding, output_padding and dilation
grad_input_output_padding
  RuntimeError: output padding must be smaller than either stride or dilation, but got
  output_padding_depth: 1 output_padding_height: 1 output_padding_width: 1 stride_depth: 1
  stride_height: 1 stride_width: 1 dilation_depth: 1 dilation_height: 1 dilation_width: 1
grad_input_stride
  RuntimeError: non-positive stride is not supported
grad_input_dtype
  RuntimeError: Grad_output type (torch.FloatTensor) and weight type (torch.BFloat16Tensor) should
  be the same
grad_weight_ranks
  RuntimeError: expected grad_output and input of the same batch size, but got grad_output of size
  [3, 7, 8, 9] and input of size [2, 4, 5, 6, 7]
grad_weight_batches
  RuntimeError: expected grad_output and input of the same batch size, but got grad_output of size
  [1, 3, 7, 8, 9] and input of size [2, 4, 5, 6, 7]
grad_weight_groups
  RuntimeError: Given groups=2, expected the channels of grad_output and input to be positive and
  divisible by 2, but got grad_output of size [2, 3, 7, 8, 9] and input of size [2, 4, 5, 6, 7]
grad_weight_no_kernel
  RuntimeError: no kernel size takes input of size [2, 4, 5, 6, 7] to grad_output of size [2, 3,
  4, 8, 9] with these stride, padding, output_padding and dilation
grad_weight_between_taps
  RuntimeError: no kernel size takes input of size [2, 4, 5, 6, 7] to grad_output of size [2, 3,
  8, 8, 9] with these stride, padding, output_padding and dilation
grad_weight_padding
  RuntimeError: negative padding is not supported
grad_weight_dtype
  RuntimeError: Grad_output type (torch.FloatTensor) and input type (torch.DoubleTensor) should be
  the same
grad_weight_int32
  RuntimeError: convt3d supports float16, bfloat16, float32, float64, complex32, complex64 and
  complex128 (on CPU also int64), but grad_output is a torch.IntTensor
""",
    )


@pytest.mark.parametrize("name", ALL)
def test_fake_functions_refuse_with_the_same_text(device: str, name: str) -> None:
    real = refusal(ALL[name], zeros_on(device))
    with FakeTensorMode():
        assert refusal(ALL[name], zeros_on(device)) == real
    if device == "cpu":
        assert refusal(ALL[name], zeros_on("meta")) == real


def test_int64_is_refused_on_cuda_alone() -> None:
    def call(make: Make) -> Tensor:
        return torch.ops.convt3d.forward(
            make(1, 2, 3, 3, 3, dtype=torch.int64), make(2, 2, 2, 2, 2, dtype=torch.int64)
        )

    with FakeTensorMode():
        assert call(zeros_on("cpu")).shape == (1, 2, 4, 4, 4)
        assert "(on CPU also int64), but input is a torch.cuda.LongTensor" in refusal(
            call, zeros_on("cuda")
        )


def test_devices_that_differ_are_named() -> None:
    with FakeTensorMode():
        x = torch.empty(1, 2, 3, 3, 3, device="cuda:0")
        for weight_device, text in (
            ("cpu", "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor)"),
            ("cuda:1", "at least two devices, cuda:0 and cuda:1!"),
        ):
            weight = torch.empty(2, 2, 2, 2, 2, device=weight_device)
            with pytest.raises(RuntimeError) as error:
                torch.ops.convt3d.forward(x, weight)
            assert text in str(error.value)


# PyTorch's CPU path has no check of its own here, or words it with an obvious slip.
OWN_TEXT = {
    "weight_4d",
    "weight_empty_kernel",
    "weight_no_out_channels",
    "dilation_zero",
    "groups_do_not_divide",
    "channels_differ_unbatched",
    "output_too_small",
    "weight_of_other_dtype",
    "bias_of_other_dtype",
    "int32",
    "bool",
    "float8",
}


@pytest.mark.parametrize("name", FORWARD)
def test_pytorch_refuses_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = refusal(FORWARD[name], zeros_on("cpu"))
    pytorch = SimpleNamespace(forward=torch.nn.functional.conv_transpose3d)
    monkeypatch.setattr(bad_calls, "_ops", pytorch)
    theirs = refusal(FORWARD[name], zeros_on("cpu"))
    assert ours.startswith("RuntimeError: ")
    assert name in OWN_TEXT or ours == theirs


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda tensor: tensor.to_sparse(),
    "mkldnn": lambda tensor: tensor.to_mkldnn(),
}


@pytest.mark.parametrize("operand", ["input", "weight"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_refused_in_one_sentence(layout: str, operand: str) -> None:
    tensors = {"input": torch.ones(1, 2, 3, 3, 3), "weight": torch.ones(2, 2, 2, 2, 2)}
    tensors[operand] = LAYOUTS[layout](tensors[operand])
    with pytest.raises(RuntimeError) as error:
        torch.ops.convt3d.forward(**tensors)
    assert str(error.value) == (
        f"convt3d supports strided (dense) tensors only, but {operand} has another layout"
    )


@pytest.mark.parametrize("value", [2, [2], (2,), [2, 2, 2], (2, 2, 2)], ids=repr)
def test_one_number_stands_for_three(value: int | list[int] | tuple[int, ...]) -> None:
    x, w = torch.randn(1, 2, 3, 4, 5), torch.randn(2, 3, 3, 3, 3)
    wanted = torch.nn.functional.conv_transpose3d(x, w, None, 2, 2, 1, 1, 2)
    one = 1 if isinstance(value, int) else type(value)([1] * len(value))
    for function in (torch.ops.convt3d.forward, convt3d.conv_transpose3d):
        y = function(x, w, None, value, value, one, 1, value)
        torch.testing.assert_close(y, wanted)
    meta = torch.ops.convt3d.forward(x.to("meta"), w.to("meta"), None, value, value, one, 1, value)
    assert meta.shape == wanted.shape
    gx = torch.ops.convt3d.grad_input(y, w, value, value, one, 1, value)
    assert gx.shape == x.shape
    gw = torch.ops.convt3d.grad_weight(y, x, value, value, one, 1, value)
    assert gw.shape == w.shape
