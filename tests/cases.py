"""The case list that feeds every test: geometry, dtypes, memory layouts and tensors for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from convt3d.bench.cases import PUBLIC as PUBLIC_LAYERS
from torch import Tensor

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """One problem. ``batch`` is None for unbatched tensors; triples are depth, height, width."""

    name: str
    batch: int | None
    in_channels: int
    out_channels: int
    size: Triple
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    output_padding: Triple = (0, 0, 0)
    groups: int = 1
    dilation: Triple = (1, 1, 1)

    @property
    def input(self) -> tuple[int, ...]:
        return (*self._batch, self.in_channels, *self.size)

    @property
    def weight(self) -> tuple[int, ...]:
        return (self.in_channels, self.out_channels // self.groups, *self.kernel)

    @property
    def output(self) -> tuple[int, ...]:
        spatial = (
            (self.size[a] - 1) * self.stride[a]
            - 2 * self.padding[a]
            + self.dilation[a] * (self.kernel[a] - 1)
            + self.output_padding[a]
            + 1
            for a in range(3)
        )
        return (*self._batch, self.out_channels, *spatial)

    @property
    def geometry(self) -> tuple[Triple, Triple, Triple, int, Triple]:
        """The trailing arguments of all three operators."""
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    @property
    def _batch(self) -> tuple[int, ...]:
        return () if self.batch is None else (self.batch,)

    def __str__(self) -> str:
        return self.name


def _triple(value: int | Sequence[int]) -> Triple:
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    return values[0], values[1], values[2]


def make_case(
    name: str,
    input: Sequence[int],
    out_channels: int,
    k: int | Sequence[int],
    *,
    s: int | Sequence[int] = 1,
    p: int | Sequence[int] = 0,
    op: int | Sequence[int] = 0,
    g: int = 1,
    d: int | Sequence[int] = 1,
) -> Case:
    """A case from the input's size (4 or 5 entries) and arguments for all axes or each."""
    return Case(
        name,
        input[0] if len(input) == 5 else None,
        input[-4],
        out_channels,
        _triple(input[-3:]),
        _triple(k),
        _triple(s),
        _triple(p),
        _triple(op),
        g,
        _triple(d),
    )


