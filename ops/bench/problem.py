"""The tensors of one case: random operands in a dtype and a layout, and their rotation."""

from __future__ import annotations

import math
import zlib
from functools import cached_property

import torch
from torch import Tensor

from .cases import Case
from .check import References
from .floor import tensor_bytes

LAYOUTS = ("contiguous", "channels_last_3d")
BASIC_PASSES = ("forward", "grad_input", "grad_weight")
PASSES = (*BASIC_PASSES, "step", "step_compiled")

TORCH_DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
_MEMORY_FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last_3d": torch.channels_last_3d,
}
_CPU_CACHE_BYTES = 32 << 20
_MOST_SETS = 64


def set_float32_precision(dtype: str) -> None:
    """Make float32 mean `dtype` ("tf32" or "fp32") in this process, for convolution and matmul."""
    tf32 = dtype == "tf32"
    # The flags come first: setting only the newer precision leaves them behind, and then whoever
    # reads them (torch.compile does) meets an error about mixed settings.
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    conv.fp32_precision = "tf32" if tf32 else "ieee"


def cache_bytes(device: torch.device) -> int:
    """Size of the last-level cache: L2 of a GPU; for a CPU a figure that most stay below."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    return _CPU_CACHE_BYTES


class Problem:
    """Operands of `case`, drawn from the standard normal distribution with a seed of its name.

    `input` is (N, Cin, D, H, W), `weight` (Cin, Cout/groups, kD, kH, kW), scaled by one over the
    square root of the products in an output so that outputs have order one, and `grad_output` is
    (N, Cout, D', H', W'). All three are in the layout asked for. They are made when first used.
    """

    def __init__(
        self,
        case: Case,
        dtype: str,
        layout: str,
        device: torch.device,
        references: References | None = None,
    ) -> None:
        """`references` of the same case and dtype, if there are any from another layout."""
        self.references = references or References()
        self.case = case
        self.dtype = dtype
        self.layout = layout
        self.device = device

    @cached_property
    def input(self) -> Tensor:
        """Input, (N, Cin, D, H, W)."""
        return self._random("input", self.case.input)

    @cached_property
    def weight(self) -> Tensor:
        """Weight, (Cin, Cout/groups, kD, kH, kW)."""
        case = self.case
        terms = case.in_channels // case.groups * math.prod(case.kernel) / math.prod(case.stride)
        return self._random("weight", case.weight, scale=max(1.0, terms) ** -0.5)

    @cached_property
    def grad_output(self) -> Tensor:
        """Gradient of the output, (N, Cout, D', H', W')."""
        return self._random("grad_output", self.case.output)

    def operands(self, pass_name: str) -> tuple[Tensor, Tensor]:
        """What the pass reads: (input, weight), (grad_output, weight) or (grad_output, input)."""
        if pass_name == "grad_input":
            return self.grad_output, self.weight
        if pass_name == "grad_weight":
            return self.grad_output, self.input
        return self.input, self.weight

    def rotation(self, pass_name: str) -> list[tuple[Tensor, ...]]:
        """Copies of the operands, so many that none is still in the last-level cache when its turn
        comes again: one turn touches at least three times the cache."""
        size = tensor_bytes(self.case, self.dtype)
        sets = min(_MOST_SETS, -(-3 * cache_bytes(self.device) // size))
        first = self.operands(pass_name)
        return [first, *(tuple(t.clone() for t in first) for _ in range(sets - 1))]

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """An uninitialised tensor in this problem's dtype and layout."""
        dtype = TORCH_DTYPES[self.dtype]
        memory_format = _MEMORY_FORMATS[self.layout]
        return torch.empty(shape, dtype=dtype, device=self.device, memory_format=memory_format)

    def format(self, tensor: Tensor) -> Tensor:
        """`tensor` in this problem's layout."""
        return tensor.contiguous(memory_format=_MEMORY_FORMATS[self.layout])

    def _random(self, role: str, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
        generator = torch.Generator(self.device)
        generator.manual_seed(zlib.crc32(f"{self.case.shape} {role}".encode()))
        values = torch.randn(shape, generator=generator, device=self.device).mul_(scale)
        return self.format(values.to(TORCH_DTYPES[self.dtype]))
