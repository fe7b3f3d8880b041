"""``convert`` and ``revert``: what a swapped module keeps, and what is left with which reason."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable

import convt3d
import pytest
import torch
from recorder import OURS, THEIRS, convolutions
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.two_tensor import TwoTensor


class Network(nn.Module):
    """Every kind of convolution; `up` is shared under a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose3d(4, 4, 3, stride=2, padding=1, output_padding=1)
        self.block = nn.Sequential(nn.ConvTranspose3d(4, 4, 2, groups=2), nn.ReLU())
        self.again = self.up
        self.flat = nn.ConvTranspose2d(4, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.block(self.up(self.down(x)))) + self.flat(x[:, :, 0]).mean()


class Doubled(nn.ConvTranspose3d):
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return 2 * super().forward(input, output_size)


def volume(device: str = "cpu") -> Tensor:
    return torch.randn(2, 4, 3, 4, 5, device=device)


def layer() -> nn.ConvTranspose3d:
    return nn.ConvTranspose3d(4, 6, 3, stride=2, padding=1)


def test_every_transposed_convolution_is_swapped_in_place(device: str) -> None:
    model, x = Network().to(device), volume(device)
    before = model(x)
    objects = dict(model.named_modules()), dict(model.named_parameters())
    converted, report = convt3d.convert(model)
    assert converted is model
    assert report.swapped == ["up", "block.0"]
    assert report.left == {}
    assert convolutions(model, x) == [OURS] * 3
    torch.testing.assert_close(model(x), before)
    # Nothing but the class is new: the same modules, shared as before, and the same parameters.
    assert (dict(model.named_modules()), dict(model.named_parameters())) == objects
    assert model.again is model.up
    assert type(model.down) is nn.Conv3d
    assert type(model.flat) is nn.ConvTranspose2d


def test_a_copy_leaves_the_model_alone() -> None:
    model, x = Network(), volume()
    converted, report = convt3d.convert(model, inplace=False)
    assert len(report.swapped) == 2
    assert convolutions(model, x) == [THEIRS] * 3
    assert convolutions(converted, x) == [OURS] * 3
    assert converted.again is converted.up
    assert converted.up.weight is not model.up.weight
    torch.testing.assert_close(converted(x), model(x))


def test_a_model_that_is_itself_a_transposed_convolution() -> None:
    model = layer()
    assert convt3d.convert(model)[1].swapped == [""]
    assert type(model) is convt3d.ConvTranspose3d
    assert convt3d.revert(model)[1].swapped == [""]
    assert type(model) is nn.ConvTranspose3d


def test_revert_undoes_and_both_may_be_repeated() -> None:
    model, x = Network(), volume()
    keys = model.state_dict().keys()
    convt3d.convert(model)
    again = convt3d.convert(model)[1]
    assert again.swapped == []
    assert again.left == dict.fromkeys(["up", "block.0"], "it runs on convt3d already")
    reverted, report = convt3d.revert(model, inplace=False)
    assert report.swapped == ["up", "block.0"]
    assert convolutions(model, x) == [OURS] * 3
    assert convolutions(reverted, x) == [THEIRS] * 3
    assert reverted.state_dict().keys() == keys
    again = convt3d.revert(reverted)[1]
    assert again.swapped == []
    assert again.left == dict.fromkeys(["up", "block.0"], "it runs on PyTorch already")


@pytest.mark.parametrize("move", [convt3d.convert, convt3d.revert])
def test_what_is_no_module_is_refused(move: Callable) -> None:
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, but got list"):
        move([layer()])


def test_attributes_stay() -> None:
    model = layer().to(torch.float64).to(memory_format=torch.channels_last_3d).eval()
    model.bias.requires_grad_(False)
    model.note = "kept"
    stride = model.weight.stride()
    convt3d.convert(model)
    assert model.weight.dtype == torch.float64
    assert model.weight.stride() == stride
    assert not model.training
    assert not model.bias.requires_grad
    assert model.note == "kept"
    y = model(volume().double())
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_meta_device_stays() -> None:
    with torch.device("meta"):
        model = layer()
    assert convt3d.convert(model)[1].swapped == [""]
    assert model(torch.empty(2, 4, 3, 4, 5, device="meta")).shape == (2, 6, 5, 7, 9)


def test_hooks_stay() -> None:
    model, called = layer(), []

    def hook(name: str) -> Callable[..., None]:
        return lambda *args: called.append(name)

    model.register_forward_pre_hook(hook("forward_pre"))
    model.register_forward_hook(hook("forward"))
    model.register_full_backward_pre_hook(hook("backward_pre"))
    model.register_full_backward_hook(hook("backward"))
    model.register_state_dict_pre_hook(hook("state_dict_pre"))
    model.register_state_dict_post_hook(hook("state_dict"))
    model.register_load_state_dict_pre_hook(hook("load_pre"))
    model.register_load_state_dict_post_hook(hook("load"))
    convt3d.convert(model)
    model(volume().requires_grad_()).sum().backward()
    assert called == ["forward_pre", "forward", "backward_pre", "backward"]
    called.clear()
    model.load_state_dict(model.state_dict())
    assert called == ["state_dict_pre", "state_dict", "load_pre", "load"]