SMALL = (
    make_case("pointwise", (2, 5, 3, 4, 5), 7, 1),
    make_case("kernel3", (2, 4, 5, 6, 7), 6, 3),
    make_case("kernel3_same", (2, 8, 4, 5, 6), 8, 3, p=1),
    make_case("kernel3_stride2", (2, 8, 3, 4, 5), 16, 3, s=2, p=1, op=1),
    make_case("kernel3_stride2_odd", (1, 6, 4, 3, 5), 5, 3, s=2, p=1),
    make_case("kernel4_stride2", (2, 6, 3, 4, 3), 4, 4, s=2, p=1),
    make_case("kernel5_stride2", (1, 4, 4, 3, 4), 6, 5, s=2, p=2, op=1),
    # The kernel tiles the output: no output has two taps.
    make_case("kernel_is_stride2", (2, 8, 3, 4, 5), 6, 2, s=2),
    make_case("kernel_is_stride3", (1, 5, 2, 3, 4), 4, 3, s=3),
    make_case("kernel_is_stride_mixed", (1, 6, 3, 4, 5), 5, (2, 4, 4), s=(2, 4, 4)),
    make_case("stride_above_kernel", (2, 4, 3, 3, 4), 3, 2, s=3, op=2),
    make_case("stride4_kernel1", (1, 4, 2, 3, 4), 5, 1, s=4, op=(3, 0, 1)),
    # Stride and dilation share a factor: some residues have no tap and are bias alone.
    make_case("stride2_dilation2", (2, 4, 4, 3, 5), 6, 3, s=2, p=1, op=1, d=2),
    make_case("stride4_dilation2", (1, 4, 3, 2, 3), 4, 3, s=4, p=2, op=3, d=2),
    make_case("stride6_dilation4", (1, 3, 2, 3, 2), 4, 4, s=6, p=5, op=1, d=4),
    make_case("stride2_dilation4", (1, 3, 4, 3, 3), 4, 3, s=2, p=3, op=3, d=4),
    # Coprime: every residue has taps, in another order than the residues.
    make_case("stride2_dilation3", (1, 4, 3, 4, 3), 5, 3, s=2, p=2, op=1, d=3),
    make_case("stride3_dilation2", (1, 4, 3, 3, 4), 5, 4, s=3, p=1, op=2, d=2),
    make_case("stride5_dilation3", (1, 3, 3, 2, 3), 4, 7, s=5, p=4, op=4, d=3),
    make_case("dilation2", (2, 4, 5, 4, 6), 5, 3, p=2, d=2),
    make_case("dilation_beyond_input", (1, 3, 2, 2, 3), 4, 3, d=5),
    # Padding at least the kernel's size crops whole input positions.
    make_case("padding_above_kernel", (2, 4, 6, 7, 5), 3, 2, s=2, p=3),
    make_case("padding_is_kernel", (1, 3, 4, 5, 6), 4, 1, p=1),
    make_case("padding_above_kernel_stride1", (1, 3, 9, 8, 7), 4, (2, 1, 2), p=(3, 3, 2)),
    # Output padding at least the stride: allowed where the dilation is larger still.
    make_case("output_padding_is_stride", (1, 3, 3, 4, 3), 4, 3, op=1, d=2),
    make_case("output_padding_above_stride", (2, 3, 3, 2, 3), 4, 2, s=2, p=1, op=3, d=4),
    make_case(
        "asymmetric",
        (2, 6, 3, 5, 4),
        4,
        (2, 3, 4),
        s=(3, 1, 2),
        p=(1, 2, 0),
        op=(2, 0, 1),
        g=2,
        d=(1, 2, 3),
    ),
    make_case(
        "asymmetric_unbatched",
        (4, 5, 2, 7),
        6,
        (1, 5, 2),
        s=(2, 3, 1),
        p=(0, 4, 1),
        op=(1, 1, 2),
        d=(2, 1, 3),
    ),
    make_case("groups2", (2, 8, 3, 4, 5), 12, 3, s=2, p=1, op=1, g=2),
    make_case("groups3_widening", (1, 6, 4, 3, 4), 15, 3, p=1, g=3),
    make_case("groups_of_16", (2, 32, 3, 3, 4), 32, 3, s=2, p=1, op=1, g=2),
    make_case("depthwise", (2, 8, 4, 5, 6), 8, 3, p=1, g=8),
    make_case("depthwise_stride2", (1, 6, 3, 4, 5), 6, 4, s=2, p=1, g=6),
    make_case("depthwise_multiplier", (2, 4, 3, 4, 4), 12, 2, s=2, g=4),
    make_case("depthwise_merging", (1, 9, 4, 3, 4), 3, 3, s=2, p=1, g=3),
    # Depthwise kernels with fixed taps: vectors of channels, single ones, odd and even lines.
    make_case("depthwise_kernel3", (2, 36, 5, 6, 8), 36, 3, p=1, g=36),
    make_case("depthwise_kernel3_stride2", (2, 20, 3, 5, 8), 20, 3, s=2, p=1, op=1, g=20),
    make_case("depthwise_kernel3_stride2_odd", (1, 7, 4, 3, 9), 7, 3, s=2, p=1, g=7),
    make_case("depthwise_kernel2_stride2", (2, 12, 3, 4, 6), 12, 2, s=2, g=12),
    make_case("depthwise_kernel5_stride2", (1, 8, 4, 3, 7), 8, 5, s=2, p=2, op=1, g=8),
    make_case("depthwise_kernel7", (1, 5, 4, 5, 6), 5, 7, p=3, g=5),
    make_case("depthwise_kernel1_stride3", (1, 4, 2, 3, 4), 4, 1, s=3, op=2, g=4),
    make_case("depthwise_dilation", (1, 9, 4, 5, 6), 9, 3, s=(1, 2, 3), p=(2, 1, 0), g=9, d=2),
    make_case("depthwise_multiplier3", (1, 5, 4, 3, 6), 15, 3, s=2, p=1, op=1, g=5),
    make_case("depthwise_unbatched", (6, 4, 5, 7), 6, 4, s=2, p=1, g=6),
    make_case("one_channel", (2, 1, 4, 5, 6), 1, 3, s=2, p=1, op=1),
    make_case("one_to_many", (1, 1, 3, 4, 5), 17, 3, p=1),
    make_case("many_to_one", (1, 19, 3, 4, 5), 1, 4, s=2, p=1),
    # Few output channels, inputs in whole runs: all taps and channels are columns of one product.
    make_case("head_kernel4_stride2", (2, 16, 3, 5, 8), 1, 4, s=2, p=1),
    make_case("head_groups", (1, 48, 4, 3, 12), 6, (2, 3, 3), s=2, p=1, op=1, g=2),
    make_case("head_kernel_is_stride", (1, 40, 2, 3, 8), 2, (2, 4, 4), s=(2, 4, 4)),
    make_case("head_five_channels", (1, 40, 2, 3, 8), 5, (2, 4, 4), s=(2, 4, 4)),
    make_case("rgb_in", (2, 3, 3, 4, 5), 16, 3, s=2, p=1),
    make_case("odd_channels", (1, 13, 3, 5, 7), 11, 3, s=2, p=1, op=1),
    make_case("wide_channels", (1, 72, 3, 4, 5), 136, 3, s=2, p=1, op=1),
    make_case("long_rows", (1, 16, 2, 3, 67), 24, 3, s=(1, 2, 2), p=1),
    make_case("several_tiles", (1, 16, 7, 17, 19), 24, 3, p=1),
    make_case("several_tiles_stride2", (2, 16, 9, 10, 11), 16, 3, s=2, p=1, op=1),
    # Tiles of 64 positions in (h, w): the Hopper kernel, with whole lines, with all channels of a
    # position in one chunk, and with several.
    make_case("hopper_stride1", (2, 24, 3, 9, 11), 40, 3, p=1),
    make_case("hopper_stride2", (2, 16, 3, 9, 16), 24, 3, s=2, p=1, op=1),
    make_case("hopper_odd_rows", (2, 16, 3, 9, 17), 24, 3, s=2, p=1),
    make_case("hopper_kernel_is_stride", (1, 40, 2, 9, 16), 16, (2, 4, 4), s=(2, 4, 4)),
    make_case("hopper_chunks", (1, 1024, 2, 9, 9), 128, (1, 3, 2), p=(0, 1, 0)),
    make_case("hopper_groups", (1, 64, 2, 9, 8), 32, 2, s=(1, 2, 1), g=2),
    # Few result channels: taps along w side by side in the columns of a product.
    make_case("hopper_few_channels", (1, 48, 2, 16, 16), 24, 3),
    make_case("hopper_patches", (2, 72, 2, 9, 21), 5, (2, 4, 4), s=(2, 4, 4)),
    make_case("hopper_patches_padded", (1, 40, 3, 7, 32), 3, (2, 4, 4), s=(2, 4, 4), p=(1, 4, 0)),
    make_case("hopper_head", (1, 64, 2, 8, 16), 1, 4, s=2, p=1),
    # Images large enough for three multiplying warpgroups, and for both residues along w in one
    # column tile (channels_last_3d, 16 bits).
    make_case("three_warpgroups", (1, 32, 1, 72, 72), 64, (1, 3, 3), s=(1, 2, 2), p=(0, 1, 1)),
    make_case("two_residues", (1, 32, 1, 48, 48), 64, (1, 3, 3), s=(1, 2, 2), p=(0, 1, 1)),
    # Small images: tiles of two to ten samples, of which the last is not full.
    make_case("hopper_samples", (71, 8, 2, 8, 8), 16, (2, 3, 3), p=(0, 1, 1)),
    make_case(
        "hopper_samples_stride2",
        (139, 16, 1, 5, 7),
        16,
        (1, 3, 3),
        s=(1, 2, 2),
        p=(0, 1, 1),
        op=(0, 1, 1),
        g=2,
    ),
    make_case("hopper_samples_narrow", (139, 16, 1, 5, 5), 24, (1, 3, 3), p=(0, 1, 1)),
    make_case("hopper_samples_kernel_is_stride", (139, 32, 1, 5, 5), 16, (1, 2, 2), s=(1, 2, 2)),
    make_case("hopper_samples_groups", (139, 32, 1, 5, 7), 32, (1, 1, 3), p=(0, 0, 1), g=2),
    make_case("hopper_samples_tiny", (331, 16, 1, 2, 3), 24, (1, 2, 2), p=(0, 1, 0)),
    make_case("many_samples", (17, 4, 2, 3, 3), 4, 3, s=2, p=1, op=1),
    make_case("one_voxel", (1, 4, 1, 1, 1), 6, 3, s=2),
    make_case("one_voxel_output", (2, 4, 1, 1, 1), 3, 3, p=1),
    make_case("flat_axes", (2, 4, 1, 5, 1), 6, (3, 1, 2), s=(2, 1, 2), p=(1, 0, 0)),
    make_case(
        "large_kernel", (1, 3, 4, 3, 5), 4, (7, 1, 9), s=(2, 1, 1), p=(3, 0, 4), op=(1, 0, 0)
    ),
    make_case("kernel_above_input", (1, 3, 2, 2, 2), 4, 6, s=2, p=2),
    make_case("long_kernel_row", (1, 2, 2, 2, 9), 3, (1, 1, 13), s=(1, 1, 3), p=(0, 0, 5)),
    make_case("unbatched", (4, 3, 4, 5), 6, 3, s=2, p=1, op=1),
    make_case("unbatched_groups", (6, 4, 3, 4), 9, 2, s=2, g=3),
    make_case("batch0", (0, 4, 3, 4, 5), 6, 3, s=2, p=1),
    make_case("batch0_groups", (0, 4, 2, 3, 2), 8, 2, g=4, d=2),
)

