"""Problems for the distributed checks and their results on one device, for comparison."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from cases import Case, make_case
from distributed_run import World
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import Placement

WHOLE = Replicate()


def mesh_of(world: World, *shape: int) -> DeviceMesh:
    """A mesh over all ranks, of one dimension unless `shape` says more."""
    return init_device_mesh(world.device, shape or (world.ranks,))


def random_case(rng: random.Random) -> Case:
    """Small and of any geometry: a shard may need planes of all others, of none, or be empty."""
    groups = rng.choice([1, 1, 2, 3, 4])
    kernel, stride = ([rng.randint(1, 4) for _ in range(3)] for _ in range(2))
    dilation = [rng.randint(1, 3) for _ in range(3)]
    rest = [rng.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)]
    size = [rng.randint(1, 9), rng.randint(1, 4), rng.randint(1, 4)]
    natural = [
        (size[a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + rest[a] for a in range(3)
    ]
    padding = [rng.randint(0, min(5, extent // 2)) for extent in natural]
    batch = rng.choice([[], [1], [2], [3]])
    return make_case(
        "random",
        [*batch, groups * rng.randint(1, 3), *size],
        groups * rng.randint(1, 3),
        kernel,
        s=stride,
        p=padding,
        op=rest,
        g=groups,
        d=dilation,
    )


def tensors_of(case: Case, device: str, *, bias: bool = True) -> list[Tensor]:
    """Input, weight, bias (if any) and a gradient of the output; float64, alike on all ranks."""
    sizes = [case.input, case.weight, *([(case.out_channels,)] if bias else []), case.output]
    return [torch.randn(size, dtype=torch.float64).to(device) for size in sizes]


def results(operands: Sequence[Tensor], grad_output: Tensor, geometry: Sequence[Any]) -> Any:
    """The output and the gradients by all operands."""
    leaves = [operand.detach().requires_grad_() for operand in operands]
    bias = leaves[2] if len(leaves) > 2 else None
    output = torch.ops.convt3d.forward(leaves[0], leaves[1], bias, *geometry)
    return [output, *torch.autograd.grad(output, leaves, grad_output)]


def compare(
    case: Case,
    mesh: DeviceMesh,
    placements: Sequence[Sequence[Placement]],
    operands: Sequence[Tensor],
) -> list[DTensor]:
    """Output and gradients of `operands` distributed by `placements`, after comparing them."""
    *parameters, grad_output = operands
    expected = results(parameters, grad_output, case.geometry)
    shared = [
        distribute_tensor(operand, mesh, list(placement))
        for operand, placement in zip(operands, placements, strict=True)
    ]
    found = results(shared[:-1], shared[-1], case.geometry)
    for result, reference in zip(found, expected, strict=True):
        require_equal(result, reference)
    return found


def require_equal(found: DTensor, expected: Tensor) -> None:
    """The values, and that this rank has exactly what the placements promise."""
    assert isinstance(found, DTensor)
    assert (found.shape, found.stride()) == (expected.shape, expected.stride())
    if not any(placement.is_partial() for placement in found.placements):
        part = distribute_tensor(expected.detach(), found.device_mesh, list(found.placements))
        assert found.to_local().shape == part.to_local().shape
    torch.testing.assert_close(found.full_tensor(), expected, rtol=1e-10, atol=1e-10)


def random_placement(rng: random.Random, dims: int, preferred: Sequence[int] = ()) -> Placement:
    """Whole, or cut along any dimension; half of the time one of the `preferred`."""
    if preferred and rng.random() < 0.5:
        return Shard(rng.choice(list(preferred)))
    return rng.choice([WHOLE, *map(Shard, range(dims))])
