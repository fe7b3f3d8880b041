"""PyTorch's tools around the operators: counters, profilers, checkpoints, copies, traces, spawn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import convt3d
import pytest
import torch
from cases import BY_NAME, Case, Tensors, call, make_tensors
from torch import Tensor, nn
from torch.nn.functional import conv_transpose3d
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

OURS = torch.ops.convt3d


def network(device: str = "cpu") -> nn.Module:
    return nn.Sequential(
        convt3d.ConvTranspose3d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.Tanh(),
        convt3d.ConvTranspose3d(6, 2, 2, stride=2, groups=2),
    ).to(device)


def volume(device: str = "cpu") -> Tensor:
    return torch.randn(2, 4, 3, 4, 5, device=device)


def count(function: Callable[..., Tensor], tensors: Tensors, case: Case, wanted: str) -> list[int]:
    """The operations of a forward, and of a backward to one operand."""
    operands = {name: getattr(tensors, name).detach() for name in ("input", "weight")}
    operands[wanted].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        y = function(*operands.values(), tensors.bias, *case.geometry)
        forward = counter.get_total_flops()
        y.sum().backward()
        return [forward, counter.get_total_flops() - forward]


@pytest.mark.parametrize(
    "name", ["kernel3_stride2", "asymmetric", "depthwise", "unbatched", "unbatched_groups"]
)
def test_flops_equal_pytorchs(name: str) -> None:
    case = BY_NAME[name]
    tensors = make_tensors(case, torch.float32, "cpu")
    ours = count(OURS.forward, tensors, case, "input")
    assert min(ours) > 0
    assert ours == count(conv_transpose3d, tensors, case, "input")
    ours = count(OURS.forward, tensors, case, "weight")
    theirs = count(conv_transpose3d, tensors, case, "weight")
    # PyTorch's formula for the weight's gradient leaves the groups out.
    assert [ours[0], ours[1] * case.groups] == theirs


@pytest.mark.parametrize("operator", ["forward", "grad_input", "grad_weight"])
def test_flops_of_direct_calls(operator: str) -> None:
    """By hand: 2 operations x batch x positions x elements of the weight."""
    for name, batch in (("kernel3_stride2", None), ("unbatched", 1)):
        case = BY_NAME[name]
        tensors = make_tensors(case, torch.float32, "cpu")
        with FlopCounterMode(display=False) as counter:
            call(operator, tensors, case)
        samples = batch or tensors.input.shape[0]
        positions = samples * tensors.input.shape[-3:].numel()
        assert counter.get_total_flops() == 2 * positions * tensors.weight.numel()
        counts = counter.get_flop_counts()["Global"]
        assert list(counts) == [getattr(OURS, operator)]


def test_names_in_the_profiler(device: str) -> None:
    module = network(device)
    with torch.profiler.profile(record_shapes=True) as profile:
        module(volume(device).requires_grad_()).sum().backward()
    counts = {event.key: event.count for event in profile.key_averages()}
    for operator in ("forward", "grad_input", "grad_weight"):
        assert counts[f"convt3d::{operator}"] == 2
    shapes = [e.input_shapes for e in profile.events() if e.name == "convt3d::forward"]
    assert [2, 4, 3, 4, 5] in shapes[0]
    assert not [name for name in counts if "Metadata" in name]


@pytest.mark.gpu
def test_nvtx_ranges() -> None:
    """PyTorch makes them, and only inside its context."""
    module, x = network("cuda"), volume("cuda")
    with torch.autograd.profiler.emit_nvtx(record_shapes=True):
        ours = module(x)
    assert torch.equal(ours, module(x))


def gradients(module: nn.Module, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(y.square().mean(), list(module.parameters())))


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpoint(device: str, use_reentrant: bool) -> None:
    module, x = network(device), volume(device).requires_grad_()
    module(x).square().mean().backward()
    wanted = [x.grad, *(p.grad for p in module.parameters())]
    x.grad = None
    module.zero_grad()
    y = checkpoint(module, x, use_reentrant=use_reentrant)
    y.square().mean().backward()
    for found, expected in zip(
        [x.grad, *(p.grad for p in module.parameters())], wanted, strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("policy", ["MUST_SAVE", "MUST_RECOMPUTE"])
def test_selective_checkpoint(device: str, policy: str) -> None:
    """The operator is one that a policy can name: saved, it is not computed again."""
    module, x = network(device), volume(device)
    wanted = gradients(module, module(x))
    chosen = getattr(CheckpointPolicy, policy)

    def choose(context: object, operator: object, *args: object, **kwargs: object):
        ours = operator is torch.ops.convt3d.forward.default
        return chosen if ours else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = partial(create_selective_checkpoint_contexts, choose)
    with FlopCounterMode(display=False) as counter:
        y = checkpoint(module, x, use_reentrant=False, context_fn=contexts)
        once = counter.get_total_flops()
        found = gradients(module, y)
    torch.testing.assert_close(found, wanted)
    operations = counter.get_flop_counts()["Global"][OURS.forward]
    assert operations == once if policy == "MUST_SAVE" else operations > once


def _save_the_operator(context: object, operator: object, *args: object, **kwargs: object):
    saved = operator is torch.ops.convt3d.forward.default
    return CheckpointPolicy.MUST_SAVE if saved else CheckpointPolicy.PREFER_RECOMPUTE


_contexts = partial(create_selective_checkpoint_contexts, _save_the_operator)


def test_selective_checkpoint_compiled(device: str) -> None:
    torch._dynamo.reset()
    module, x = network(device), volume(device)
    compiled = torch.compile(
        lambda x: checkpoint(module, x, use_reentrant=False, context_fn=_contexts),
        fullgraph=True,
        backend="aot_eager",
    )
    torch.testing.assert_close(gradients(module, compiled(x)), gradients(module, module(x)))


@pytest.mark.parametrize("way", ["deepcopy", "save", "trace"])
def test_duplicates_compute_the_same(device: str, tmp_path: Path, way: str) -> None:
    module, x = network(device), volume(device)
    if way == "deepcopy":
        other = copy.deepcopy(module)
    elif way == "save":
        torch.save(module, tmp_path / "module.pt")
        other = torch.load(tmp_path / "module.pt", weights_only=False)
    else:
        torch.jit.trace(module, x).save(str(tmp_path / "traced.pt"))
        other = torch.jit.load(str(tmp_path / "traced.pt"))
        assert "convt3d::forward" in str(other.inlined_graph)
        assert "aten::conv" not in str(other.inlined_graph)
    for size in ((2, 4, 3, 4, 5), (1, 4, 2, 2, 6)):
        x = torch.randn(size, device=device)
        assert torch.equal(other(x), module(x))
    for mine, copied in zip(gradients(module, module(x)), gradients(other, other(x)), strict=True):
        assert torch.equal(mine, copied)


def _train(rank: int, module: nn.Module, x: Tensor, folder: str) -> None:
    torch.save(gradients(module, module(x)), Path(folder) / f"{rank}.pt")


def test_multiprocessing_spawn(tmp_path: Path) -> None:
    """Modules and tensors reach new processes, which import the operator with them."""
    module, x = network(), volume()
    wanted = gradients(module, module(x))
    torch.multiprocessing.spawn(_train, (module, x, str(tmp_path)), nprocs=2)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), wanted)
