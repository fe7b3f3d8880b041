"""Spatial parallelism on plain tensors: every rank holds some planes of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from convt3d.distributed.windows import chunks
from convt3d.functional import conv_transpose3d
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import Placement


def spatial_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
    *,
    mesh: DeviceMesh | None = None,
    dim: int = -3,
    size: int | None = None,
) -> Tensor:
    """3-D transposed convolution of a volume that is cut into slabs, one per rank.

    Neighbouring ranks exchange the planes that each other's results need, in forward and backward;
    no rank ever holds the whole volume. The result is cut like the input, by the rule of
    ``torch.chunk``: of n positions rank r has those from ``r * ceil(n / ranks)`` on, and the last
    ranks may have fewer or none.

    Args:
        input: this rank's slab, as a plain tensor ``(batch, in_channels, depth, height, width)``
            or unbatched; or a DTensor, whose placements then say how it is cut.
        weight, bias: as for ``conv_transpose3d``; plain tensors must be the same on all ranks.
            Their gradients are summed over the ranks.
        stride, padding, output_padding, groups, dilation: as for ``conv_transpose3d``, of the whole
            volume.
        mesh: one-dimensional; required for a plain input, else the input's.
        dim: the dimension of `input` that is cut, -3 to -1; for a plain input.
        size: the whole volume's extent along `dim`. If None, the ranks tell each other their
            extents, for which a GPU must wait.

    Returns:
        This rank's slab of the result if `input` is plain, else a DTensor.

    dtypes: those of ``conv_transpose3d``.

    Raises:
        ValueError: if `mesh` is missing or not one-dimensional, `dim` is not spatial, or the slabs
            are not those of ``torch.chunk``.
        RuntimeError: as ``conv_transpose3d``.
    """
    if isinstance(input, DTensor):
        mesh, volume = input.device_mesh, input
    else:
        if mesh is None or mesh.ndim != 1:
            raise ValueError("spatial_conv_transpose3d needs a one-dimensional mesh")
        if dim not in (-3, -2, -1) and dim - input.dim() not in (-3, -2, -1):
            raise ValueError(f"dim must be one of the last three of the input, but got {dim}")
        volume = from_slab(input, mesh, dim % input.dim(), size)
    parameters = [replicated(parameter, mesh) for parameter in (weight, bias)]
    result = conv_transpose3d(
        volume, *parameters, stride, padding, output_padding, groups, dilation
    )
    if isinstance(input, DTensor):
        return result
    assert isinstance(result, DTensor)
    return result.redistribute(placements=volume.placements).to_local()


def from_slab(slab: Tensor, mesh: DeviceMesh, dim: int, size: int | None = None) -> DTensor:
    """The DTensor, cut along `dim`, of which every rank of the one-dimensional `mesh` has a slab.

    Unlike ``DTensor.from_local`` it takes slabs of different extents. With `size`, the whole's
    extent, nothing is communicated.

    Raises:
        ValueError: if the slabs are not those of ``torch.chunk``.
    """
    parts, rank = mesh.size(), mesh.get_local_rank()
    if size is None:
        group = mesh.get_group()
        extent = torch.tensor([slab.shape[dim]], device=slab.device)
        gathered = [torch.empty_like(extent) for _ in range(parts)]
        dist.all_gather(gathered, extent, group=group)
        extents = [int(found) for found in gathered]
        size = sum(extents)
        expected = [last - first for first, last in chunks(size, parts)]
        if extents != expected:
            raise ValueError(
                f"expected slabs cut like torch.chunk, of {expected} positions along dimension "
                f"{dim}, but got {extents}"
            )
    else:
        first, last = chunks(size, parts)[rank]
        if slab.shape[dim] != last - first:
            raise ValueError(
                f"expected {last - first} of {size} positions along dimension {dim} on rank {rank} "
                f"of {parts}, but got {slab.shape[dim]}"
            )
    shape = [*slab.shape]
    shape[dim] = size
    # Strides of a dense whole in the slab's format; an empty slab counts as contiguous.
    whole = torch.empty(shape, device="meta")
    if (
        slab.dim() == 5
        and slab.numel()
        and slab.is_contiguous(memory_format=torch.channels_last_3d)
    ):
        whole = whole.contiguous(memory_format=torch.channels_last_3d)
    placements: list[Placement] = [Shard(dim)]
    return DTensor.from_local(
        slab, mesh, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def replicated(parameter: Tensor | None, mesh: DeviceMesh) -> Tensor | None:
    """`parameter` as a DTensor that every rank holds whole; its gradient is summed over them."""
    if parameter is None or isinstance(parameter, DTensor):
        return parameter
    return DTensor.from_local(parameter, mesh, [Replicate()] * mesh.ndim, run_check=False)
