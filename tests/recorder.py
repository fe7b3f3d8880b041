"""Which operators a call runs: results alone cannot tell ours from PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

OURS = "convt3d.forward.default"
THEIRS = "aten.convolution.default"


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # PyTorch's operator counts only where it is transposed and 3-D.
        if str(func) != THEIRS or (args[6] and args[1].dim() == 5):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def convolutions(function: Callable[..., Any], *args: Any) -> list[str]:
    """Names of the transposed convolutions that ``function(*args)`` runs, in order."""
    with _Recorder() as recorder:
        function(*args)
    return [name for name in recorder.names if name in (OURS, THEIRS)]
