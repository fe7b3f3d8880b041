"""``torch.compile``: whole graphs, dynamic sizes without recompiling, gradients, memory formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import convt3d
import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd


class Decoder(nn.Module):
    """Two upsampling layers, as a segmentation network has them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convt3d.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1)
        self.second = convt3d.ConvTranspose3d(6, 2, 2, stride=2, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """Output and all gradients."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    output = function(x)
    output.square().mean().backward()
    assert x.grad is not None
    gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **gradients}


def volume(device: str, batch: int = 2, *size: int) -> Tensor:
    return torch.randn(batch, 4, *(size or (3, 4, 5)), device=device)


def compare(ours: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, eager)
    for name, wanted in eager.items():
        assert ours[name].stride() == wanted.stride(), name


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last_3d"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_whole_graph(device: str, backend: str, layout: str) -> None:
    module = Decoder().to(device)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    x = volume(device).to(memory_format=getattr(torch, layout))
    compare(step(module, compiled, x), step(module, module, x))


# The first ones differ from each other and from the channels, which PyTorch would else take for
# one and the same size; products stay on one side of a limit in inductor's heuristics.
SIZES = [(2, 3, 5, 7), (3, 3, 5, 7), (5, 2, 5, 7), (4, 3, 8, 5), (7, 2, 6, 4), (6, 3, 9, 2)]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_dynamic_sizes_compile_once(device: str, backend: str) -> None:
    """With ``dynamic=True`` one graph serves every batch and spatial size."""
    module = Decoder().to(device)
    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    step(module, compiled, volume(device, *SIZES[0]))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in SIZES[1:]:
            x = volume(device, *size)
            compare(step(module, compiled, x), step(module, module, x))


def test_no_recompilation_from_the_second_new_size_on(device: str) -> None:
    """Without ``dynamic`` PyTorch first assumes a size, then gives it up once for all."""
    module = Decoder().to(device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in [(2, 3, 5, 7), (3, 5, 6, 8)]:  # all four sizes are new
        step(module, compiled, volume(device, *size))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in [(4, 5, 6, 7), (5, 9, 3, 4), (6, 2, 8, 11)]:
            x = volume(device, *size)
            compare(step(module, compiled, x), step(module, module, x))


def test_direct_call_of_every_operator(device: str) -> None:
    def three(x: Tensor, w: Tensor, gy: Tensor) -> tuple[Tensor, ...]:
        ops, geometry = torch.ops.convt3d, ((2, 2, 2), (1, 1, 1), (1, 1, 1), 1, (1, 1, 1))
        return (
            ops.forward(x * 2, w, None, *geometry) + 1,
            ops.grad_input(gy * 2, w, *geometry) + 1,
            ops.grad_weight(gy, x * 2, *geometry) + 1,
        )

    w = torch.randn(4, 3, 3, 3, 3, device=device)
    compiled = torch.compile(three, fullgraph=True, backend="inductor", dynamic=True)
    for size in [(2, 3, 4, 5), (3, 4, 2, 6)]:
        x = volume(device, *size)
        gy = torch.randn(x.shape[0], 3, *(2 * s for s in x.shape[2:]), device=device)
        torch.testing.assert_close(compiled(x, w, gy), three(x, w, gy))


def test_the_operator_stays_one_node(device: str) -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return make_boxed_func(graph)

    module = Decoder().to(device)
    torch.compile(module, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(
        volume(device)
    ).sum().backward()
    targets = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert targets.count("convt3d.forward.default") == 2
    assert targets.count("convt3d.grad_weight.default") == 2
    assert not [t for t in targets if "aten.convolution" in t]


def test_bad_sizes_are_refused_while_compiling(device: str) -> None:
    compiled = torch.compile(Decoder().to(device), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="to have 4 channels, but got 5 channels instead"):
        compiled(torch.randn(2, 5, 3, 3, 3, device=device))
