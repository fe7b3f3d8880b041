"""What is timed: this package, PyTorch's own operator, and what a user might write instead.

An implementation turns a problem and a pass into a `Job`: the call, its operand sets and its check.

- `convt3d`           this package
- `cudnn_heuristic`   PyTorch's operator, cuDNN choosing its algorithm by heuristic
- `cudnn_benchmark`   the same with `torch.backends.cudnn.benchmark`, the plan found by measuring
- `aten`              PyTorch's operator on a CPU
- `interpolate_conv`  nearest-neighbour `F.interpolate` by the stride, then `F.conv3d`: another
                      function with the same kernel size and (to one voxel) the same output
- `matmul_shuffle`    one product and a pixel shuffle, the same function where kernel = stride
- `compiled`          PyTorch's operator under `torch.compile`, the same function

The first four also run as `torch.nn` modules in a training step, eager or under `torch.compile`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import check
from .cases import Case, Triple
from .problem import Problem

OURS = "convt3d"
CUDNN = ("cudnn_heuristic", "cudnn_benchmark")
ATEN = "aten"
BASELINES = (*CUDNN, ATEN)
ALTERNATIVES = ("interpolate_conv", "matmul_shuffle", "compiled")
# Without those that cost seconds a cell.
QUICK_ALTERNATIVES = ALTERNATIVES[:2]

Operator = Callable[[Tensor, Tensor], Tensor]

# A larger result takes PyTorch less time than a float32 weight gradient, which is always small.
_KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Job:
    """A call ready to be timed.

    `call` takes one entry of `rotation` and returns a tensor or a tuple of them; `check` takes what
    it returned for the first entry, and gives the relative error or raises `check.WrongResult`.
    """

    call: Callable[..., Any]
    rotation: list[tuple[Any, ...]]
    check: Callable[[Any], float]
    graph: bool = True


def baselines(device_type: str) -> tuple[str, ...]:
    """The implementations that ours is measured against; the fastest of them counts."""
    return CUDNN if device_type == "cuda" else (ATEN,)


def implementations(
    case: Case, pass_name: str, device_type: str, alternatives: Sequence[str] = ALTERNATIVES
) -> tuple[str, ...]:
    """All implementations of one pass of `case`, ours first; of `alternatives` those that apply."""
    applies = {
        "interpolate_conv": max(case.stride) > 1,
        "matmul_shuffle": is_patch_expansion(case),
        "compiled": True,
    }
    found = [name for name in ALTERNATIVES if name in alternatives and applies[name]]
    return (OURS, *baselines(device_type), *(found if pass_name == "forward" else ()))


def is_patch_expansion(case: Case) -> bool:
    """Whether every output depends on one input position: kernel = stride and nothing else set."""
    plain = (0, 0, 0)
    return (
        case.kernel == case.stride
        and case.padding == plain
        and case.output_padding == plain
        and case.dilation == (1, 1, 1)
        and case.groups == 1
    )


def build(impl: str, pass_name: str, problem: Problem) -> Job:
    """The job of `impl` for one pass; the process must be set to its cuDNN mode already."""
    if pass_name in ("step", "step_compiled"):
        return TrainingStep(impl, problem, compiled=pass_name == "step_compiled").job()
    if impl == "interpolate_conv":
        return _interpolate_conv(problem)
    call = operator(impl, pass_name, problem)
    operands = problem.operands(pass_name)

    def verify(result: Tensor) -> float:
        error = _check_sampled(impl, problem, pass_name, result)
        if impl == OURS:
            whole = _whole(problem, pass_name)
            check.check_whole(problem.case, problem.dtype, pass_name, operands, result, whole)
        return error

    return Job(call, problem.rotation(pass_name), verify)


def operator(impl: str, pass_name: str, problem: Problem) -> Operator:
    """The two-operand function of `impl` for forward, grad_input or grad_weight."""
    if impl == OURS:
        return _ours(pass_name, problem.case)
    if impl == "matmul_shuffle":
        return lambda x, weight: matmul_shuffle(x, weight, problem.case.stride)
    if impl == "compiled":
        return _compiled(_aten("forward", problem))
    return _aten(pass_name, problem)


def _ours(pass_name: str, case: Case) -> Operator:
    import convt3d  # noqa: F401  (registers torch.ops.convt3d)

    stride, padding, dilation = list(case.stride), list(case.padding), list(case.dilation)
    options = (stride, padding, list(case.output_padding), case.groups, dilation)
    if pass_name == "forward":
        forward = torch.ops.convt3d.forward.default
        return lambda x, weight: forward(x, weight, None, *options)
    gradient = getattr(torch.ops.convt3d, pass_name).default
    return lambda grad, other: gradient(grad, other, *options)


def _aten(pass_name: str, problem: Problem) -> Operator:
    case = problem.case
    stride, padding, dilation = list(case.stride), list(case.padding), list(case.dilation)
    extra, groups = list(case.output_padding), case.groups
    if pass_name == "forward":
        return lambda x, weight: F.conv_transpose3d(
            x, weight, None, stride, padding, extra, groups, dilation
        )
    backward = torch.ops.aten.convolution_backward.default
    options = (None, stride, padding, dilation, True, extra, groups)
    # convolution_backward wants the tensor whose gradient it makes, for shape and strides alone.
    if pass_name == "grad_weight":
        weight_like = problem.empty(case.weight)
        mask = [False, True, False]
        return lambda grad, x: backward(grad, x, weight_like, *options, mask)[1]
    input_like = problem.empty(case.input)
    mask = [True, False, False]
    return lambda grad, weight: backward(grad, input_like, weight, *options, mask)[0]


def _compiled(call: Callable[..., Any]) -> Callable[..., Any]:
    # Without the reset, the shapes of earlier cases would make this one dynamic.
    torch._dynamo.reset()
    return torch.compile(call)


def matmul_shuffle(x: Tensor, weight: Tensor, stride: Triple) -> Tensor:
    """Transposed convolution with kernel = stride, (N, Cin, D, H, W) -> (N, Cout, sD*D, ...).

    One product of every input position with all taps, then the taps move between the positions.
    """
    batch, _, depth, height, width = x.shape
    channels = weight.shape[1]
    patches = x.permute(0, 2, 3, 4, 1) @ weight.flatten(1)
    patches = patches.view(batch, depth, height, width, channels, *stride)
    shuffled = patches.permute(0, 4, 1, 5, 2, 6, 3, 7)
    sizes = [size * factor for size, factor in zip((depth, height, width), stride, strict=True)]
    return shuffled.reshape(batch, channels, *sizes)


def _interpolate_conv(problem: Problem) -> Job:
    """Upsampling, then a convolution of the same kernel size, padded to the same output size.

    The padding is symmetric, so the output can be one voxel smaller per axis. Checked against
    float64 like the rest: a convolution of u is the input gradient of a transposed one for u.
    """
    case = problem.case
    scale = [float(step) for step in case.stride]
    padding = tuple(
        max(0, (2 * d * (k - 1) - 2 * p + extra + 1 - s) // 2)
        for d, k, p, extra, s in zip(
            case.dilation,
            case.kernel,
            case.padding,
            case.output_padding,
            case.stride,
            strict=True,
        )
    )
    x, weight = problem.operands("forward")
    swapped = weight.reshape(case.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    kernel = problem.format(swapped)

    def call(x: Tensor, kernel: Tensor) -> Tensor:
        upsampled = F.interpolate(x, scale_factor=scale, mode="nearest")
        return F.conv3d(upsampled, kernel, None, 1, padding, list(case.dilation), case.groups)

    def verify(result: Tensor) -> float:
        upsampled = x
        for axis, step in zip((2, 3, 4), case.stride, strict=True):
            upsampled = upsampled.repeat_interleave(step, dim=axis)
        mirror = Case(
            name=f"{case.name} mirrored",
            group=case.group,
            input=(case.input[0], case.out_channels, *result.shape[2:]),
            out_channels=case.in_channels,
            kernel=case.kernel,
            padding=(padding[0], padding[1], padding[2]),
            dilation=case.dilation,
            groups=case.groups,
        )
        operands = (upsampled, kernel)
        limit = check.others_limit(mirror, problem.dtype, "grad_input")
        return check.check_sampled(mirror, limit, "grad_input", operands, result)

    rotation = [(each, kernel) for each, _ in problem.rotation("forward")]
    return Job(call, rotation, verify)


def _limit(impl: str, problem: Problem, pass_name: str) -> check.Limit:
    if impl == OURS:
        return check.limit_of(problem.dtype, pass_name)
    return check.others_limit(problem.case, problem.dtype, pass_name)


def _check_sampled(impl: str, problem: Problem, pass_name: str, result: Tensor) -> float:
    return check.check_sampled(
        problem.case,
        _limit(impl, problem, pass_name),
        pass_name,
        problem.operands(pass_name),
        result,
        problem.references,
    )


def _whole(problem: Problem, pass_name: str) -> tuple[Tensor, float]:
    """PyTorch's result of a pass and its relative error, kept where it is small."""
    kept = problem.references.whole
    if pass_name in kept:
        return kept[pass_name]
    operands = problem.operands(pass_name)
    result = operator(BASELINES[0], pass_name, problem)(*operands)
    sample = problem.references.sample(problem.case, pass_name, operands)
    whole = result, check.relative_error(sample.of(result), sample.values)
    if result.nbytes <= _KEPT_BYTES:
        kept[pass_name] = whole
    return whole


