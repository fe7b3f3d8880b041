"""Loads the shared libraries that define and implement ``torch.ops.convt3d``."""

from __future__ import annotations

import atexit
import ctypes
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).resolve().parent / "lib"
CORE = FOLDER / "libconvt3d.so"
CUDA = FOLDER / "libconvt3d_cuda.so"
OPERATORS = ("forward", "grad_input", "grad_weight")


def _load() -> list[Path]:
    if not CORE.exists():
        raise _broken(f"convt3d is not built: {CORE} does not exist (run `make build`)")
    _load_one(CORE)
    loaded = [CORE]
    if torch.backends.cuda.is_built():  # the CUDA library needs CUDA's part of torch
        if CUDA.exists():
            _load_one(CUDA)
            _tell_precision(ctypes.CDLL(str(CUDA)))
            loaded.append(CUDA)
        else:
            _explain_missing_cuda()
    return loaded


def _load_one(path: Path) -> None:
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise _broken(
            f"{path.name} does not fit this torch {torch.__version__} (2.10 is the oldest that "
            f"convt3d supports) or this machine: {error}"
        ) from error


@ctypes.CFUNCTYPE(ctypes.c_int)
def _allows_tf32() -> int:
    setting: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return setting.fp32_precision == "tf32"


def _tell_precision(library: ctypes.CDLL) -> None:
    # The stable ABI has no accessor for PyTorch's setting, so the library asks here at every call
    # on float32 tensors; see csrc/cuda/precision.h.
    library.convt3d_set_tf32_query(_allows_tf32)
    atexit.register(library.convt3d_set_tf32_query, None)


def _broken(text: str) -> ImportError:
    # With the package's name, `python -m convt3d` reports it in one line.
    return ImportError(text, name="convt3d")


def _explain_missing_cuda() -> None:
    def refuse(*args: object, **kwargs: object) -> torch.Tensor:
        raise RuntimeError(
            "this build of convt3d is CPU-only (nvcc was not found when it was built): move the "
            "tensors to the CPU or rebuild where nvcc is on the PATH"
        )

    for name in OPERATORS:
        torch.library.impl(f"convt3d::{name}", "CUDA")(refuse)


def _tag() -> None:
    # The stable ABI of torch 2.10 cannot define an operator with tags.
    for name in OPERATORS:
        overload = getattr(torch.ops.convt3d, name).default
        overload._tags = [
            *overload.tags,
            torch.Tag.pt2_compliant_tag,
            torch.Tag.needs_exact_strides,
        ]


loaded = _load()
_tag()
