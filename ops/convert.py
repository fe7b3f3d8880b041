"""Moves the transposed convolutions of a finished model to convt3d and back.

A module is moved by changing its class. convt3d's classes add no state to those of ``torch.nn``, so
parameters, hooks, names, memory formats and whoever shares the module notice nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from convt3d import _library, modules
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_Model = TypeVar("_Model", bound=nn.Module)

_OURS: dict[type, type] = {
    nn.ConvTranspose3d: modules.ConvTranspose3d,
    nn.LazyConvTranspose3d: modules.LazyConvTranspose3d,
}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}
_HAS_CUDA = _library.CUDA in _library.loaded


@dataclass
class Report:
    """What ``convert`` or ``revert`` did, by module name as in ``named_modules()``.

    Attributes:
        swapped: names of the modules whose class was changed; a shared module has its first name.
        left: name and reason of every other 3-D transposed convolution.
    """

    swapped: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"swapped {len(self.swapped)}, left {len(self.left)}"]
        lines += [f"  swapped {_shown(name)}" for name in self.swapped]
        lines += [f"  left {_shown(name)}: {reason}" for name, reason in self.left.items()]
        return "\n".join(lines)


def convert(model: _Model, *, inplace: bool = True) -> tuple[_Model, Report]:
    """Have every ``nn.ConvTranspose3d`` and ``nn.LazyConvTranspose3d`` of `model` run on convt3d.

    In place the modules and their parameters stay the same objects, so that optimizers, hooks and
    compiled wrappers made earlier stay valid. Parametrized modules (``weight_norm``,
    ``spectral_norm``) are swapped too. Modules are found as ``named_modules()`` finds them; calls
    of ``F.conv_transpose3d`` are what ``convt3d.override`` is for.

    Args:
        model: any module; it may itself be a transposed convolution.
        inplace: False changes a ``copy.deepcopy`` and leaves `model` alone.

    Returns:
        The model and a report of what was swapped, what was left, and why.

    Raises:
        TypeError: `model` is not a module.
    """
    return _exchange(model, inplace, _OURS, _why_not_converted)


def revert(model: _Model, *, inplace: bool = True) -> tuple[_Model, Report]:
    """Undo ``convert``: every module of convt3d in `model` becomes that of ``torch.nn`` again.

    Arguments, results and errors as for ``convert``. Modules that were made by
    ``convt3d.ConvTranspose3d(...)`` are changed as well.
    """
    return _exchange(model, inplace, _THEIRS, _why_not_reverted)


def why_not(tensor: Tensor) -> str | None:
    """Why convt3d has no kernels for a weight or input like `tensor`; None where it has."""
    kind = tensor.device.type
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return "it is not a strided (dense) tensor"
    if kind not in ("cpu", "cuda", "meta"):
        return f"convt3d has no kernels for {kind} devices"
    if kind == "cuda" and not _HAS_CUDA:
        return "this build of convt3d is CPU-only"
    return None


def _exchange(
    model: _Model,
    inplace: bool,
    classes: dict[type, type],
    why_not_exchanged: Callable[[nn.Module], str | None],
) -> tuple[_Model, Report]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, but got {type(model).__name__}")
    if not inplace:
        model = copy.deepcopy(model)
    report = Report()
    for name, module in model.named_modules():
        if not _is_transposed_convolution(module):
            continue
        reason = why_not_exchanged(module)
        if reason is None:
            _change_class(module, classes)
            report.swapped.append(name)
        else:
            report.left[name] = reason
    return model, report


def _is_transposed_convolution(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in {kind.__name__ for kind in _OURS}
    return isinstance(module, nn.ConvTranspose3d)


def _why_not_converted(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled to TorchScript: convert the model before scripting or tracing it"
    kind = _own_class(module)
    if kind in _THEIRS:
        return "it runs on convt3d already"
    if kind not in _OURS:
        return f"its class {_full_name(kind)} is a subclass, which may compute something else"
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    for name, tensor in module.named_parameters():
        reason = why_not(tensor)
        if reason is None and _is_foreign(tensor):
            reason = f"its type {_full_name(type(tensor))} does not know the operators of convt3d"
        if reason is not None:
            return f"{name}: {reason}"
    return None


def _why_not_reverted(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled to TorchScript: revert the model before scripting or tracing it"
    kind = _own_class(module)
    if kind in _OURS:
        return "it runs on PyTorch already"
    if kind not in _THEIRS:
        return f"its class {_full_name(kind)} is a subclass, which may compute something else"
    return None


def _is_foreign(tensor: Tensor) -> bool:
    # A wrapper decides by itself which operators it knows. DTensor's rules for ours are convt3d's.
    if not is_traceable_wrapper_subclass(tensor):
        return False
    if not torch.distributed.is_available():
        return True
    from torch.distributed.tensor import DTensor  # slow to import, and seldom needed

    return not isinstance(tensor, DTensor)


def _own_class(module: nn.Module) -> type:
    """The module's class without what ``parametrize`` put in front of it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _change_class(module: nn.Module, classes: dict[type, type]) -> None:
    kind = type(module)
    new = classes[_own_class(module)]
    if parametrize.is_parametrized(module):
        # That class holds the properties that compute the parameters. Deep copies of the module
        # share it, so it is made anew instead of being given another base.
        members = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        new = type(kind.__name__, (new,), members)
    module.__class__ = new
    # Compiled code that was checked against this module must be checked again. torch 2.10 skips the
    # check, class and all, while the version of the module's dictionary is the same.
    vars(module)["_convt3d"] = None
    del vars(module)["_convt3d"]


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _shown(name: str) -> str:
    return name or "the model itself"