class TrainingStep:
    """Forward, backward to input, weight and bias, and an SGD update of the module of `impl`.

    The learning rate is so small that the weights stay what they are, in effect.
    """

    def __init__(self, impl: str, problem: Problem, compiled: bool) -> None:
        self.impl = impl
        self.problem = problem
        if impl == OURS:
            from convt3d import ConvTranspose3d as Module
        else:
            from torch.nn import ConvTranspose3d as Module
        case = problem.case
        self.module = Module(
            case.in_channels,
            case.out_channels,
            case.kernel,
            stride=case.stride,
            padding=case.padding,
            output_padding=case.output_padding,
            groups=case.groups,
            dilation=case.dilation,
            device=problem.device,
            dtype=problem.weight.dtype,
        )
        with torch.no_grad():
            self.module.weight.data = problem.weight.clone()
            self.module.bias.zero_()
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-12)
        self.forward = _compiled(self.module) if compiled else self.module

    def job(self) -> Job:
        """The step as a job; its operands are inputs alone."""
        operands = self.problem.rotation("forward")
        inputs = [(x.detach().clone().requires_grad_(),) for x, _ in operands]
        return Job(self.run, inputs, self.verify, graph=False)

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """One step; returns output, input gradient, weight gradient, bias gradient."""
        x.grad = None
        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            output = self.forward(x)
            output.backward(self.problem.grad_output)
        self.optimizer.step()
        assert x.grad is not None
        return output.detach(), x.grad, self.module.weight.grad, self.module.bias.grad

    def verify(self, result: tuple[Tensor, ...]) -> float:
        """Check all four results of `run`; returns the largest error."""
        problem = self.problem
        output, grad_input, grad_weight, grad_bias = result
        errors = [
            _check_sampled(self.impl, problem, name, tensor)
            for name, tensor in (
                ("forward", output),
                ("grad_input", grad_input),
                ("grad_weight", grad_weight),
            )
        ]
        expected = problem.grad_output.sum((0, 2, 3, 4), dtype=torch.float64)
        # PyTorch adds up the bias gradient of every implementation.
        limit = check.others_limit(problem.case, problem.dtype, "grad_weight")
        errors.append(check.assert_close("bias gradient", grad_bias, expected, limit))
        return max(errors)