def test_an_optimizer_made_before_trains_the_swapped_model() -> None:
    models = Network(), Network()
    models[1].load_state_dict(models[0].state_dict())
    x = volume()
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    convt3d.convert(models[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for ours, theirs in zip(models[1].parameters(), models[0].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm_by_hook": nn.utils.weight_norm,
    "spectral_norm_by_hook": nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("name", NORMS)
def test_parametrized_modules(name: str) -> None:
    model, x = NORMS[name](layer()).eval(), volume()
    with torch.no_grad():  # hooks leave a weight that only then can be copied
        theirs = model(x)
    twin = copy.deepcopy(model)  # of the same class, if the norm made one
    parameters = dict(model.named_parameters())
    assert convt3d.convert(model)[1].swapped == [""]
    assert dict(model.named_parameters()) == parameters
    with torch.no_grad():
        assert convolutions(copy.deepcopy(model), x) == [OURS]
        assert convolutions(model, x) == [OURS]
        assert convolutions(twin, x) == [THEIRS]
    torch.testing.assert_close(model(x), theirs)
    assert convt3d.revert(model)[1].swapped == [""]
    assert convolutions(model, x) == [THEIRS]


def test_a_parametrization_taken_off_leaves_our_class() -> None:
    model, x = parametrizations.weight_norm(layer()), volume()
    convt3d.convert(model)
    theirs = model(x)
    parametrize.remove_parametrizations(model, "weight")
    assert type(model) is convt3d.ConvTranspose3d
    torch.testing.assert_close(model(x), theirs)


@pytest.mark.parametrize("called_before", [False, True])
def test_lazy_modules(called_before: bool) -> None:
    models = [nn.LazyConvTranspose3d(6, 3, stride=2) for _ in range(2)]
    x = volume()
    if called_before:
        models[1](x)
    assert convt3d.convert(models[1])[1].swapped == [""]
    assert convolutions(models[1], x) == [OURS]
    assert type(models[1]) is convt3d.ConvTranspose3d
    models[0].load_state_dict(models[1].state_dict())
    torch.testing.assert_close(models[1](x), models[0](x))


def test_a_lazy_module_reverted_before_its_first_call() -> None:
    model = convt3d.LazyConvTranspose3d(6, 3)
    assert convt3d.revert(model)[1].swapped == [""]
    model(volume())
    assert type(model) is nn.ConvTranspose3d


def with_own_forward() -> nn.Module:
    module = layer()
    module.forward = lambda x: x  # type: ignore[method-assign]
    return module


def with_wrapped_weight() -> nn.Module:
    module = layer()
    weight = module.weight.detach()
    module.weight = nn.Parameter(TwoTensor(weight, weight.clone()))
    return module


def with_sparse_weight() -> nn.Module:
    module = layer()
    module.weight = nn.Parameter(module.weight.detach().to_sparse())
    return module


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "subclass": (
        lambda: Doubled(4, 6, 3),
        "its class test_convert.Doubled is a subclass, which may compute something else",
    ),
    "parametrized_subclass": (
        lambda: parametrizations.weight_norm(Doubled(4, 6, 3)),
        "its class test_convert.Doubled is a subclass, which may compute something else",
    ),
    "own_forward": (with_own_forward, "its forward was replaced on the instance"),
    "scripted": (
        lambda: torch.jit.script(layer()),
        "it is compiled to TorchScript: convert the model before scripting or tracing it",
    ),
    "wrapped_weight": (
        with_wrapped_weight,
        "weight: its type torch.testing._internal.two_tensor.TwoTensor does not know the "
        "operators of convt3d",
    ),
    "sparse_weight": (with_sparse_weight, "weight: it is not a strided (dense) tensor"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", LEFT)
def test_left_with_the_reason(name: str) -> None:
    make, reason = LEFT[name]
    model = nn.Sequential(OrderedDict(swapped=layer(), left=make()))
    kind = type(model.left)
    report = convt3d.convert(model)[1]
    assert report.swapped == ["swapped"]
    assert report.left == {"left": reason}
    assert type(model.left) is kind
    assert str(report) == f"swapped 1, left 1\n  swapped swapped\n  left left: {reason}"


def test_a_distributed_weight_is_no_obstacle() -> None:
    """Other wrapped weights are, see above."""
    from torch.distributed.tensor import DeviceMesh, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        model, mesh = layer(), DeviceMesh("cpu", range(2))
        for name, parameter in list(model.named_parameters()):
            setattr(model, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh)))
        assert convt3d.convert(model)[1].swapped == [""]
    finally:
        torch.distributed.destroy_process_group()


def test_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layer()
    monkeypatch.setattr(type(model.weight), "device", torch.device("xpu"))
    reason = "weight: convt3d has no kernels for xpu devices"
    assert convt3d.convert(model)[1].left == {"": reason}
    assert str(convt3d.convert(model)[1]).endswith(f"left the model itself: {reason}")


def test_subclasses_of_ours_are_not_reverted() -> None:
    class Own(convt3d.ConvTranspose3d):
        pass

    report = convt3d.revert(Own(4, 6, 3))[1]
    assert report.swapped == []
    assert "is a subclass, which may compute something else" in report.left[""]


@pytest.mark.parametrize("way", ["torch.compile", "module.compile"])
def test_compiled_before(way: str) -> None:
    """A wrapper made before recompiles, with our operator in its graph."""
    torch._dynamo.reset()
    targets: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    model, x = nn.Sequential(nn.ReLU(), layer()), volume()
    compiled = model
    if way == "torch.compile":
        compiled = torch.compile(model, backend=backend)  # type: ignore[assignment]
    else:
        model.compile(backend=backend)
    theirs = compiled(x)
    assert "convt3d.forward" not in targets
    assert len(convt3d.convert(compiled)[1].swapped) == 1
    torch.testing.assert_close(compiled(x), theirs)
    assert "convt3d.forward" in targets
    torch._dynamo.reset()


def test_pickled() -> None:
    model, x = convt3d.convert(Network())[0], volume()
    other = pickle.loads(pickle.dumps(model))
    assert convolutions(other, x) == [OURS] * 3
    assert torch.equal(other(x), model(x))
