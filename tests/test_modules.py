"""The functional form and the modules against their ``torch.nn`` twins."""

from __future__ import annotations

import copy
import inspect
import pickle

import convt3d
import pytest
import torch
from torch import nn

ARGUMENTS = (
    {"in_channels": 4, "out_channels": 6, "kernel_size": 3},
    {"in_channels": 4, "out_channels": 6, "kernel_size": 2, "stride": 2, "bias": False},
    {
        "in_channels": 6,
        "out_channels": 4,
        "kernel_size": (3, 2, 5),
        "stride": (2, 1, 3),
        "padding": (1, 0, 2),
        "output_padding": (1, 0, 2),
        "groups": 2,
        "dilation": (1, 2, 1),
    },
)


def pair(arguments: dict) -> tuple[nn.ConvTranspose3d, nn.ConvTranspose3d]:
    """Ours and PyTorch's from the same seed."""
    modules = []
    for kind in (convt3d.ConvTranspose3d, nn.ConvTranspose3d):
        torch.manual_seed(1)
        modules.append(kind(**arguments))
    return modules[0], modules[1]


def volume(arguments: dict, *, batched: bool = True) -> torch.Tensor:
    size = (arguments["in_channels"], 3, 4, 5)
    return torch.randn(2, *size) if batched else torch.randn(size)


def test_functional_signature() -> None:
    # PyTorch's function is a builtin: its arguments are those of its documentation's first line.
    schema = torch.ops.aten.conv_transpose3d.input._schema
    names = [argument.name for argument in schema.arguments]
    assert f"conv_transpose3d({', '.join(names[:2])}" in str(nn.functional.conv_transpose3d.__doc__)
    parameters = inspect.signature(convt3d.conv_transpose3d).parameters
    assert list(parameters) == names
    defaults = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    theirs = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    assert defaults.keys() == theirs.keys()
    for name, value in theirs.items():
        assert value in (defaults[name], [defaults[name]] * 3)


@pytest.mark.parametrize("batched", [True, False])
def test_functional_equals_pytorch(batched: bool) -> None:
    x, w, b = volume(ARGUMENTS[0], batched=batched), torch.randn(4, 3, 3, 3, 3), torch.randn(6)
    options = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 2}
    ours = convt3d.conv_transpose3d(x, w, bias=b, **options)
    torch.testing.assert_close(ours, nn.functional.conv_transpose3d(x, w, bias=b, **options))
    ours = convt3d.conv_transpose3d(x, w, b, 2, (1, 0, 1), (1, 0, 1), 2, (1, 2, 1))
    theirs = nn.functional.conv_transpose3d(x, w, b, 2, (1, 0, 1), (1, 0, 1), 2, (1, 2, 1))
    torch.testing.assert_close(ours, theirs)


def test_constructors_have_pytorchs_signatures() -> None:
    for ours, theirs in (
        (convt3d.ConvTranspose3d, nn.ConvTranspose3d),
        (convt3d.LazyConvTranspose3d, nn.LazyConvTranspose3d),
    ):
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.signature(ours.forward).parameters.keys() == (
            inspect.signature(theirs.forward).parameters.keys()
        )
        assert issubclass(ours, theirs)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_same_seed_same_module(arguments: dict) -> None:
    ours, theirs = pair(arguments)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert ours.extra_repr() == theirs.extra_repr()
    x = volume(arguments)
    torch.testing.assert_close(ours(x), theirs(x))


def test_state_dict_goes_both_ways() -> None:
    ours, theirs = convt3d.ConvTranspose3d(4, 6, 3), nn.ConvTranspose3d(4, 6, 3)
    x = volume(ARGUMENTS[0])
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x))
    other = nn.ConvTranspose3d(4, 6, 3)
    other.load_state_dict(ours.state_dict())
    assert torch.equal(other.weight, theirs.weight)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("spatial", [[6, 8, 10], [5, 7, 9], [6, 7, 10]])
