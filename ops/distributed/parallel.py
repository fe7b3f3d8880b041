"""The plan entry for ``parallelize_module`` that shares a ``ConvTranspose3d`` among ranks."""

from __future__ import annotations

from functools import partial
from typing import Any

from convt3d.distributed.rules import AXES, WEIGHT_IN, WEIGHT_OUT
from convt3d.distributed.spatial import from_slab
from convt3d.modules import ConvTranspose3d
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import Placement

_CHANNELS = 1
_SHARES = ("out_channels", "in_channels", "batch", *AXES)


class ConvTranspose3dParallel(ParallelStyle):
    """Shares ``convt3d.ConvTranspose3d`` over a one-dimensional mesh.

    ========================  ======================  =======================  ====================
    `share`                   input                   weight, bias             output
    ========================  ======================  =======================  ====================
    ``"out_channels"``        whole                   cut, cut                 channels cut
    ``"in_channels"``         channels cut            cut, whole               summed up: whole
    ``"batch"``               samples cut             whole                    samples cut
    ``"depth"`` and so on     planes cut              whole                    planes cut
    ========================  ======================  =======================  ====================

    ``"out_channels"`` followed by ``"in_channels"`` computes two layers with one sum at the end.
    With ``groups > 1`` both share the groups: channels are cut in input, parameters and output.
    Planes that several ranks need are exchanged between them.

    Args:
        share: what is shared; see the table.
        input_layouts: placement of a plain input; by default the table's. DTensors come with
            their own.
        output_layouts: placement of the output; by default the table's.
        use_local_output: gives the output as this rank's plain tensor instead of a DTensor.

    Inputs are batched. Slabs and other parts are those of ``torch.chunk``, see
    ``spatial_conv_transpose3d``.

    Raises:
        ValueError: for an unknown `share`; on a call, for an unbatched input or slabs that are not
            those of ``torch.chunk``.
        NotImplementedError: on ``parallelize_module`` for another module, a lazy one that has seen
            no input, or groups that cannot be shared evenly.
    """

    def __init__(
        self,
        share: str,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        if share not in _SHARES:
            raise ValueError(f"share must be one of {', '.join(_SHARES)}, but got {share!r}")
        self.share = share
        self.input_layouts = input_layouts
        self.output_layouts = output_layouts
        self.use_local_output = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, ConvTranspose3d):
            raise NotImplementedError(
                "ConvTranspose3dParallel supports convt3d.ConvTranspose3d (a lazy one after its "
                f"first input), but got {type(module).__name__}"
            )
        if device_mesh.ndim != 1:
            raise NotImplementedError(
                f"ConvTranspose3dParallel needs a one-dimensional mesh, but got {device_mesh}"
            )
        by_channels = self.share in ("out_channels", "in_channels")
        if by_channels and module.groups > 1 and module.groups % device_mesh.size():
            raise NotImplementedError(
                f"{module.groups} groups cannot be shared evenly by {device_mesh.size()} ranks"
            )
        wanted, found = self._layouts()
        place: Any = partial(self._place, self.input_layouts or wanted, wanted)
        give: Any = partial(self._give, self.output_layouts or found)
        return distribute_module(module, device_mesh, self._distribute, place, give)

    def _layouts(self) -> tuple[Placement, Placement]:
        """Of input and output, as the module wants and gives them."""
        if self.share == "batch":
            return Shard(0), Shard(0)
        if self.share in AXES:
            dim = _CHANNELS + 1 + AXES.index(self.share)
            return Shard(dim), Shard(dim)
        if self.share == "out_channels":
            return Replicate(), Shard(_CHANNELS)
        return Shard(_CHANNELS), Replicate()

    def _distribute(self, _: str, module: Any, mesh: DeviceMesh) -> None:
        for name, parameter in module.named_parameters(recurse=False):
            placement: Placement = Replicate()
            if self.share == "out_channels":
                # Groups are blocks of the weight's input channels; a bias has one entry per output.
                in_groups = name == "weight" and module.groups > 1
                placement = Shard(WEIGHT_OUT if name == "weight" and not in_groups else WEIGHT_IN)
            elif self.share == "in_channels" and (name == "weight" or module.groups > 1):
                placement = Shard(WEIGHT_IN)
            shared = distribute_tensor(
                parameter.detach(), mesh, [placement], src_data_rank=self.src_data_rank
            )
            module.register_parameter(
                name, nn.Parameter(shared, requires_grad=parameter.requires_grad)
            )

    @staticmethod
    def _place(
        present: Placement, wanted: Placement, _: nn.Module, inputs: Any, mesh: DeviceMesh
    ) -> tuple[Any, ...]:
        input, *rest = inputs
        if input.dim() != 5:
            raise ValueError(
                "ConvTranspose3dParallel takes batched inputs of five dimensions, but got one of "
                f"size {list(input.shape)}"
            )
        if not isinstance(input, DTensor):
            if isinstance(present, Shard):
                input = from_slab(input, mesh, present.dim % input.dim())
            else:
                input = DTensor.from_local(input, mesh, [present], run_check=False)
        return (input.redistribute(placements=[wanted]), *rest)

    def _give(
        self, placement: Placement, _: nn.Module, output: DTensor, mesh: DeviceMesh
    ) -> Tensor:
        output = output.redistribute(placements=[placement])
        return output.to_local() if self.use_local_output else output
