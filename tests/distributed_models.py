"""What every process of a group runs together: modules and training against one device."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import convt3d
import pytest
import torch
from convt3d.demo.decoder import Decoder
from convt3d.distributed import ConvTranspose3dParallel, spatial_conv_transpose3d
from convt3d.distributed.windows import chunks
from distributed_problems import WHOLE, mesh_of
from distributed_run import World
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

STEPS = 3


def _batches(world: World) -> Iterator[tuple[Tensor, Tensor]]:
    """Coarse and fine volumes, two samples per rank; alike on all ranks."""
    for _ in range(STEPS):
        coarse = torch.randn(2 * world.ranks, 1, 4, 5, 3, dtype=torch.float64)
        yield coarse.to(world.device), F.interpolate(coarse, scale_factor=2).to(world.device)


def _train(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for coarse, fine in batches:
        loss = F.mse_loss(model(coarse), fine)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _require_same_parameters(found: nn.Module, expected: nn.Module) -> None:
    for (name, parameter), reference in zip(
        found.named_parameters(), expected.parameters(), strict=True
    ):
        torch.testing.assert_close(
            _full(parameter), reference, rtol=1e-9, atol=1e-10, msg=lambda t, n=name: f"{n}: {t}"
        )


def _data_parallel(world: World, wrap) -> None:
    """Training on a share of the samples each, against one process with all of them."""
    single = Decoder(channels=4).double().to(world.device)
    shared = wrap(copy.deepcopy(single))
    batches = list(_batches(world))
    own = slice(2 * world.rank, 2 * world.rank + 2)
    before = copy.deepcopy(single)
    _train(single, batches)
    _train(shared, [(coarse[own], fine[own]) for coarse, fine in batches])
    _require_same_parameters(shared, single)
    with pytest.raises(AssertionError):  # the steps did change something
        _require_same_parameters(before, single)


def check_ddp(world: World) -> None:
    """DistributedDataParallel training of the demo's decoder."""
    _data_parallel(world, DistributedDataParallel)


def check_fsdp2(world: World) -> None:
    """`fully_shard` on each convolution and the decoder as a whole."""
    mesh = mesh_of(world)

    def wrap(model: Decoder) -> nn.Module:
        for layer in (model.embed, model.up, model.head):
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    _data_parallel(world, wrap)


def check_tensor_parallel_training(world: World) -> None:
    """Two layers, output channels then input channels: one sum, whole in and whole out."""
    single = nn.Sequential(
        convt3d.ConvTranspose3d(1, 2 * world.ranks, 4, stride=2, padding=1),
        nn.GELU(),
        convt3d.ConvTranspose3d(2 * world.ranks, 1, 3, padding=1),
    )
    single = single.double().to(world.device)
    plan = {
        "0": ConvTranspose3dParallel("out_channels"),
        "2": ConvTranspose3dParallel("in_channels"),
    }
    shared = parallelize_module(copy.deepcopy(single), mesh_of(world), plan)
    assert shared[0].weight.to_local().shape[1] == 2
    batches = list(_batches(world))
    losses = _train(single, batches)
    torch.testing.assert_close(_train(shared, batches), losses, rtol=1e-9, atol=0)
    _require_same_parameters(shared, single)


def check_every_style(world: World) -> None:
    """Each way to share, with and without groups, plain and DTensor in and out."""
    mesh, n = mesh_of(world), world.ranks
    for share in ("out_channels", "in_channels", "batch", "depth", "height", "width"):
        for groups in (1, n):
            layer = convt3d.ConvTranspose3d(2 * n, 2 * n, 3, stride=2, padding=1, groups=groups)
            layer = layer.double().to(world.device)
            input = torch.randn(n + 1, 2 * n, 5, 2 * n, n, dtype=torch.float64).to(world.device)
            expected = layer(input)
            expected.square().sum().backward()
            for style in (
                ConvTranspose3dParallel(share, input_layouts=WHOLE, output_layouts=WHOLE),
                ConvTranspose3dParallel(share, use_local_output=False),
            ):
                shared = parallelize_module(copy.deepcopy(layer), mesh, style)
                shared.zero_grad()
                given = input if style.use_local_output else distribute_tensor(input, mesh, [WHOLE])
                output = shared(given)
                torch.testing.assert_close(_full(output), expected, rtol=1e-10, atol=1e-10)
                _full(output).square().sum().backward()
                for found, reference in zip(shared.parameters(), layer.parameters(), strict=True):
                    torch.testing.assert_close(
                        _full(found.grad), reference.grad, rtol=1e-9, atol=1e-9
                    )


