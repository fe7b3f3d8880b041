"""What every process of a group runs together: the operators on DTensors against one device."""

from __future__ import annotations

import random
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from cases import Case, make_case
from distributed_problems import (
    WHOLE,
    compare,
    mesh_of,
    random_case,
    random_placement,
    require_equal,
    results,
    tensors_of,
)
from distributed_run import World
from torch.autograd.functional import hvp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.experimental import implicit_replication

BATCH, CHANNELS, DEPTH, HEIGHT = (Shard(dim) for dim in range(4))
PARTIAL = Partial()


def check_every_rule_without_communication(world: World) -> None:
    """Placements that a rule takes as they are; what comes out; and that nothing is sent."""
    n = world.ranks
    tiling = make_case("tiling", (2 * n, 2 * n, 2 * n, 4, 3), 4 * n, 2, s=2)
    grouped = make_case("grouped", (2, 2 * n, 4, 3, 4), 4 * n, 3, s=2, p=1, g=n)
    wide = make_case("stride above kernel", (1, 2, 2 * n, 3, 3), 3, 2, s=(3, 1, 1), op=(1, 0, 0))
    table = (
        # input, weight, bias, grad_output; output, grad_input, grad_weight
        (tiling, (WHOLE, WHOLE, WHOLE, WHOLE), (WHOLE, WHOLE, WHOLE)),
        (tiling, (BATCH, WHOLE, WHOLE, BATCH), (BATCH, BATCH, PARTIAL)),
        (tiling, (WHOLE, Shard(1), Shard(0), CHANNELS), (CHANNELS, PARTIAL, Shard(1))),
        (tiling, (CHANNELS, Shard(0), WHOLE, WHOLE), (PARTIAL, CHANNELS, Shard(0))),
        (tiling, (DEPTH, WHOLE, WHOLE, DEPTH), (DEPTH, DEPTH, PARTIAL)),
        (grouped, (CHANNELS, Shard(0), Shard(0), CHANNELS), (CHANNELS, CHANNELS, Shard(0))),
        (wide, (DEPTH, WHOLE, WHOLE, DEPTH), (DEPTH, DEPTH, PARTIAL)),
    )
    mesh = mesh_of(world)
    for case, placements, expected in table:
        operands = tensors_of(case, world.device)
        shared = [
            distribute_tensor(operand, mesh, [placement])
            for operand, placement in zip(operands, placements, strict=True)
        ]
        silent = mock.patch.object(dist, "batch_isend_irecv", side_effect=AssertionError)
        with CommDebugMode() as communication, silent:
            found = results(shared[:3], shared[3], case.geometry)
        assert communication.get_total_counts() == 0, (case, placements)
        assert tuple(result.placements[0] for result in found[:3]) == expected, (case, placements)
        reference = results(operands[:3], operands[3], case.geometry)
        for result, whole in zip(found, reference, strict=True):
            require_equal(result, whole)


def check_arguments_are_not_mixed_up(world: World) -> None:
    """Calls that differ in one argument, with placements that suit only one of them, in turns."""
    mesh = mesh_of(world)
    size = (2, 2 * world.ranks, 2 * world.ranks, 3, 3)
    channels = 2 * world.ranks
    base = make_case("base", size, channels, 2, s=2)
    depth = [DEPTH], [WHOLE], [WHOLE], [DEPTH]
    rows = [CHANNELS], [Shard(0)], [WHOLE], [CHANNELS]
    pairs = (
        (base, make_case("stride", size, channels, 2, s=1), depth),
        (base, make_case("padding", size, channels, 2, s=2, p=1), depth),
        (base, make_case("output_padding", size, channels, 2, s=2, op=1), depth),
        (base, make_case("dilation", size, channels, 2, s=2, d=3), depth),
        # The same weight: with n groups it has n times the output channels.
        (base, make_case("groups", size, channels * world.ranks, 2, s=2, g=world.ranks), rows),
    )  # fmt: skip
    for first, second, placements in pairs:
        assert (first.input, first.weight) == (second.input, second.weight)
        for case in (first, second, first, second):
            compare(case, mesh, placements, tensors_of(case, world.device))


