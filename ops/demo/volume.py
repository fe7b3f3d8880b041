"""A real scan: the first volume of nibabel's `example4d.nii.gz`.

nibabel's wheel carries it among its test data, so nothing is downloaded: a human head,
128 x 96 x 24 voxels of 2 x 2 x 2.2 mm.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

PATH = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"


def load() -> Tensor:
    """The scan as float32 ``(1, 1, depth, height, width)``, brightest percentile at 1.

    Depth runs from the feet to the head, height from the back to the front, width from right to
    left.
    """
    scan = nibabel.load(PATH)
    voxels = np.asarray(scan.dataobj[..., 0], dtype=np.float32)  # type: ignore[attr-defined]
    volume = torch.from_numpy(voxels.transpose(2, 1, 0).copy())
    return (volume / volume.quantile(0.999)).clamp(max=1)[None, None]


def description() -> str:
    """One line: file, size, voxel size."""
    scan = nibabel.load(PATH)
    size = " x ".join(str(n) for n in scan.shape[:3])  # type: ignore[attr-defined]
    zooms = scan.header.get_zooms()[:3]  # type: ignore[attr-defined]
    voxel = " x ".join(f"{z:.1f}" for z in zooms)
    return f"{PATH.name} from nibabel {nibabel.__version__}: {size} voxels of {voxel} mm"