def check_style_with_uneven_parts(world: World) -> None:
    """Plain parts of different extents, told from one another's sizes."""
    mesh = mesh_of(world)
    layer = convt3d.ConvTranspose3d(2, 3, 3, stride=2).double().to(world.device)
    volume = torch.randn(1, 2, 2 * world.ranks - 1, 4, 3, dtype=torch.float64).to(world.device)
    shared = parallelize_module(copy.deepcopy(layer), mesh, ConvTranspose3dParallel("depth"))
    slab = _slab(volume, world)
    found, expected = shared(slab), _slab(layer(volume), world)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def check_style_refusals(world: World) -> None:
    """What cannot be shared is refused before anything changes."""
    mesh = mesh_of(world)
    with pytest.raises(ValueError, match="share must be one of out_channels, in_channels"):
        ConvTranspose3dParallel("columns")
    style = ConvTranspose3dParallel("out_channels")
    for module in (nn.ConvTranspose3d(2, 2, 3), convt3d.LazyConvTranspose3d(2, 3), nn.Linear(2, 2)):
        with pytest.raises(NotImplementedError, match=r"supports convt3d\.ConvTranspose3d"):
            parallelize_module(module, mesh, style)
    odd = convt3d.ConvTranspose3d(7, 7, 3, groups=7)
    with pytest.raises(NotImplementedError, match="7 groups cannot be shared evenly"):
        parallelize_module(odd, mesh, style)
    assert not isinstance(odd.weight, DTensor)
    shared = parallelize_module(convt3d.ConvTranspose3d(2, 2, 3).to(world.device), mesh, style)
    with pytest.raises(ValueError, match="takes batched inputs"):
        shared(torch.randn(2, 3, 3, 3, device=world.device))


def _slab(volume: Tensor, world: World, dim: int = 2) -> Tensor:
    first, last = chunks(volume.shape[dim], world.ranks)[world.rank]
    return volume.narrow(dim, first, last - first)


def check_slabs_of_plain_tensors(world: World) -> None:
    """`spatial_conv_transpose3d`: slabs in and out; even, uneven, empty; both formats."""
    mesh = mesh_of(world)
    options = {"stride": 2, "padding": 1, "output_padding": 1}
    weight = torch.randn(3, 4, 5, 3, 3, dtype=torch.float64, device=world.device)
    bias = torch.randn(4, dtype=torch.float64, device=world.device)
    for depth in (2 * world.ranks, 2 * world.ranks + 1, world.ranks - 1):
        for dim, size, form in (
            (-3, None, torch.contiguous_format),
            (2, depth, torch.channels_last_3d),
        ):
            volume = torch.randn(2, 3, depth, 4, 5, dtype=torch.float64, device=world.device)
            volume = volume.contiguous(memory_format=form)
            whole = [tensor.clone().requires_grad_() for tensor in (volume, weight, bias)]
            expected = convt3d.conv_transpose3d(*whole, **options)
            expected.square().sum().backward()
            parts = [_slab(volume, world).contiguous(memory_format=form), weight, bias]
            leaves = [tensor.clone().requires_grad_() for tensor in parts]
            found = spatial_conv_transpose3d(*leaves, **options, mesh=mesh, dim=dim, size=size)
            torch.testing.assert_close(found, _slab(expected, world), rtol=1e-10, atol=1e-10)
            if leaves[0].numel():  # an empty slab has no format to follow
                assert found.is_contiguous(memory_format=form)
            found.square().sum().backward()
            by_volume, *by_parameters = [tensor.grad for tensor in whole]
            for gradient, reference in zip(
                [leaf.grad for leaf in leaves],
                [_slab(by_volume, world), *by_parameters],
                strict=True,
            ):
                torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-9)


def check_slabs_of_dtensors(world: World) -> None:
    """`spatial_conv_transpose3d` on a DTensor with plain parameters."""
    mesh = mesh_of(world)
    volume = torch.randn(1, 2, 7, 3, 3, dtype=torch.float64).to(world.device)
    weight = torch.randn(2, 2, 3, 3, 3, dtype=torch.float64).to(world.device).requires_grad_()
    expected = convt3d.conv_transpose3d(volume, weight)
    (reference,) = torch.autograd.grad(expected.square().sum(), weight)
    shared = distribute_tensor(volume, mesh, [Shard(2)])
    found = spatial_conv_transpose3d(shared, weight)
    assert list(found.placements) == [Shard(2)]
    torch.testing.assert_close(found.full_tensor(), expected, rtol=1e-10, atol=1e-10)
    found.square().sum().full_tensor().backward()
    torch.testing.assert_close(weight.grad, reference, rtol=1e-9, atol=1e-9)
    whole = distribute_tensor(volume, mesh, [Replicate()])
    assert list(spatial_conv_transpose3d(whole, weight).placements) == [Replicate()]


def check_slab_refusals(world: World) -> None:
    """Slabs that are not torch.chunk's are refused on all ranks, so that none waits."""
    mesh = mesh_of(world)
    weight = torch.randn(2, 2, 3, 3, 3, device=world.device)
    slab = torch.randn(1, 2, 1 + world.rank, 3, 3, device=world.device)
    with pytest.raises(ValueError, match=r"expected slabs cut like torch\.chunk"):
        spatial_conv_transpose3d(slab, weight, mesh=mesh)
    with pytest.raises(ValueError, match=f"on rank {world.rank} of {world.ranks}, but got"):
        spatial_conv_transpose3d(slab, weight, mesh=mesh, size=100)
    with pytest.raises(ValueError, match="one-dimensional mesh"):
        spatial_conv_transpose3d(slab, weight)
    with pytest.raises(ValueError, match="dim must be one of the last three"):
        spatial_conv_transpose3d(slab, weight, mesh=mesh, dim=1)


CHECKS = [value for name, value in dict(globals()).items() if name.startswith("check_")]