def check_random_placements(world: World) -> None:
    """Any geometry, any placement of every operand: redistributed or exchanged, never wrong."""
    meshes = [mesh_of(world)]
    if world.ranks == 4:
        meshes += [mesh_of(world, 2, 2)] * 2
    for number in range(48):
        seed = 1000 * world.seed + number
        rng = random.Random(seed)
        torch.manual_seed(seed)
        case, mesh = random_case(rng), rng.choice(meshes)
        operands = tensors_of(case, world.device, bias=rng.random() < 0.7)
        spatial = range(len(case.input) - 3, len(case.input))
        placements = [
            [random_placement(rng, operand.dim(), spatial if operand.dim() > 1 else ())
             for _ in range(mesh.ndim)]
            for operand in operands
        ]  # fmt: skip
        with naming(f"seed {seed}: {case!r}, {placements} on {mesh}"):
            compare(case, mesh, placements, operands)


def check_halos(world: World) -> None:
    """Volumes cut along depth, of any geometry: gradients of first and second order."""
    mesh = mesh_of(world)
    for number in range(40):
        seed = 1000 * world.seed + 500 + number
        rng = random.Random(seed)
        torch.manual_seed(seed)
        case = random_case(rng)
        operands = tensors_of(case, world.device)
        cut, whole = [Shard(len(case.input) - 3)], [WHOLE]
        with naming(f"seed {seed}: {case!r}"):
            found = compare(case, mesh, [cut, whole, whole, cut], operands)
            # Nothing was gathered in favour of another way to share.
            assert [list(result.placements) for result in found[:2]] == [cut, cut]
            if number % 4 == 0:
                _compare_second_order(case, mesh, operands)


def _compare_second_order(case: Case, mesh: DeviceMesh, operands: list[torch.Tensor]) -> None:
    def loss(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (torch.ops.convt3d.forward(x, w, None, *case.geometry) ** 2 * 0.5).sum()

    points = operands[:2]
    directions = [torch.randn(point.shape, dtype=point.dtype).to(point.device) for point in points]
    _, expected = hvp(loss, tuple(points), tuple(directions))
    leaves, along = (
        [
            distribute_tensor(tensor, mesh, [placement]).requires_grad_()
            for tensor, placement in zip(tensors, (Shard(len(case.input) - 3), WHOLE), strict=True)
        ]
        for tensors in (points, directions)
    )
    first = torch.autograd.grad(loss(*leaves), leaves, create_graph=True)
    found = torch.autograd.grad(first, leaves, along)
    for result, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(result.full_tensor(), reference, rtol=1e-9, atol=1e-9)


def check_halos_repeat_bitwise_and_equal_one_device(world: World) -> None:
    """What a usual layer gives in float32 is the single device's result to the last bits."""
    case = make_case("layer", (1, 16, 4 * world.ranks, 8, 8), 8, 4, s=2, p=1)
    input, weight, bias, _ = (t.float() for t in tensors_of(case, world.device))
    mesh = mesh_of(world)
    shared = distribute_tensor(input, mesh, [DEPTH])
    parameters = [distribute_tensor(parameter, mesh, [WHOLE]) for parameter in (weight, bias)]
    first, second = (
        torch.ops.convt3d.forward(shared, *parameters, *case.geometry).full_tensor()
        for _ in range(2)
    )
    assert torch.equal(first, second)
    expected = torch.ops.convt3d.forward(input, weight, bias, *case.geometry)
    torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-4)


def check_uneven_channels(world: World) -> None:
    """Fewer channels than ranks: some have no part of a sum, or no output."""
    mesh = mesh_of(world)
    case = make_case("few channels", (2, 1, 4, 3, 3), world.ranks + 1, 3, s=2)
    operands = tensors_of(case, world.device)
    for placements in (
        ([CHANNELS], [Shard(0)], [WHOLE], [WHOLE]),
        ([WHOLE], [Shard(1)], [Shard(0)], [CHANNELS]),
    ):
        compare(case, mesh, placements, operands)


def check_pending_sums(world: World) -> None:
    """Operands that are sums or means over the ranks are summed before use."""
    mesh = mesh_of(world)
    case = make_case("partial", (2, 4, 4, 3, 3), 4, 3, s=2)
    operands = tensors_of(case, world.device)
    expected = results(operands[:3], operands[3], case.geometry)
    for partial, factor in ((Partial("sum"), world.ranks), (Partial("avg"), 1)):
        shared = [
            DTensor.from_local(operand / factor, mesh, [partial], run_check=False)
            for operand in operands
        ]
        for result, whole in zip(
            results(shared[:3], shared[3], case.geometry), expected, strict=True
        ):
            require_equal(result, whole)