@pytest.mark.parametrize("whole", [True, False])
def test_output_size(spatial: list[int], whole: bool, batched: bool) -> None:
    arguments = ARGUMENTS[0] | {"stride": 2, "padding": 1}
    ours, theirs = pair(arguments)
    x = volume(arguments, batched=batched)
    leading = [2, 6] if batched else [6]
    size = [*leading, *spatial] if whole else spatial
    y = ours(x, output_size=size)
    assert list(y.shape) == [*leading, *spatial]
    torch.testing.assert_close(y, theirs(x, output_size=size))


@pytest.mark.parametrize("size", [[11, 8, 10], [4, 8, 10], [6, 8], [6, 8, 10, 1, 1, 1]])
def test_output_size_that_cannot_be(size: list[int]) -> None:
    ours, theirs = pair(ARGUMENTS[0] | {"stride": 2, "padding": 1})
    x = volume(ARGUMENTS[0])
    with pytest.raises(ValueError) as theirs_error:
        theirs(x, output_size=size)
    with pytest.raises(ValueError) as ours_error:
        ours(x, output_size=size)
    assert str(ours_error.value) == str(theirs_error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"padding_mode": "reflect"},
        {"in_channels": 5, "groups": 2},
        {"out_channels": 5, "groups": 2},
        {"groups": 0},
    ],
    ids=str,
)
def test_constructor_refuses_what_pytorch_refuses(change: dict) -> None:
    arguments = ARGUMENTS[0] | change
    with pytest.raises(ValueError) as theirs_error:
        nn.ConvTranspose3d(**arguments)
    with pytest.raises(ValueError) as ours_error:
        convt3d.ConvTranspose3d(**arguments)
    assert str(ours_error.value) == str(theirs_error.value)


def test_padding_mode_changed_later_is_refused() -> None:
    module = convt3d.ConvTranspose3d(4, 6, 3)
    module.padding_mode = "circular"
    with pytest.raises(ValueError, match="Only `zeros` padding mode is supported"):
        module(volume(ARGUMENTS[0]))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(duplicate) -> None:
    module = convt3d.ConvTranspose3d(4, 6, 3, stride=2)
    other = duplicate(module)
    assert type(other) is convt3d.ConvTranspose3d
    assert other.weight is not module.weight
    x = volume(ARGUMENTS[0])
    assert torch.equal(other(x), module(x))


@pytest.mark.parametrize("batched", [True, False])
def test_lazy(batched: bool) -> None:
    torch.manual_seed(2)
    ours = convt3d.LazyConvTranspose3d(6, 3, stride=2, padding=1)
    torch.manual_seed(2)
    theirs = nn.LazyConvTranspose3d(6, 3, stride=2, padding=1)
    assert repr(ours).replace("convt3d", "") == repr(theirs)
    x = volume(ARGUMENTS[0], batched=batched)
    torch.manual_seed(3)
    y = ours(x)
    torch.manual_seed(3)
    torch.testing.assert_close(y, theirs(x))
    assert type(ours) is convt3d.ConvTranspose3d
    assert ours.in_channels == 4


def test_lazy_with_output_size() -> None:
    module = convt3d.LazyConvTranspose3d(6, 3, stride=2, padding=1)
    assert module(volume(ARGUMENTS[0]), [6, 8, 10]).shape == (2, 6, 6, 8, 10)


def test_modules_run_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not PyTorch's convolution: their results alone could not tell."""

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(str(function))
            return function(*args, **(kwargs or {}))

    for module in (convt3d.ConvTranspose3d(4, 6, 3), convt3d.LazyConvTranspose3d(6, 3)):
        module(volume(ARGUMENTS[0]))
        called: list[str] = []
        with Recorder():
            module(volume(ARGUMENTS[0]))
        assert "convt3d.forward.default" in called
        assert not [name for name in called if name.startswith("aten.conv")]
