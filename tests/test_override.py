"""``with convt3d.override():`` over code that knows nothing of convt3d."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import convt3d
import pytest
import torch
import torch.nn.functional as F
from recorder import OURS, THEIRS, convolutions
from torch import Tensor, nn

CONVOLUTION = ([2, 1, 2], [1, 0, 1], [1, 2, 1], True, [1, 0, 0], 2)
TRANSPOSED = ([2, 1, 2], [1, 0, 1], [1, 0, 0], 2, [1, 2, 1])
aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operands(device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = torch.randn(2, 4, 3, 4, 5), torch.randn(4, 3, 3, 2, 3), torch.randn(6)
    return x.to(device), w.to(device), b.to(device)


def named(name: str) -> Callable[..., Tensor]:
    """The convolution by one of its names, with one geometry, of input, weight and bias."""
    calls: dict[str, Callable[..., Tensor]] = {
        "functional": lambda x, w, b: F.conv_transpose3d(x, w, b, *TRANSPOSED),
        "keywords": lambda x, w, b: F.conv_transpose3d(
            bias=b,
            groups=2,
            weight=w,
            input=x,
            dilation=(1, 2, 1),
            stride=(2, 1, 2),
            padding=(1, 0, 1),
            output_padding=(1, 0, 0),
        ),
        "torch": lambda x, w, b: torch.conv_transpose3d(x, w, b, *TRANSPOSED),
        "packet": lambda x, w, b: aten.conv_transpose3d(x, w, b, *TRANSPOSED),
        "overload": lambda x, w, b: aten.conv_transpose3d.input(x, w, b, *TRANSPOSED),
        "convolution": lambda x, w, b: torch.convolution(x, w, b, *CONVOLUTION),
        "convolution_packet": lambda x, w, b: aten.convolution(x, w, b, *CONVOLUTION),
        "convolution_overload": lambda x, w, b: aten.convolution.default(x, w, b, *CONVOLUTION),
    }
    return calls[name]


NAMES = [
    *("functional", "keywords", "torch", "packet", "overload"),
    *("convolution", "convolution_packet", "convolution_overload"),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_routed(name: str, device: str) -> None:
    call, tensors = named(name), operands(device)
    theirs = call(*tensors)
    assert convolutions(call, *tensors) == [THEIRS]
    with convt3d.override():
        assert convolutions(call, *tensors) == [OURS]
        torch.testing.assert_close(call(*tensors), theirs)
    assert convolutions(call, *tensors) == [THEIRS]


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    gradients = []
    call, tensors = named(name), [t.requires_grad_() for t in operands()]
    gradients.append(torch.autograd.grad(call(*tensors).square().mean(), tensors))
    with convt3d.override():
        output = call(*tensors)
    # The backward pass, here outside the block, is that of the forward pass.
    gradients.append(torch.autograd.grad(output.square().mean(), tensors))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_modules_and_unbatched_inputs() -> None:
    module = nn.Sequential(nn.ConvTranspose3d(4, 6, 3, 2), nn.LazyConvTranspose3d(2, 2))
    x = operands()[0]
    theirs = module(x)
    with convt3d.override():
        assert convolutions(module, x) == [OURS] * 2
        torch.testing.assert_close(module(x), theirs)
        torch.testing.assert_close(module[0](x[0], [8, 9, 12]), module[0](x, [8, 9, 12])[0])


def test_other_convolutions_stay() -> None:
    x, w, _ = operands()
    calls: list[Callable[[], Tensor]] = [
        lambda: F.conv3d(x, w.transpose(0, 1)),
        lambda: torch.convolution(x, w.transpose(0, 1), None, [1], [0], [1], False, [0], 1),
        lambda: F.conv_transpose2d(x[:, :, 0], w[..., 0]),
        lambda: torch.convolution(x[..., 0], w[..., 0], None, [1], [0], [1], True, [0], 1),
        lambda: F.conv_transpose1d(x[:, :, 0, 0], w[..., 0, 0]),
    ]
    for call in calls:
        theirs = call()
        with convt3d.override():
            assert torch.equal(call(), theirs)
            assert OURS not in convolutions(call)


def test_tensors_without_kernels_stay() -> None:
    x, w, _ = operands()
    with convt3d.override():
        assert F.conv_transpose3d(x.to_mkldnn(), w).is_mkldnn
    # PyTorch words its refusal of sparse weights itself.
    with pytest.raises(RuntimeError) as theirs:
        F.conv_transpose3d(x, w.to_sparse())
    with pytest.raises(RuntimeError) as ours, convt3d.override():
        F.conv_transpose3d(x, w.to_sparse())
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("function", [aten.convolution, aten.convolution.out], ids=str)
def test_out_variant_stays(function: Callable[..., Tensor]) -> None:
    x, w, b = operands()
    out = torch.empty(0)
    with convt3d.override():
        function(x, w, b, *CONVOLUTION, out=out)
    assert torch.equal(out, torch.convolution(x, w, b, *CONVOLUTION))


@pytest.mark.parametrize(
    "change",
    [
        lambda x, w: F.conv_transpose3d(x[:, :3], w),
        lambda x, w: F.conv_transpose3d(x, w, stride=0),
        lambda x, w: F.conv_transpose3d(x, w, output_padding=1),
        lambda x, w: F.conv_transpose3d(x, w.double()),
        lambda x, w: torch.convolution(x[0], w, None, [1], [0], [1], True, [0], 1),
    ],
    ids=range(5),
)
def test_errors_are_pytorchs(change: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, w, _ = operands()
    with pytest.raises(RuntimeError) as theirs:
        change(x, w)
    with pytest.raises(RuntimeError) as ours, convt3d.override():
        change(x, w)
    shared = "should be the same"  # PyTorch goes on to speak of oneDNN
    assert str(ours.value).split(shared)[0] == str(theirs.value).split(shared)[0]


def test_nested_and_ended_by_an_exception() -> None:
    call, tensors = named("functional"), operands()
    mode = convt3d.override()
    with mode:
        with convt3d.override(), mode:
            assert convolutions(call, *tensors) == [OURS]
        assert convolutions(call, *tensors) == [OURS]
        with pytest.raises(ZeroDivisionError), convt3d.override():
            _ = 1 / 0
        assert convolutions(call, *tensors) == [OURS]
        with pytest.raises(RuntimeError, match="channels"):
            call(tensors[0][:, :3], *tensors[1:])
        assert convolutions(call, *tensors) == [OURS]
    assert convolutions(call, *tensors) == [THEIRS]


def test_holds_for_the_current_thread_only() -> None:
    call, tensors, seen = named("functional"), operands(), []
    with convt3d.override():
        thread = threading.Thread(target=lambda: seen.append(convolutions(call, *tensors)))
        thread.start()
        thread.join()
    assert seen == [[THEIRS]]


class Compiled:
    """A backend that keeps the graphs it is given."""

    def __init__(self) -> None:
        self.targets: list[list[str]] = []

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        self.targets.append([str(node.target) for node in graph.graph.nodes])
        return graph

    def ours(self) -> list[bool]:
        return ["convt3d.forward" in targets for targets in self.targets]


def test_compiled_code_follows_the_block() -> None:
    module, x, backend = nn.ConvTranspose3d(4, 6, 3, 2), operands()[0], Compiled()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    theirs = compiled(x)
    with convt3d.override():
        torch.testing.assert_close(compiled(x), theirs)
    assert backend.ours() == [False, True]
    with torch._dynamo.config.patch(error_on_recompile=True):
        compiled(x)
        with convt3d.override():
            compiled(x)


def test_block_inside_compiled_code() -> None:
    backend = Compiled()

    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        with convt3d.override():
            y = F.conv_transpose3d(x, w, b, *TRANSPOSED)
        return y + F.conv_transpose3d(x, w, b, *TRANSPOSED)

    tensors = operands()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*tensors), function(*tensors))
    assert backend.ours() == [True]
    assert sum("conv_transpose3d" in target for target in backend.targets[0]) == 1


def test_compiled_by_inductor(device: str) -> None:
    module = nn.ConvTranspose3d(4, 6, 3, 2).to(device)
    x = operands(device)[0].requires_grad_()
    theirs = torch.autograd.grad(module(x).square().mean(), [x, *module.parameters()])
    with convt3d.override():
        compiled = torch.compile(module, fullgraph=True)
        ours = torch.autograd.grad(compiled(x).square().mean(), [x, *module.parameters()])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    module, x = nn.ConvTranspose3d(4, 6, 3, 2), operands()[0]
    with convt3d.override():
        program = torch.export.export(module, (x,), strict=strict)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count(OURS) == 1
    assert not [target for target in targets if target.startswith("aten.conv")]
    torch.testing.assert_close(program.module()(x), module(x))


def test_an_exported_program_of_pytorchs() -> None:
    module, x = nn.ConvTranspose3d(4, 6, 3, 2), operands()[0]
    exported = torch.export.export(module, (x,)).module()
    with convt3d.override():
        assert convolutions(exported, x) == [OURS]
