"""Which placements the operators can compute with, and which of them a call uses.

A rule holds for one mesh dimension: how the operands must be placed and how the result then is.
The rules of a call depend on all its arguments (a spatial shard's needs on stride, padding,
dilation and kernel, channels on the groups), so they are made anew for every call; DTensor's
``register_sharding`` is not used because it reuses a choice for calls that differ in arguments
before the first plain int, which are stride, padding and output_padding here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convt3d.meta.shape import Problem
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement

WEIGHT_IN, WEIGHT_OUT = 0, 1  # the weight's dimensions of channels
AXES = ("depth", "height", "width")


@dataclass(frozen=True)
class Rule:
    """How one mesh dimension shares the work; `operands` in the order of the operator's tensors."""

    name: str
    operands: tuple[Placement, ...]
    result: Placement


Maker = Callable[[Problem], list[Rule]]


def activation_dims(problem: Problem) -> tuple[int, tuple[int, int, int]]:
    """The dimensions of the channels and of depth, height, width."""
    channels = 1 if problem.batched else 0
    return channels, (channels + 1, channels + 2, channels + 3)


def forward_rules(problem: Problem) -> list[Rule]:
    """Of ``forward(input, weight, bias)``; a call without bias ignores the third operand.

    Where input channels are shared every rank has a part of each sum. Only the first adds the bias,
    so the bias stays whole.
    """
    whole = Replicate()
    channels, spatial = activation_dims(problem)
    rules = [Rule("replicate", (whole, whole, whole), whole)]
    if problem.batched:
        rules.append(Rule("batch", (Shard(0), whole, whole), Shard(0)))
    here = Shard(channels)
    if problem.groups == 1:
        rules += [
            Rule("out_channels", (whole, Shard(WEIGHT_OUT), Shard(0)), here),
            Rule("in_channels", (here, Shard(WEIGHT_IN), whole), Partial()),
        ]
    else:
        rules.append(Rule("groups", (here, Shard(WEIGHT_IN), Shard(0)), here))
    for axis, dim in zip(AXES, spatial, strict=True):
        rules.append(Rule(axis, (Shard(dim), whole, whole), Shard(dim)))
    return rules


def grad_input_rules(problem: Problem) -> list[Rule]:
    """Of ``grad_input(grad_output, weight)``."""
    whole = Replicate()
    channels, spatial = activation_dims(problem)
    rules = [Rule("replicate", (whole, whole), whole)]
    if problem.batched:
        rules.append(Rule("batch", (Shard(0), whole), Shard(0)))
    here = Shard(channels)
    if problem.groups == 1:
        rules += [
            Rule("out_channels", (here, Shard(WEIGHT_OUT)), Partial()),
            Rule("in_channels", (whole, Shard(WEIGHT_IN)), here),
        ]
    else:
        rules.append(Rule("groups", (here, Shard(WEIGHT_IN)), here))
    for axis, dim in zip(AXES, spatial, strict=True):
        rules.append(Rule(axis, (Shard(dim), whole), Shard(dim)))
    return rules


def grad_weight_rules(problem: Problem) -> list[Rule]:
    """Of ``grad_weight(grad_output, input)``."""
    whole = Replicate()
    channels, spatial = activation_dims(problem)
    rules = [Rule("replicate", (whole, whole), whole)]
    if problem.batched:
        rules.append(Rule("batch", (Shard(0), Shard(0)), Partial()))
    here = Shard(channels)
    if problem.groups == 1:
        rules += [
            Rule("out_channels", (here, whole), Shard(WEIGHT_OUT)),
            Rule("in_channels", (whole, here), Shard(WEIGHT_IN)),
        ]
    else:
        rules.append(Rule("groups", (here, here), Shard(WEIGHT_IN)))
    for axis, dim in zip(AXES, spatial, strict=True):
        rules.append(Rule(axis, (Shard(dim), Shard(dim)), Partial()))
    return rules


def choose(
    rules: Sequence[Rule],
    operands: Sequence[DTensor],
    groups: int,
    is_allowed: Callable[[Rule, int], bool],
) -> tuple[Rule, ...]:
    """A rule for every mesh dimension: the ones that move the fewest bytes.

    Of equals, those that change the fewest placements, then the earlier ones in `rules`. Every rank
    chooses alike, since only global sizes and placements count. ``is_allowed(rule, mesh_dim)`` can
    take rules out.
    """
    mesh = operands[0].device_mesh
    candidates = [
        [rule for rule in rules if is_allowed(rule, mesh_dim)] for mesh_dim in range(mesh.ndim)
    ]
    best: tuple[tuple[float, int], tuple[Rule, ...]] | None = None
    for chosen in itertools.product(*candidates):
        if not _fit_together(chosen, mesh.shape, groups):
            continue
        cost, changes = 0.0, 0
        for mesh_dim, rule in enumerate(chosen):
            for operand, wanted in zip(operands, rule.operands, strict=False):
                present = operand.placements[mesh_dim]
                if present != wanted:
                    parts = mesh.shape[mesh_dim]
                    cost += operand.numel() * operand.itemsize * _moved(present, wanted, parts)
                    changes += 1
        if best is None or (cost, changes) < best[0]:
            best = (cost, changes), chosen
    assert best is not None  # replicating everything is always possible
    return best[1]


def _fit_together(chosen: Sequence[Rule], mesh_shape: Sequence[int], groups: int) -> bool:
    names = [rule.name for rule in chosen]
    if any(names.count(axis) > 1 for axis in AXES):
        return False
    parts = math.prod(
        size for name, size in zip(names, mesh_shape, strict=True) if name == "groups"
    )
    return groups % parts == 0


def _moved(present: Placement, wanted: Placement, parts: int) -> float:
    """The share of a tensor that each rank receives when it is placed anew."""
    if present.is_replicate():
        return 0.0
    every = (parts - 1) / parts
    if present.is_partial():
        return every if isinstance(wanted, Shard) else 2 * every
    return every / parts if isinstance(wanted, Shard) else every
