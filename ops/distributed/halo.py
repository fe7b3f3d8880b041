"""Fetches the planes of a window from the ranks that own them, by point-to-point messages.

All ranks know all windows, so nobody asks: each sends what the others lack. A window may reach
over several neighbours, and a rank that owns nothing may need planes as well as the reverse.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
import torch.distributed as dist
from convt3d.distributed.windows import Range, Window
from convt3d.meta.shape import dense_strides, suggests_channels_last_3d
from torch import Tensor

_connected: weakref.WeakSet[dist.ProcessGroup] = weakref.WeakSet()


def fetch(
    local: Tensor,
    dim: int,
    owned: Sequence[Range],
    windows: Sequence[Window | None],
    group: dist.ProcessGroup,
) -> Tensor:
    """The window of this rank: its own planes of `local`, those of others, and zeros around them.

    Args:
        local: this rank's shard, ``owned[rank]`` along `dim`.
        dim: the sharded dimension.
        owned, windows: of every rank of `group`, alike on all of them; a rank whose window is None
            receives nothing and gets `local` back.
    """
    rank = dist.get_rank(group)
    mine = windows[rank]
    pairs = zip(windows, owned, strict=True)
    if any(window is not None and not window.is_within(own) for window, own in pairs):
        _connect(local, group)
    operations, received = [], []
    for peer in range(len(owned)):
        if peer == rank:
            continue
        first, last = _common(owned[rank], windows[peer])
        if first < last:
            part = local.narrow(dim, first - owned[rank][0], last - first)
            operations.append(dist.P2POp(dist.isend, _bytes(part), group=group, group_peer=peer))
        first, last = _common(owned[peer], mine)
        if first < last:
            part = local.new_empty([*local.shape[:dim], last - first, *local.shape[dim + 1 :]])
            received.append((first, part))
            operations.append(dist.P2POp(dist.irecv, _bytes(part), group=group, group_peer=peer))
    # An operand without elements has planes, but there is nothing to send.
    operations = [operation for operation in operations if operation.tensor.numel()]
    pending = dist.batch_isend_irecv(operations) if operations else []
    if mine is None or mine.is_range(owned[rank]):
        window = local
    else:
        window = _assemble(local, dim, owned[rank], mine)
    for work in pending:
        work.wait()
    for first, part in received:
        assert mine is not None
        window.narrow(dim, mine.front + first - mine.start, part.shape[dim]).copy_(part)
    return window


def _assemble(local: Tensor, dim: int, owned: Range, window: Window) -> Tensor:
    """The window with zeros and this rank's own planes in place, in `local`'s memory format."""
    size = [*local.shape]
    size[dim] = window.size
    result = local.new_empty_strided(size, dense_strides(size, suggests_channels_last_3d(local)))
    result.narrow(dim, 0, window.front).zero_()
    result.narrow(dim, window.size - window.back, window.back).zero_()
    first, last = _common(owned, window)
    if first < last:
        here = result.narrow(dim, window.front + first - window.start, last - first)
        here.copy_(local.narrow(dim, first - owned[0], last - first))
    return result


def _common(owned: Range, window: Window | None) -> Range:
    if window is None:
        return 0, 0
    return max(owned[0], window.start), min(owned[1], window.end)


def _bytes(part: Tensor) -> Tensor:
    """`part` as bytes in one piece: backends do not send every dtype."""
    return part.contiguous().view(-1).view(torch.uint8)


def _connect(local: Tensor, group: dist.ProcessGroup) -> None:
    # NCCL makes a group's communicator in its first operation, in which all ranks must take part;
    # with halos some may have nothing to send.
    if group not in _connected:
        dist.all_reduce(local.new_zeros((), dtype=torch.float32), group=group)
        _connected.add(group)
