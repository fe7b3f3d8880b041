"""What the operators do with DTensors: place the operands, compute locally, place the result.

The functions are ``__torch_dispatch__`` rules of DTensor and so stand below autograd. Its formulas
consist of the same three operators: derivatives of any order run here as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from convt3d.distributed.call import Call
from convt3d.distributed.rules import forward_rules, grad_input_rules, grad_weight_rules
from convt3d.distributed.windows import grad_output_window, input_window
from convt3d.meta.shape import (
    check_tensors,
    forward_problem,
    grad_input_problem,
    grad_weight_problem,
)
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate


def _forward(operator: Any, input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any):
    check_tensors("input", input, weight=weight, bias=bias)
    bias_size = None if bias is None else bias.shape
    problem = forward_problem(input.shape, weight.shape, bias_size, *geometry)
    tensors = [input, weight] if bias is None else [input, weight, bias]
    operands = _as_dtensors(operator, tensors)
    call = Call(problem, forward_rules(problem), operands, input_window)
    result = call.operands[0]
    if call.takes_part():
        source, kernel, *rest = call.operands
        source = call.fetch(source)
        size = call.activation_size(source, kernel.shape[1] * call.groups)
        if 0 in size or 0 in kernel.shape:
            result = source.new_zeros(size)
        else:
            added = rest[0] if rest and call.adds_bias() else None
            result = operator(source, kernel, added, *call.geometry())
    return call.place(result, problem.output_size())


def _grad_input(operator: Any, grad_output: Tensor, weight: Tensor, *geometry: Any) -> DTensor:
    check_tensors("grad_output", grad_output, weight=weight)
    problem = grad_input_problem(grad_output.shape, weight.shape, *geometry)
    operands = _as_dtensors(operator, [grad_output, weight])
    rules = grad_input_rules(problem)
    call = Call(problem, rules, operands, grad_output_window, to_outputs=False)
    result = call.operands[0]
    if call.takes_part():
        gradient, kernel = call.operands
        gradient = call.fetch(gradient)
        size = call.activation_size(gradient, kernel.shape[0])
        if 0 in size or 0 in kernel.shape:
            result = gradient.new_zeros(size)
        else:
            result = operator(gradient, kernel, *call.geometry())
    return call.place(result, problem.input_size())


def _grad_weight(operator: Any, grad_output: Tensor, input: Tensor, *geometry: Any) -> DTensor:
    check_tensors("grad_output", grad_output, input=input)
    problem = grad_weight_problem(grad_output.shape, input.shape, *geometry)
    operands = _as_dtensors(operator, [grad_output, input])
    call = Call(problem, grad_weight_rules(problem), operands, input_window)
    result = call.operands[0]
    if call.takes_part():
        gradient, source = call.operands
        source = call.fetch(source)
        kernel = [axis.kernel for axis in problem.axes]
        size = [source.shape[-4], gradient.shape[-4] // call.groups, *kernel]
        if 0 in size or 0 in gradient.shape:
            result = source.new_zeros(size)
        else:
            result = operator(gradient, source, *call.geometry())
    return call.place(result, problem.weight_size())


def _as_dtensors(operator: Any, tensors: Sequence[Tensor]) -> list[DTensor]:
    meshes = [tensor.device_mesh for tensor in tensors if isinstance(tensor, DTensor)]
    if any(mesh != meshes[0] for mesh in meshes):
        raise RuntimeError(f"{operator}: expected DTensors of one device mesh, but got {meshes}")
    found = []
    for tensor in tensors:
        if not isinstance(tensor, DTensor):
            if not _replicates_implicitly():
                raise RuntimeError(
                    f"{operator}: got mixed torch.Tensor and DTensor, need to convert all "
                    "torch.Tensor to DTensor before calling distributed operators"
                )
            whole = [Replicate()] * meshes[0].ndim
            tensor = DTensor.from_local(tensor, meshes[0], whole, run_check=False)
        found.append(tensor)
    return found


def _replicates_implicitly() -> bool:
    # The one trace that the context manager `implicit_replication` leaves.
    dispatcher = getattr(DTensor, "_op_dispatcher", None)
    return getattr(dispatcher, "_allow_implicit_replication", False)


def _register(name: str, rule: Callable[..., DTensor]) -> None:
    operator = getattr(torch.ops.convt3d, name).default

    @torch.library.register_torch_dispatch(f"convt3d::{name}", DTensor)
    def dispatch(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> DTensor:
        rest = operator._schema.arguments[len(args) :]
        kwargs = kwargs or {}
        with torch.no_grad():  # autograd has its own formulas for the call as a whole
            return rule(
                operator,
                *args,
                *(kwargs.get(a.name, getattr(a, "default_value", None)) for a in rest),
            )


_register("forward", _forward)
_register("grad_input", _grad_input)
_register("grad_weight", _grad_weight)
