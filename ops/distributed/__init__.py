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

from convt3d.distributed import dispatch as dispatch  # registers the rules
from convt3d.distributed.parallel import ConvTranspose3dParallel
from convt3d.distributed.spatial import spatial_conv_transpose3d

__all__ = ["ConvTranspose3dParallel", "spatial_conv_transpose3d"]
