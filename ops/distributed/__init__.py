"""convt3d on several devices: sharding rules for DTensor, parallel modules, spatial parallelism.

Importing this package makes the operators take DTensors. ``import convt3d`` does so by itself where
``torch.distributed.tensor`` is used; the package is imported for the names below.
"""

from __future__ import annotations

import torch

if not torch.distributed.is_available():
    raise ImportError(
        "convt3d.distributed needs a PyTorch that was built with torch.distributed", name="convt3d"
    )

from convt3d.distributed import dispatch as dispatch

__all__ = []
