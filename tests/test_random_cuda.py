"""Thousands of random problems on the GPU, all passes, against float64 on the same device.

The float64 operators run in the direct kernels, which share no tile with the kernels under test and
are held to the independent reference by test_numerics.py.
"""

from __future__ import annotations

import os
import random

import pytest
import torch
from cases import OPERATORS, Case, Tensors, arguments, make_tensors
from reference import Expected, check

pytestmark = pytest.mark.gpu

PROBLEMS = 2000
CHUNK = 250
SEED = int(os.environ.get("CONVT3D_TEST_SEED", "0"))
MOST_ELEMENTS = 3_000_000


def random_case(rng: random.Random, name: str) -> Case:
    """Every axis on its own; half of the problems with tiles worth of positions."""
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
        case = Case(
            name,
            rng.choice([1, 1, 2, 3]),
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
        elements = torch.Size(case.output).numel() if min(case.output[2:]) > 0 else 0
        if 0 < elements <= MOST_ELEMENTS:
            return case


def wanted(operator: str, tensors: Tensors, case: Case) -> Expected:
    operands = [
        value.double() if isinstance(value, torch.Tensor) else value
        for value in arguments(operator, tensors, case)
    ]
    sizes = [value.abs() if isinstance(value, torch.Tensor) else value for value in operands]
    function = getattr(torch.ops.convt3d, operator)
    return Expected(function(*operands), function(*sizes), terms=1, random=True)


@pytest.mark.parametrize("first", range(0, PROBLEMS, CHUNK))
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "tf32"])
def test_random_problems(name: str, first: int) -> None:
    tf32 = name == "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    dtype = torch.float32 if tf32 else getattr(torch, name)
    for index in range(first, first + CHUNK):
        seed = SEED * 1_000_003 + index
        rng = random.Random(seed)
        case = random_case(rng, f"seed {seed}")
        layout = rng.choice(
            ["contiguous", "contiguous", "channels_last_3d", "channels_last_3d", "sliced"]
        )
        tensors = make_tensors(case, dtype, "cuda", layout, seed)
        for operator in OPERATORS:
            operands = arguments(operator, tensors, case)
            reference = wanted(operator, tensors, case)
            # What the result is allocated from is not zero by chance.
            poison = torch.full(
                (2 * reference.value.numel(),), float("nan"), device="cuda", dtype=dtype
            )
            del poison
            result = getattr(torch.ops.convt3d, operator)(*operands)
            check(result, reference, f"{operator} {layout} {case!r}", tf32=tf32)
