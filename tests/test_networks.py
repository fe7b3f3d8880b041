"""Segmentation networks that people train, of MONAI and nnU-Net, moved to convt3d unchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import convt3d
import pytest
import torch
from recorder import OURS, THEIRS, convolutions
from torch import Tensor, nn

nets = pytest.importorskip("monai.networks.nets")
blocks = pytest.importorskip("monai.networks.blocks")
architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")

NNUNET: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": (4, 8, 16),
    "conv_op": nn.Conv3d,
    "kernel_sizes": 3,
    "strides": (1, 2, 2),
    "num_classes": 2,
    "n_conv_per_stage_decoder": 1,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}

# Name: how it is made, the side of its volume, the number of its transposed convolutions.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "UNet": (lambda: nets.UNet(3, 1, 2, (4, 8, 16), (2, 2), num_res_units=1), 16, 2),
    "DynUNet": (
        lambda: nets.DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16]),
        16,
        2,
    ),
    # With the statistics of its batch norms fixed: at this size they would see a single value.
    "VNet": (lambda: nets.VNet(3, 1, 2).eval(), 16, 4),
    "BasicUNet": (lambda: nets.BasicUNet(3, 1, 2, features=(4, 4, 8, 8, 16, 4)), 32, 4),
    "PlainConvUNet": (lambda: architectures.PlainConvUNet(1, n_conv_per_stage=1, **NNUNET), 16, 2),
    "ResidualEncoderUNet": (
        lambda: architectures.ResidualEncoderUNet(1, n_blocks_per_stage=1, **NNUNET),
        16,
        2,
    ),
}


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(name: str) -> tuple[nn.Module, nn.Module, Tensor, int]:
    """The network, a copy of it on convt3d, a volume, and how many layers were swapped."""
    make, side, count = NETWORKS[name]
    theirs = make()
    ours, report = convt3d.convert(theirs, inplace=False)
    assert len(report.swapped) == count
    assert not report.left
    return theirs, ours, torch.randn(1, 1, side, side, side), count


def trained(
    model: nn.Module,
    x: Tensor,
    call: Callable[[Tensor], Tensor] | None = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> dict[str, Tensor]:
    """First output and gradient, losses and parameters of five steps; `call` runs `model`."""
    call = model if call is None else call
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.01)
    torch.manual_seed(0)  # of dropout
    losses: list[Tensor] = []
    first: dict[str, Tensor] = {}
    for _ in range(5):
        optimizer.zero_grad()
        with around():
            output = call(x)
            loss = (output.float() - 0.5).square().mean()
        loss.backward()
        if not losses:
            first["output"] = output.detach()
            first["gradient"] = flat([p.grad for p in parameters if p.grad is not None])
        losses.append(loss.detach())
        optimizer.step()
    return first | {"losses": torch.stack(losses), "parameters": flat(parameters)}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float) -> None:
    assert ours["output"].dtype == theirs["output"].dtype
    assert len(set(theirs["losses"].tolist())) == 5  # it did train
    for name, wanted in theirs.items():
        error = float((ours[name].double() - wanted.double()).norm() / wanted.double().norm())
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("name", NETWORKS)
def test_converted(name: str) -> None:
    theirs, ours, x, count = made(name)
    assert convolutions(theirs, x) == [THEIRS] * count
    assert convolutions(ours, x) == [OURS] * count
    compare(trained(ours, x), trained(theirs, x), 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_under_override(name: str) -> None:
    model, converted, x, count = made(name)
    with convt3d.override():
        assert convolutions(model, x) == [OURS] * count
        ours = trained(model, x)
    # The same operator on the same data; only its repetitions in other order could differ.
    compare(ours, trained(converted, x), 1e-7)


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_autocast(name: str) -> None:
    theirs, ours, x, _ = made(name)
    for model in (theirs, ours):
        # oneDNN leaves memory unwritten in bfloat16 weight gradients of plain convolutions over
        # volumes this small, in both models: values up to 1e30 come and go.
        for layer in model.modules():
            if type(layer) is nn.Conv3d:
                layer.weight.requires_grad_(False)
    results = [
        trained(model, x, around=lambda: torch.autocast("cpu", torch.bfloat16))
        for model in (ours, theirs)
    ]
    compare(results[0], results[1], 1e-2)


class Graphs:
    """Compiles like `aot_eager` and keeps the names in the graphs."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.targets += [str(node.target) for node in graph.graph.nodes]
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)


@pytest.mark.parametrize("name", ["UNet", "PlainConvUNet"])
def test_compiled(name: str) -> None:
    theirs, ours, x, count = made(name)
    expected, graphs = trained(theirs, x), Graphs()
    compiled = torch.compile(ours, backend=graphs)
    compare(trained(ours, x, compiled), expected, 1e-5)
    assert graphs.targets.count("convt3d.forward") == count


def test_a_decoder_compiled_by_inductor() -> None:
    theirs = nn.Sequential(
        blocks.Convolution(3, 4, 4, strides=2, is_transposed=True), nn.Conv3d(4, 2, 1)
    )
    ours = convt3d.convert(theirs, inplace=False)[0]
    x = torch.randn(1, 4, 8, 8, 8)
    compiled = torch.compile(ours, fullgraph=True)
    compare(trained(ours, x, compiled), trained(theirs, x), 1e-5)


def test_a_tensor_of_monai_stays_one() -> None:
    data = pytest.importorskip("monai.data")
    theirs, ours, x, _ = made("UNet")
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0]))
    output = ours(data.MetaTensor(x, affine=affine))
    assert isinstance(output, data.MetaTensor)
    assert torch.equal(output.affine, affine.to(output.affine))
    torch.testing.assert_close(output.as_tensor(), theirs(x))
