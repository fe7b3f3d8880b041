"""Thousands of random problems on the GPU, all passes and engines, against float64 there.

The reference comes from the direct kernels in float64, which share no tile with the kernels under
test and are held to the independent reference by test_numerics.py. Each tensor-core engine is asked
for by name and held to it; the public operators must give the bits of one of the engines.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections import Counter

import pytest
import torch
from cases import OPERATORS, Case, arguments, make_tensors
from reference import Expected, check

pytestmark = pytest.mark.gpu

PROBLEMS = 2000
CHUNK = 250
SEED = int(os.environ.get("CONVT3D_TEST_SEED", "0"))
MOST_ELEMENTS = 3_000_000
LAYOUT_OF_FAMILY = {"lines": "contiguous", "wide": "channels_last_3d"}
HALVES_AND_FLOAT = (torch.float16, torch.bfloat16, torch.float32)


def random_case(rng: random.Random, name: str, family: str) -> Case:
    """Every axis on its own; half of the problems with tiles worth of positions.

    Some are batches of small images, with channels enough to fill a tile with samples. The family
    "heads" has few output channels, and inputs in whole runs; "lines" has inputs and outputs whose
    lines along the width are multiples of 16 bytes in 16 bits; "wide" has many channels in units of
    16 bytes, those of groups in whole steps of the "tapwise" engine.
    """
    while True:
        groups = rng.choice([1, 1, 1, 1, 2, 3])
        channels = [8, 16, 24, 32, 48, 64, 72, 128, rng.randint(1, 80)]
        in_channels, out_channels = (groups * rng.choice(channels) for _ in range(2))
        depthwise = rng.random() < 0.15
        if depthwise:
            groups = rng.choice([2, 8, 24, 32, 64, rng.randint(2, 70)])
            per_group = rng.choice([(1, 1), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
            in_channels, out_channels = groups * per_group[0], groups * per_group[1]
        if rng.random() < 0.4:
            kernel = (rng.choice([1, 2, 3, 4, 5]),) * 3
            stride, dilation = (rng.choice([1, 2, 2, 3, 4]),) * 3, (1, 1, 1)
        else:
            kernel, stride, dilation = (
                (rng.choice(choices), rng.choice(choices), rng.choice(choices))
                for choices in ([1, 2, 3, 3, 4, 5], [1, 1, 2, 2, 3, 4], [1, 1, 1, 2, 3])
            )
        padding = tuple(rng.randint(0, 4) for _ in range(3))
        if depthwise and rng.random() < 0.5:  # the taps that have kernels of their own
            k, s, p = rng.choice([(3, 1, 1), (2, 2, 0), (3, 2, 1), (4, 2, 1), (5, 2, 2)])
            kernel, stride, padding, dilation = (k,) * 3, (s,) * 3, (p,) * 3, (1, 1, 1)
        sizes = [1, 2, 5, 8, 16, rng.randint(1, 20)]
        if rng.random() < 0.5:
            sizes = [8, 9, 16, 17, 24, 33, rng.randint(6, 40)]
        size = (rng.choice(sizes[:4]), rng.choice(sizes), rng.choice(sizes))
        batch = rng.choice([1, 1, 2, 3])
        if rng.random() < 0.125:
            size = (rng.randint(1, 4), rng.randint(1, 9), rng.randint(1, 9))
            batch = rng.randint(1, 40)
            in_channels, out_channels = (
                groups * rng.choice([32, 64, 64, 128, 256, rng.randint(1, 160)]) for _ in range(2)
            )
        if family == "heads":
            groups = rng.choice([1, 1, 1, 2])
            taps = kernel[0] * kernel[1] * kernel[2]
            if taps > 64:
                continue
            in_channels = groups * rng.choice([16, 24, 32, 64, 72, 136])
            out_channels = groups * rng.randint(1, min(8, 64 // taps))
            size = (size[0], size[1], 4 * rng.randint(1, 12))
            batch = min(batch, 3)
        if family == "wide":
            groups = rng.choice([1, 1, 1, 2])
            wide = [64, 128, 192] if groups > 1 else [64, 72, 128, 256, 8 * rng.randint(5, 40)]
            in_channels, out_channels = (groups * rng.choice(wide) for _ in range(2))
            batch = rng.choice([batch, rng.randint(1, 20)])
            # The bound on random sums is for thousands of products, not for tens of thousands.
            if max(in_channels, out_channels) * math.prod(kernel) > 8192 * groups:
                continue
        if family == "lines":
            size = (size[0], size[1], 8 * rng.randint(1, 8))
        case = Case(
            name,
            batch,
            in_channels,
            out_channels,
            size,
            kernel,
            stride,
            padding,
            tuple(rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)),
            groups,
            dilation,
        )
        if family == "lines" and (in_channels < 8 * groups or case.output[-1] % 8 != 0):
            continue
        elements = torch.Size(case.output).numel() if min(case.output[2:]) > 0 else 0
        if 0 < elements <= MOST_ELEMENTS:
            return case


def in_engine(operator: str, engine: str, operands: tuple) -> torch.Tensor:
    """The operator's result from this engine and no other."""
    return getattr(torch.ops.convt3d, f"_{operator}")(*operands, engine=engine)


