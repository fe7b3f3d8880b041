"""One call of an operator on DTensors: who computes what, and this rank's part of the operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from convt3d.distributed.halo import fetch
from convt3d.distributed.rules import AXES, Rule, activation_dims, choose
from convt3d.distributed.windows import Range, Window, chunks
from convt3d.meta.shape import Axis, Problem, dense_strides, suggests_channels_last_3d
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Placement

WindowOf = Callable[[Axis, Range, Range], "Window | None"]


class Call:
    """The rules chosen for a call and what follows from them for this rank.

    Along a sharded spatial axis one operand stays where it is and the other one moves: the input
    moves to the outputs (forward, ``grad_weight``) or, with ``to_outputs=False``, the output's
    gradient to the inputs (``grad_input``). ``window_of`` tells which planes go with a range.

    Attributes:
        operands: this rank's parts, placed as the rules want them.
        groups: groups that this rank has; fewer than the problem's where ranks share them.
    """

    def __init__(
        self,
        problem: Problem,
        rules: list[Rule],
        operands: list[DTensor],
        window_of: WindowOf,
        *,
        to_outputs: bool = True,
    ) -> None:
        self._problem = problem
        self._mesh = operands[0].device_mesh
        self._window_of = window_of
        self._to_outputs = to_outputs
        self._channels_last = any(suggests_channels_last_3d(operand) for operand in operands[:2])
        self._rules = choose(rules, operands, problem.groups, self._filter(operands[0]))
        self.operands = [
            _local(operand, [rule.operands[index] for rule in self._rules])
            for index, operand in enumerate(operands)
        ]
        sharers = [
            size
            for size, rule in zip(self._mesh.shape, self._rules, strict=True)
            if rule.name == "groups"
        ]
        self.groups = problem.groups // math.prod(sharers)
        self._padding = [axis.padding for axis in problem.axes]
        self._output_padding = [axis.output_padding for axis in problem.axes]

    def _filter(self, operand: DTensor) -> Callable[[Rule, int], bool]:
        """Halos need data to send: a compiler's tracing gathers whole axes instead."""
        local = operand.to_local()
        has_data = _is_data(local) and not local.is_meta

        def is_allowed(rule: Rule, mesh_dim: int) -> bool:
            return has_data or rule.name not in AXES or not self._has_halo(rule, mesh_dim)

        return is_allowed

    def _ranges(self, axis: Axis, mesh_dim: int) -> tuple[list[Range], list[Range]]:
        """What every rank owns of the operand that moves and of the one that stays."""
        parts = self._mesh.shape[mesh_dim]
        inputs, outputs = chunks(axis.input, parts), chunks(axis.output, parts)
        return (inputs, outputs) if self._to_outputs else (outputs, inputs)

    def _windows(self, axis: Axis, mesh_dim: int) -> list[Window | None]:
        moves, stays = self._ranges(axis, mesh_dim)
        return [self._window_of(axis, *pair) for pair in zip(stays, moves, strict=True)]

    def _has_halo(self, rule: Rule, mesh_dim: int) -> bool:
        axis = self._problem.axes[AXES.index(rule.name)]
        moves, _ = self._ranges(axis, mesh_dim)
        return any(
            window is not None and not window.is_within(owned)
            for owned, window in zip(moves, self._windows(axis, mesh_dim), strict=True)
        )

    def _rank(self, mesh_dim: int) -> int:
        # Not the coordinate: on a mesh of ranks out of order, DTensor's collectives go by this one.
        return self._mesh.get_local_rank(mesh_dim)

    def takes_part(self) -> bool:
        """Whether this rank is on the mesh."""
        return self._mesh.get_coordinate() is not None

    def adds_bias(self) -> bool:
        """Whether this rank is the first of those whose results are summed."""
        return all(
            rule.name != "in_channels" or self._rank(mesh_dim) == 0
            for mesh_dim, rule in enumerate(self._rules)
        )

    def fetch(self, moves: Tensor) -> Tensor:
        """This rank's windows of the operand that moves; `geometry` is then that of the windows.

        One axis after the other: the second exchange carries what the first one brought, so that
        corners need no messages of their own.
        """
        _, spatial = activation_dims(self._problem)
        for mesh_dim, rule in enumerate(self._rules):
            if rule.name not in AXES:
                continue
            index = AXES.index(rule.name)
            axis = self._problem.axes[index]
            windows = self._windows(axis, mesh_dim)
            owned, _ = self._ranges(axis, mesh_dim)
            moves = fetch(moves, spatial[index], owned, windows, self._mesh.get_group(mesh_dim))
            window = windows[self._rank(mesh_dim)]
            if window is not None:
                self._padding[index] = window.padding
                self._output_padding[index] = window.output_padding
        return moves

    def geometry(self) -> tuple[Any, ...]:
        """The operator's trailing arguments for this rank."""
        axes = self._problem.axes
        stride, dilation = [axis.stride for axis in axes], [axis.dilation for axis in axes]
        return stride, self._padding, self._output_padding, self.groups, dilation

    def activation_size(self, moves: Tensor, channels: int) -> list[int]:
        """The size of this rank's part of the activation that stays."""
        axes = self._problem.axes
        size = [axis.output if self._to_outputs else axis.input for axis in axes]
        for mesh_dim, rule in enumerate(self._rules):
            if rule.name in AXES:
                index = AXES.index(rule.name)
                first, last = self._ranges(axes[index], mesh_dim)[1][self._rank(mesh_dim)]
                size[index] = last - first
        return [*moves.shape[:-4], channels, *size]

    def place(self, local: Tensor, size: Sequence[int]) -> DTensor:
        """`local` as this rank's part of a DTensor of `size`."""
        return DTensor.from_local(
            _in_format(local, self._channels_last),
            self._mesh,
            [rule.result for rule in self._rules],
            run_check=False,
            shape=torch.Size(size),
            stride=dense_strides(size, self._channels_last),
        )


def _is_data(local: Tensor) -> bool:
    # Tracers put subclasses here; so does a collective that is still under way.
    return type(local) in (Tensor, torch.nn.Parameter) or hasattr(local, "trigger_wait")


def _local(operand: DTensor, wanted: list[Placement]) -> Tensor:
    """This rank's part of `operand`, placed as `wanted`."""
    if list(operand.placements) != wanted:
        # Detached, since torch 2.10 cannot redistribute below autograd what requires a gradient.
        detached: Any = operand.detach()
        operand = detached.redistribute(placements=wanted)
    local = operand.to_local()
    return local.trigger_wait() if hasattr(local, "trigger_wait") else local


def _in_format(local: Tensor, channels_last: bool) -> Tensor:
    # Redistributing loses the format that the operands as a whole have, and results follow it.
    if local.dim() < 4:
        return local
    form = torch.channels_last_3d if channels_last else torch.contiguous_format
    if local.dim() == 4:
        return local.unsqueeze(0).contiguous(memory_format=form).squeeze(0)
    return local.contiguous(memory_format=form)