PUBLIC = tuple(
    Case(
        layer.name,
        layer.input[0],
        layer.input[1],
        layer.out_channels,
        _triple(layer.input[2:]),
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.output_padding,
        layer.groups,
        layer.dilation,
    )
    for layer in PUBLIC_LAYERS
)

BY_NAME = {case.name: case for case in (*SMALL, *PUBLIC)}

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
DTYPES = {"cpu": (*FLOATING, *COMPLEX, torch.int64), "cuda": (*FLOATING, *COMPLEX)}

# - mixed: the usual channels-last network, whose weights stay contiguous
# - unaligned: channels_last_3d, its first element one element off any vector's boundary
# - sliced: every second element along the width, between NaNs that must not be read
# - transposed: memory in reverse order of the dimensions
# - expanded: strides of 0, in the output's gradient throughout, as `sum().backward()` makes it
LAYOUTS = (
    "contiguous",
    "channels_last_3d",
    "mixed",
    "unaligned",
    "sliced",
    "transposed",
    "expanded",
)


@dataclass(frozen=True)
class Tensors:
    """Operands of a case, in the layout asked for."""

    input: Tensor
    weight: Tensor
    bias: Tensor
    grad_output: Tensor


def make_values(
    size: Sequence[int], dtype: torch.dtype, device: str, generator: torch.Generator
) -> Tensor:
    """Contiguous random values: normal, or small integers."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(-9, 10, size, dtype=dtype, device=device, generator=generator)
    if dtype.is_complex:
        wide = torch.complex128 if dtype == torch.complex128 else torch.complex64
    else:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(size, dtype=wide, device=device, generator=generator).to(dtype)


def in_channels_last(tensor: Tensor) -> Tensor:
    """A channels_last_3d copy; of an unbatched activation, a sample of such a batch."""
    if tensor.dim() == 4:
        return in_channels_last(tensor.unsqueeze(0)).squeeze(0)
    # `contiguous` would leave a tensor of ambiguous strides (one channel, say) as it is.
    _, c, d, h, w = tensor.shape
    strides = (c * d * h * w, 1, c * h * w, c * w, c)
    return torch.empty_strided(
        tensor.shape, strides, dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def _surrounded(tensor: Tensor, strides: Sequence[int], offset: int, storage: int) -> Tensor:
    """The values at `offset` and `strides` of `storage` elements that are NaN elsewhere."""
    outside = float("nan") if tensor.is_floating_point() or tensor.is_complex() else 10**6
    memory = torch.full((storage,), outside, dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(tensor.shape, strides, offset).copy_(tensor)


def with_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same values (``expanded``: the first of them, repeated) in a layout of ``LAYOUTS``."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last_3d":
        return in_channels_last(tensor) if tensor.dim() > 1 else tensor
    if layout == "unaligned":
        like = in_channels_last(tensor) if tensor.dim() > 1 else tensor
        return _surrounded(tensor, like.stride(), 1, tensor.numel() + 2)
    if layout == "sliced":
        strides = [2 * stride for stride in tensor.contiguous().stride()]
        return _surrounded(tensor, strides, 1, 2 * tensor.numel() + 1)
    if layout == "transposed":
        reverse = list(range(tensor.dim()))[::-1]
        return tensor.permute(reverse).contiguous().permute(reverse)
    raise ValueError(layout)


def make_tensors(
    case: Case, dtype: torch.dtype, device: str, layout: str = "contiguous", seed: int = 0
) -> Tensors:
    """Random operands; the values depend on the seed alone, save in ``expanded``."""
    generator = torch.Generator(device).manual_seed(seed)
    values = [
        make_values(size, dtype, device, generator)
        for size in (case.input, case.weight, (case.out_channels,), case.output)
    ]
    if layout == "expanded":
        input, weight, bias, _ = values
        return Tensors(
            input[..., :1].expand(case.input),
            weight[:, :1].expand(case.weight),
            bias[:1].expand(case.out_channels),
            make_values((1,) * len(case.output), dtype, device, generator).expand(case.output),
        )
    layouts = [layout] * 4
    if layout == "mixed":
        layouts = ["channels_last_3d", "contiguous", "contiguous", "contiguous"]
    return Tensors(*(with_layout(value, kind) for value, kind in zip(values, layouts, strict=True)))


OPERATORS = ("forward", "grad_input", "grad_weight")


def arguments(operator: str, tensors: Tensors, case: Case, *, bias: bool = True) -> tuple:
    """The positional arguments of ``torch.ops.convt3d.<operator>``."""
    if operator == "forward":
        return tensors.input, tensors.weight, tensors.bias if bias else None, *case.geometry
    second = tensors.weight if operator == "grad_input" else tensors.input
    return tensors.grad_output, second, *case.geometry


def call(operator: str, tensors: Tensors, case: Case, *, bias: bool = True) -> Tensor:
    """The operator's result."""
    function = getattr(torch.ops.convt3d, operator)
    return function(*arguments(operator, tensors, case, bias=bias))