def wanted(operator: str, operands: tuple) -> Expected:
    wide = [value.double() if isinstance(value, torch.Tensor) else value for value in operands]
    sizes = [value.abs() if isinstance(value, torch.Tensor) else value for value in wide]
    value, magnitude = (in_engine(operator, "direct", tuple(o)) for o in (wide, sizes))
    return Expected(value, magnitude, terms=1, random=True)


def operators_of(family: str, dtype: torch.dtype) -> tuple[str, ...]:
    """The others have no engine that is asked for in this family alone."""
    none = family == "wide" and dtype == torch.float32
    return tuple(o for o in OPERATORS if not (none and o == "grad_weight"))


def engines_of(
    operator: str, case: Case, dtype: torch.dtype, tf32: bool, family: str
) -> tuple[str, ...]:
    """The engines, but for the direct one, that this GPU has for most calls of this kind."""
    if family == "heads":
        return ("im2col",)
    per_group = (case.in_channels // case.groups, case.out_channels // case.groups)
    if case.groups > 1 and max(per_group) <= 4 and per_group[0] * per_group[1] <= 8:
        return () if dtype == torch.float64 else ("depthwise",)
    if torch.cuda.get_device_capability() != (9, 0):
        return ("gemm",)
    if dtype == torch.float64 or (dtype == torch.float32 and not tf32):
        return ("gemm",)
    if family == "lines" and operator != "grad_weight" and dtype != torch.float64:
        return ("gathered",)
    if family == "wide":
        # Matrix units cannot transpose float32 weights.
        return ("wgmma",) if (operator, dtype) == ("forward", torch.float32) else ("tapwise",)
    if operator != "grad_weight":
        return ("gemm", "wgmma")
    if family == "lines":
        return ("gemm", "gathered")
    return ("gemm", "gathered") if dtype == torch.float32 else ("gemm", "wgmma")


def poison(elements: int, dtype: torch.dtype) -> None:
    """Make the memory that a result will be allocated from something else than zero by chance."""
    torch.full((2 * elements,), float("nan"), device="cuda", dtype=dtype)


def same_bits(result: torch.Tensor, operator: str, operands: tuple, engine: str) -> bool:
    try:
        return torch.equal(in_engine(operator, engine, operands), result)
    except RuntimeError as error:
        assert f"engine '{engine}' cannot run this problem" in str(error)
        return False


@pytest.mark.parametrize("first", range(0, PROBLEMS, CHUNK))
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *itertools.product(["any", "heads", "lines", "wide"], HALVES_AND_FLOAT),
        ("any", torch.float64),
    ],
    ids=str,
)
def test_random_problems(family: str, dtype: torch.dtype, first: int) -> None:
    precisions = ("ieee", "tf32") if dtype == torch.float32 else ("ieee",)
    asked, refused = Counter[str](), Counter[str]()
    for index in range(first, first + CHUNK):
        seed = SEED * 1_000_003 + index
        rng = random.Random(seed)
        case = random_case(rng, f"seed {seed}", family)
        layout = rng.choice(
            ["contiguous", "contiguous", "channels_last_3d", "channels_last_3d", "sliced"]
        )
        if family in LAYOUT_OF_FAMILY:
            layout = LAYOUT_OF_FAMILY[family]
        tensors = make_tensors(case, dtype, "cuda", layout, seed)
        for operator in operators_of(family, dtype):
            operands = arguments(operator, tensors, case)
            reference = wanted(operator, operands)
            for precision in precisions:
                torch.backends.cudnn.conv.fp32_precision = precision
                tf32 = precision == "tf32"
                label = f"{operator} {precision} {layout} {case!r}"
                poison(reference.value.numel(), dtype)
                result = getattr(torch.ops.convt3d, operator)(*operands)
                if operator != "grad_weight" and case.batch is not None and case.batch > 1:
                    alone = (operands[0][-1:], *operands[1:])
                    last = getattr(torch.ops.convt3d, operator)(*alone)
                    assert torch.equal(last, result[-1:]), f"depends on the batch: {label}"
                chosen = False
                for engine in engines_of(operator, case, dtype, tf32, family):
                    name = f"{operator} {engine} {precision}"
                    asked[name] += 1
                    poison(reference.value.numel(), dtype)
                    try:
                        forced = in_engine(operator, engine, operands)
                    except RuntimeError as error:
                        assert f"engine '{engine}' cannot run this problem" in str(error)
                        refused[name] += 1
                        continue
                    check(forced, reference, f"{engine} {label}", tf32=tf32)
                    chosen = chosen or torch.equal(forced, result)
                if not chosen:
                    check(result, reference, label, tf32=tf32)
                    others = ("im2col", "tapwise", "gathered", "wgmma", "gemm", "direct")
                    assert any(
                        same_bits(result, operator, operands, engine) for engine in others
                    ), f"bits of no engine: {label}"
    for name, count in asked.items():
        # The depthwise grad_weight has the commonest kernels only, half of these problems.
        most = 0.75 if name.startswith("grad_weight depthwise") else 0.5
        assert refused[name] < most * count, f"{name} refused {refused[name]} of {count} problems"
