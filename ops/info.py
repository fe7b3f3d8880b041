"""`python -m convt3d info`: what is installed, what it sees, and whether it computes."""

from __future__ import annotations

import argparse
import os
import platform
import textwrap
from collections.abc import Sequence

import torch
from convt3d import _library
from convt3d.version import __version__

# One row per set of dtypes: (device, dtypes, what computes them).
METHODS = (
    (
        "cpu",
        "float32, float16, bfloat16, complex64, complex32",
        "BLAS matrix products or oneDNN convolutions, by shape; half types in float32",
    ),
    ("cpu", "float64, complex128, int64", "matrix products"),
    (
        "cuda",
        "float16, bfloat16, float32, float64",
        "tensor-core kernels, depthwise kernels (not in float64) for groups of few channels, else "
        "direct ones",
    ),
    ("cuda", "complex32, complex64, complex128", "direct kernels"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; returns 1, with a sentence per fault, if a device computes wrongly."""
    parser = argparse.ArgumentParser(prog="python -m convt3d info", description=__doc__)
    parser.parse_args(argv)
    print(f"convt3d  {__version__}")
    print(f"torch    {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    print(f"Python   {platform.python_version()} on {platform.platform()}")

    print("\nlibraries")
    for path in (_library.CORE, _library.CUDA):
        print(f"  {path}: {_library_state(path in _library.loaded, path.exists())}")

    print("\ndevices")
    faults = []
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    for device in devices:
        state = "not used, this build of convt3d is CPU-only"
        if _computes(device):
            fault = _fault(device)
            state = "self-check failed" if fault else "self-check passed"
            if fault:
                faults.append(f"convt3d is broken on {device}: {fault}")
        print(f"  {device}: {_describe(device)}: {state}")
    if len(devices) == 1:
        print(f"  no GPU: {_why_no_gpu()}")

    print("\nwhat runs where")
    kinds = {device.type for device in devices if _computes(device)}
    for kind, dtypes, method in METHODS:
        if kind in kinds:
            print(f"  {kind}: {dtypes}\n    {method}")
    for fault in faults:
        print(f"\n{fault}")
    return 1 if faults else 0


def self_check(device: torch.device) -> str | None:
    """Compare the three operators on `device` with values worked out by hand.

    Along the width, input (1, 2) and weight (3, 5) give (1*3, 1*5 + 2*3, 2*5) and the bias 1 is
    added; the gradients are those for an output gradient of (1, 2, 3).

    Returns:
        None, or a sentence that says which operator is wrong.
    """

    def row(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, 1, 1, 1, -1)

    x, w, gy = row(1, 2), row(3, 5), row(1, 2, 3)
    bias = torch.ones(1, device=device)
    geometry = ([1, 1, 1], [0, 0, 0], [0, 0, 0], 1, [1, 1, 1])
    ops = torch.ops.convt3d
    for name, found, expected in (
        ("forward", ops.forward(x, w, bias), (4, 12, 11)),
        ("grad_input", ops.grad_input(gy, w, *geometry), (13, 21)),
        ("grad_weight", ops.grad_weight(gy, x, *geometry), (5, 8)),
    ):
        values = found.flatten().tolist()
        if values != [float(value) for value in expected]:
            return f"{name} gave {values} where {list(expected)} is right"
    return None


def _fault(device: torch.device) -> str | None:
    try:
        return self_check(device)
    except (RuntimeError, NotImplementedError) as error:
        return textwrap.shorten(str(error), 300)


def _computes(device: torch.device) -> bool:
    return device.type == "cpu" or _library.CUDA in _library.loaded


def _library_state(loaded: bool, exists: bool) -> str:
    if loaded:
        return "loaded"
    if not exists:
        return "not there, this build is CPU-only"
    return "not loaded, because this torch has no CUDA"


def _describe(device: torch.device) -> str:
    if device.type == "cpu":
        capability = torch.backends.cpu.get_cpu_capability()
        return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {capability}"
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory / 2**30
    return (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{memory:.0f} GiB"
    )


def _why_no_gpu() -> str:
    if not torch.backends.cuda.is_built():
        return "this torch is built without CUDA"
    return "torch has CUDA but sees no device"
