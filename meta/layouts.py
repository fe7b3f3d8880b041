"""Refuses tensors whose layout or kind has no kernels, with the operators' own text.

Sparse, quantized and oneDNN tensors have dispatch keys of their own; without these functions the
dispatcher would answer with a page about missing backends.
"""

from __future__ import annotations

import torch
from convt3d.meta.shape import check_tensors
from torch import Tensor

_BACKENDS = (
    "SparseCPU",
    "SparseCUDA",
    "SparseCsrCPU",
    "SparseCsrCUDA",
    "QuantizedCPU",
    "QuantizedCUDA",
    "MkldnnCPU",
)


def _forward(input: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object) -> Tensor:
    check_tensors("input", input, weight=weight, bias=bias)
    raise RuntimeError("convt3d supports strided (dense) tensors only")


def _grad_input(grad_output: Tensor, weight: Tensor, *_: object) -> Tensor:
    check_tensors("grad_output", grad_output, weight=weight)
    raise RuntimeError("convt3d supports strided (dense) tensors only")


def _grad_weight(grad_output: Tensor, input: Tensor, *_: object) -> Tensor:
    check_tensors("grad_output", grad_output, input=input)
    raise RuntimeError("convt3d supports strided (dense) tensors only")


for _backend in _BACKENDS:
    torch.library.impl("convt3d::forward", _backend)(_forward)
    torch.library.impl("convt3d::grad_input", _backend)(_grad_input)
    torch.library.impl("convt3d::grad_weight", _backend)(_grad_weight)
