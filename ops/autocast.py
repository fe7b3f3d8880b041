"""Autocast: operands in the dtype that is active where the operator is called.

``torch.library.register_autocast`` fixes one dtype per device for good, but ``torch.autocast`` has
a dtype per region. So these are kernels of the autocast dispatch keys, which stand above autograd:
the casts are differentiated as such, and gradients arrive in the operands' own dtypes.
``grad_input`` and ``grad_weight`` have none, as PyTorch's own backward functions have none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_library = torch.library.Library("convt3d", "IMPL")  # the kernels live as long as this object


def _register(device: str, key: str) -> None:
    operator = torch.ops.convt3d.forward.default
    itself = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(tensor: Any, dtype: torch.dtype) -> Any:
        # ATen's rule for its convolutions: float64 and what is not real stay as they are.
        if (
            isinstance(tensor, Tensor)
            and tensor.is_floating_point()
            and tensor.dtype != torch.float64
            and tensor.device.type == device
        ):
            return tensor.to(dtype)
        return tensor

    def forward(input: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any):
        dtype = torch.get_autocast_dtype(device)
        with torch._C._ExcludeDispatchKeyGuard(itself):
            return operator(cast(input, dtype), cast(weight, dtype), cast(bias, dtype), *geometry)

    _library.impl("forward", forward, key)


_register("cpu", "AutocastCPU")
_register("cuda", "AutocastCUDA")