def check_memory_formats(world: World) -> None:
    """channels_last_3d stays so, whole and in parts, whatever was redistributed."""
    mesh = mesh_of(world)
    last = torch.channels_last_3d
    case = make_case("format", (2, 4, 2 * world.ranks, 4, 3), 4 * world.ranks, 3, s=2)
    operands = [
        operand.contiguous(memory_format=last) if operand.dim() == 5 else operand
        for operand in tensors_of(case, world.device)
    ]
    for placement in (WHOLE, BATCH, CHANNELS, DEPTH, HEIGHT):
        shared = [[placement], [WHOLE], [WHOLE], [placement]]
        output, by_input, *_ = compare(case, mesh, shared, operands)
        for result in (output, by_input):
            assert result.to_local().is_contiguous(memory_format=last), placement


def check_refusals(world: World) -> None:
    """Errors come before anything is sent, alike on all ranks, with the operators' own texts."""
    mesh = mesh_of(world)
    input, weight, *_ = tensors_of(make_case("refused", (2, 2, 4, 4, 4), 2, 2), world.device)
    shared = distribute_tensor(input, mesh, [DEPTH])
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        torch.ops.convt3d.forward(shared, weight)
    with implicit_replication():
        found = torch.ops.convt3d.forward(shared, weight)
    require_equal(found, torch.ops.convt3d.forward(input, weight))
    parameter = distribute_tensor(weight, mesh, [WHOLE])
    with pytest.raises(RuntimeError, match="non-positive stride is not supported"):
        torch.ops.convt3d.forward(shared, parameter, stride=0)
    with pytest.raises(RuntimeError, match="should be the same"):
        torch.ops.convt3d.forward(shared, parameter.float())
    other = distribute_tensor(weight, DeviceMesh(world.device, [[r] for r in range(world.ranks)]),
                              [WHOLE, WHOLE])  # fmt: skip
    with pytest.raises(RuntimeError, match="one device mesh"):
        torch.ops.convt3d.forward(shared, other)


def check_ranks_outside_the_mesh(world: World) -> None:
    """A mesh may leave ranks out; they have nothing to do and nothing to wait for."""
    mesh = DeviceMesh(world.device, list(range(world.ranks - 1)))
    case = make_case("outside", (2, 2, 5, 3, 3), 4, 3, s=2)
    input, weight, bias, grad_output = tensors_of(case, world.device)
    shared = [distribute_tensor(input, mesh, [DEPTH])]
    shared += [distribute_tensor(t, mesh, [Replicate()]) for t in (weight, bias)]
    leaves = [t.requires_grad_() for t in shared]
    output = torch.ops.convt3d.forward(*leaves, *case.geometry)
    gradients = torch.autograd.grad(output, leaves, distribute_tensor(grad_output, mesh, [DEPTH]))
    expected = results([input, weight, bias], grad_output, case.geometry)
    for found, whole in zip((output, *gradients), expected, strict=True):
        assert found.shape == whole.shape
        if world.rank < world.ranks - 1:
            require_equal(found, whole)


def check_compiled(world: World) -> None:
    """torch.compile traces the rules; halos, which need data, become gathered axes."""
    mesh = mesh_of(world)
    case = make_case("compiled", (2, 2, 2 * world.ranks, 3, 3), 4, 3, s=2, p=1)
    *operands, grad_output = tensors_of(case, world.device)
    compiled = torch.compile(torch.ops.convt3d.forward, backend="aot_eager", fullgraph=True)
    expected = results(operands, grad_output, case.geometry)
    for placement in (BATCH, DEPTH):
        leaves = [
            distribute_tensor(operand, mesh, [p]).requires_grad_()
            for operand, p in zip(operands, (placement, WHOLE, WHOLE), strict=True)
        ]
        output = compiled(*leaves, *case.geometry)
        gradients = torch.autograd.grad(
            output, leaves, distribute_tensor(grad_output, mesh, list(output.placements))
        )
        for found, whole in zip((output, *gradients), expected, strict=True):
            require_equal(found, whole)


class naming:
    """Adds to an error which problem it was."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            raise AssertionError(self.text) from error


CHECKS = [value for name, value in dict(globals()).items() if name.startswith("check_")]
