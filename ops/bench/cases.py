"""The benchmark's shapes: 26 public layers, a few CPU-sized ones, and shapes typed by hand.

A shape is written `n,c,d,h,w -> cout k3 s2 p1 op1 g1 d1`. An option that differs between the axes
takes three numbers, `k3x5x7`; an option left out has PyTorch's default (`k` must be given).
`-> cout, k=3, s=2` says the same.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

Triple = tuple[int, int, int]

_OPTION = re.compile(r"(op|k|s|p|g|d)=?(\d+(?:x\d+)*)$")
_SYNTAX = '"n,c,d,h,w -> cout k3 s2 p1 op1 g1 d1"'


@dataclass(frozen=True)
class Case:
    """One layer: `input` is (N, C, D, H, W), all per-axis options are in the order D, H, W.

    Raises `ValueError` where the layer cannot exist (channels not divisible by groups, an output
    that would be empty, an output padding that PyTorch refuses).
    """

    name: str
    group: str
    input: tuple[int, int, int, int, int]
    out_channels: int
    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    output_padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        positive = (*self.input, self.out_channels, *self.kernel, *self.stride, *self.dilation)
        if min(*positive, self.groups) < 1:
            raise ValueError(f"{self.name}: sizes, kernel, stride, dilation, groups are at least 1")
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(f"{self.name}: channels must be divisible by groups={self.groups}")
        for extra, step, spread in zip(
            self.output_padding, self.stride, self.dilation, strict=True
        ):
            if extra >= max(step, spread):
                raise ValueError(f"{self.name}: output padding must be below stride or dilation")
        if min(self.output_size) < 1:
            raise ValueError(f"{self.name}: the output size {self.output_size} is too small")

    @property
    def in_channels(self) -> int:
        """Channels of the input, Cin."""
        return self.input[1]

    @property
    def input_size(self) -> Triple:
        """(D, H, W) of the input."""
        return self.input[2:]

    @property
    def output_size(self) -> Triple:
        """(D, H, W) of the output."""
        sizes = [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
            for size, kernel, stride, padding, extra, dilation in zip(
                self.input_size,
                self.kernel,
                self.stride,
                self.padding,
                self.output_padding,
                self.dilation,
                strict=True,
            )
        ]
        return sizes[0], sizes[1], sizes[2]

    @property
    def output(self) -> tuple[int, int, int, int, int]:
        """Shape of the output, (N, Cout, D, H, W)."""
        return (self.input[0], self.out_channels, *self.output_size)

    @property
    def weight(self) -> tuple[int, int, int, int, int]:
        """Shape of the weight, (Cin, Cout/groups, kD, kH, kW)."""
        return (self.in_channels, self.out_channels // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-adds that the result needs: N * Cin * Cout/groups * those of a channel pair.

        The same for the forward pass and both gradients. Per axis, input position i and tap k meet
        where `0 <= stride*i - padding + dilation*k < output size`; what the padding crops is not
        counted, because a lower bound must not hold work that nobody has to do.
        """
        pairs = 1
        for axis in range(3):
            stride, dilation = self.stride[axis], self.dilation[axis]
            pairs *= sum(
                0 <= stride * i - self.padding[axis] + dilation * k < self.output_size[axis]
                for i in range(self.input_size[axis])
                for k in range(self.kernel[axis])
            )
        return self.input[0] * self.in_channels * (self.out_channels // self.groups) * pairs

    @property
    def elements(self) -> int:
        """Elements of input, output and weight together: what every pass reads or writes once."""
        return math.prod(self.input) + math.prod(self.output) + math.prod(self.weight)

    @property
    def shape(self) -> str:
        """The shape in the syntax of `parse_shape`, options at their default left out."""
        options = [("s", self.stride, 1), ("p", self.padding, 0), ("op", self.output_padding, 0)]
        text = f"{','.join(map(str, self.input))} -> {self.out_channels} k{_short(self.kernel)}"
        text += "".join(f" {key}{_short(v)}" for key, v, default in options if set(v) != {default})
        text += f" g{self.groups}" if self.groups != 1 else ""
        return text + (f" d{_short(self.dilation)}" if set(self.dilation) != {1} else "")

    def to_dict(self) -> dict:
        """Plain lists and numbers, as a result file keeps them, with `macs` and `elements`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        return plain | {"macs": self.macs, "elements": self.elements}

    @classmethod
    def from_dict(cls, data: dict) -> Case:
        """The case that `to_dict` wrote."""
        own = {field.name: data[field.name] for field in fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in own.items()}
        return cls(**values)


def _short(values: Triple) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _triple(option: str, text: str) -> Triple:
    values = [int(part) for part in text.split("x")]
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise ValueError(f"option {option}{text} takes one number or three, as in {option}3x5x7")
    return values[0], values[1], values[2]


def parse_shape(text: str, name: str | None = None, group: str = "custom") -> Case:
    """Read a shape written as `n,c,d,h,w -> cout k3 s2 p1 op1 g1 d1`.

    Raises `ValueError` with the part that was not understood.
    """
    left, arrow, right = text.partition("->")
    words = right.replace(",", " ").split()
    if not arrow or not words:
        raise ValueError(f"not a shape: {text!r}; write {_SYNTAX}")
    try:
        size = [int(part) for part in left.split(",")]
        out_channels = int(words[0])
    except ValueError:
        raise ValueError(f"not a shape: {text!r}; write {_SYNTAX}") from None
    if len(size) != 5:
        raise ValueError(f"the input {left.strip()!r} has {len(size)} sizes, not n,c,d,h,w")

    options: dict[str, str] = {}
    for word in words[1:]:
        match = _OPTION.match(word)
        if not match:
            raise ValueError(f"unknown option {word!r} in {text!r}; write {_SYNTAX}")
        if match[1] in options:
            raise ValueError(f"option {match[1]} is given twice in {text!r}")
        options[match[1]] = match[2]
    if "k" not in options:
        raise ValueError(f"the kernel size is missing in {text!r}; write {_SYNTAX}")
    groups = _triple("g", options.get("g", "1"))
    if len(set(groups)) != 1:
        raise ValueError(f"groups is one number, not g{options['g']}")

    case = Case(
        name=name or "custom",
        group=group,
        input=(size[0], size[1], size[2], size[3], size[4]),
        out_channels=out_channels,
        kernel=_triple("k", options["k"]),
        stride=_triple("s", options.get("s", "1")),
        padding=_triple("p", options.get("p", "0")),
        output_padding=_triple("op", options.get("op", "0")),
        dilation=_triple("d", options.get("d", "1")),
        groups=groups[0],
    )
    if name is None:
        return replace(case, name=case.shape)
    return case


# KernelBench: level 1 problem N is kbN, level 2 problem N is kb2_N (github.com/ScalingIntelligence/
# KernelBench). The others are the decoder layers of the networks that give the group its name.
PUBLIC: tuple[Case, ...] = tuple(
    parse_shape(shape, name, group)
    for group, name, shape in (
        ("kernelbench", "kb58", "16,32,16,32,64 -> 16 k3x5x7"),
        ("kernelbench", "kb61", "8,48,64,64,64 -> 48 k3"),
        ("kernelbench", "kb68", "16,32,64,64,64 -> 64 k3x5x5"),
        ("kernelbench", "kb70", "8,48,96,96,96 -> 24 k3"),
        ("kernelbench", "kb72", "8,32,12,24,48 -> 32 k3x5x7 s2 p1x2x3 op1 g4"),
        ("kernelbench", "kb73", "4,32,32,64,128 -> 32 k3 s2 p1"),
        ("kernelbench", "kb77", "16,32,16,32,32 -> 64 k3 s2 p1 d2"),
        ("kernelbench", "kb2_13", "16,16,32,128,128 -> 64 k3 p1"),
        ("kernelbench", "kb2_26", "128,32,16,16,16 -> 64 k3 s2 p1 op1"),
        ("kernelbench", "kb2_34", "32,32,16,32,32 -> 64 k4 s2 p1"),
        ("kernelbench", "kb2_50", "128,3,16,32,32 -> 16 k3 s2 p1"),
        ("kernelbench", "kb2_77", "16,64,16,32,32 -> 128 k5"),
        ("kernelbench", "kb2_78", "16,32,32,32,32 -> 64 k5 s2 p2"),
        ("kernelbench", "kb2_100", "16,64,24,48,48 -> 128 k3 s2 p1"),
        ("nnunet", "nnunet_320", "2,320,8,8,8 -> 256 k2 s2"),
        ("nnunet", "nnunet_128", "2,128,32,32,32 -> 64 k2 s2"),
        ("nnunet", "nnunet_64", "2,64,64,64,64 -> 32 k2 s2"),
        ("monai", "monai_128", "2,128,24,24,24 -> 64 k3 s2 p1 op1"),
        ("monai", "monai_64", "2,64,48,48,48 -> 32 k3 s2 p1 op1"),
        ("monai", "monai_head", "2,32,48,48,48 -> 3 k3 s2 p1 op1"),
        ("gan", "gan_512", "32,512,4,4,4 -> 256 k4 s2 p1"),
        ("gan", "gan_128", "32,128,16,16,16 -> 64 k4 s2 p1"),
        ("gan", "gan_head", "32,64,32,32,32 -> 1 k4 s2 p1"),
        ("stereo", "stereo_64", "4,64,12,32,64 -> 32 k3 s2 p1 op1"),
        ("video", "video_256", "2,256,8,32,32 -> 256 k4 s2 p1"),
        ("weather", "weather", "1,384,7,181,360 -> 5 k2x4x4 s2x4x4"),
    )
)

# The same kinds of layer at sizes that a CPU finishes in milliseconds.
CPU: tuple[Case, ...] = tuple(
    parse_shape(shape, name, "cpu")
    for name, shape in (
        ("cpu_k2s2_16", "1,64,16,16,16 -> 32 k2 s2"),
        ("cpu_k2s2_48", "1,64,48,48,48 -> 32 k2 s2"),
        ("cpu_k3s2_16", "1,64,16,16,16 -> 32 k3 s2 p1 op1"),
        ("cpu_k3s2_32", "1,64,32,32,32 -> 32 k3 s2 p1 op1"),
        ("cpu_k4s2_16", "1,64,16,16,16 -> 32 k4 s2 p1"),
        ("cpu_k3s1_24", "1,64,24,24,24 -> 32 k3 p1"),
        ("cpu_k3s2d2_32", "1,64,32,32,32 -> 32 k3 s2 p2 op1 d2"),
    )
)

CASES: tuple[Case, ...] = PUBLIC + CPU
GROUPS: tuple[str, ...] = tuple(dict.fromkeys(case.group for case in CASES))

QUICK = ("kb2_26", "nnunet_64", "monai_64", "gan_128", "stereo_64", "video_256", "weather")
QUICK_CPU = ("cpu_k2s2_16", "cpu_k3s2_16", "cpu_k4s2_16")


def select(wanted: Sequence[str]) -> list[Case]:
    """The cases behind the words of `--cases`, in the order asked for, each once.

    A word is a shape (it holds `->`), or a comma-separated list of names, groups and globs.
    Raises `ValueError` for a word that matches nothing, with the nearest known names.
    """
    found: dict[str, Case] = {}
    for case in _matches(wanted):
        found.setdefault(case.name, case)
    return list(found.values())


def _matches(wanted: Iterable[str]) -> Iterable[Case]:
    for argument in wanted:
        if "->" in argument:
            yield parse_shape(argument)
            continue
        for word in filter(None, (part.strip() for part in argument.split(","))):
            hits = [c for c in CASES if word == c.group or fnmatch.fnmatchcase(c.name, word)]
            if not hits:
                known = [*GROUPS, *(case.name for case in CASES)]
                near = ", ".join(difflib.get_close_matches(word, known)) or ", ".join(GROUPS)
                raise ValueError(f"no case, group or glob {word!r}; near it: {near}")
            yield from hits
