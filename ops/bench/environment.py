"""The machine: device and versions, clocks, measured peaks, launch floor, cold start."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from . import timing
from .floor import DTYPES
from .problem import TORCH_DTYPES, set_float32_precision

_PEAK_BUDGET_MS = 300.0
_PEAK_PAIRS = 3
_LAUNCHES = 500


def device_name(device: torch.device) -> str:
    """Marketing name of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(device: torch.device) -> dict:
    """Device, versions and commit, as the result file's `environment`."""
    found: dict[str, object] = {
        "device": device_name(device),
        "device_type": device.type,
        "convt3d": _package_version(),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "driver": _driver_version(),
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 2**30, 1),
            "l2_mb": round(properties.L2_cache_size / 2**20, 1),
        }
    return found


def _package_version() -> str:
    import convt3d

    return getattr(convt3d, "__version__", "unknown")


def _commit() -> str | None:
    """Commit of the checkout that this package runs from, with `+` for local changes."""
    file = Path(__file__).resolve()
    # An installed package may lie inside the checkout of another project.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return None
    options = ("--always", "--abbrev=12", "--dirty=+", "--exclude=*")
    return _git(file.parent, "describe", *options)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, or None where it fails or is missing."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _driver_version() -> str | None:
    library = _nvml()
    text = ctypes.create_string_buffer(96)
    if library is None or library.nvmlSystemGetDriverVersion(text, 96):
        return None
    return text.value.decode()


def _nvml() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library


class Clocks:
    """Clock of the multiprocessors in MHz, read through NVML; None where there is no NVML."""

    _SM = 1

    def __init__(self, device: torch.device) -> None:
        self._library = _nvml() if device.type == "cuda" else None
        self._handle = ctypes.c_void_p()
        if self._library is not None:
            uuid = str(torch.cuda.get_device_properties(device).uuid).removeprefix("GPU-")
            name = ctypes.c_char_p(f"GPU-{uuid}".encode())
            if self._library.nvmlDeviceGetHandleByUUID(name, ctypes.byref(self._handle)):
                self._library = None

    def read(self) -> int | None:
        """The clock now."""
        if self._library is None:
            return None
        clock = ctypes.c_uint()
        failed = self._library.nvmlDeviceGetClockInfo(self._handle, self._SM, ctypes.byref(clock))
        return None if failed else clock.value


def measure_peaks(device: torch.device, dtypes: tuple[str, ...]) -> dict:
    """Matmul TFLOP/s of each dtype and copy GB/s (bytes read plus bytes written).

    Square matrices of 8192 (1024 on a CPU) with normal entries, because the power that random data
    draws sets the clock; a copy of 1 GiB (64 MiB). The matmul rate is the best of three pairs of
    matrices: on an H200 one pair measured alone gave either of two rates, 15 % apart.
    """
    on_gpu = device.type == "cuda"
    size = 8192 if on_gpu else 1024
    peaks: dict[str, float] = {}
    for dtype in (name for name in DTYPES if name in dtypes):
        set_float32_precision(dtype)
        pairs = []
        for _ in range(_PEAK_PAIRS):
            pair = [torch.randn(size, size, device=device).to(TORCH_DTYPES[dtype]) for _ in "ab"]
            pairs.append(pair)
            torch.mm(*pair)
            budget = _PEAK_BUDGET_MS / _PEAK_PAIRS
            took = timing.measure(torch.mm, [tuple(pair)], device, budget, graph=False)
            rate = 2 * size**3 / took.median_ms / 1e9
            peaks[dtype] = max(rate, peaks.get(dtype, 0.0))
        del pairs  # kept until here, so that each pair has memory of its own
    source = torch.randn((2**28 if on_gpu else 2**24), device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    took = timing.measure(target.copy_, [(source,)], device, _PEAK_BUDGET_MS, graph=False)
    peaks["copy_gbs"] = 2 * source.nbytes / took.median_ms / 1e6
    return peaks


def measure_launch_floor(device: torch.device) -> float | None:
    """Microseconds from one empty kernel to the next in a CUDA graph; None on a CPU.

    The kernel is `torch.cuda._sleep(0)`: one thread that reads the clock and returns.
    """
    if device.type != "cuda":
        return None
    graph = timing.capture([lambda: torch.cuda._sleep(0)], _LAUNCHES)
    if graph is None:
        return None
    samples = timing.replay_samples(graph, 20)
    return timing.summarize(samples, _LAUNCHES, "graph").median_ms * 1e3 / _LAUNCHES


_COLD_START = """
import time
start = time.perf_counter()
import torch
{imports}
imported = time.perf_counter()
x = torch.randn(1, 8, 8, 8, 8, device={device!r})
weight = torch.randn(8, 8, 3, 3, 3, device={device!r})
float({call}.sum())
print(imported - start, time.perf_counter() - imported)
"""


def measure_cold_start(device: torch.device, runs: int = 2) -> dict:
    """Seconds from the start of a fresh process to a first small result, for us and for PyTorch.

    The better of `runs` processes each, taken in turn: the first one also fills the file cache.
    """
    scripts = {
        "convt3d": _COLD_START.format(
            imports="import convt3d",
            device=device.type,
            call="torch.ops.convt3d.forward(x, weight, None, 2, 1, 1)",
        ),
        "torch": _COLD_START.format(
            imports="",
            device=device.type,
            call="torch.nn.functional.conv_transpose3d(x, weight, None, 2, 1, 1)",
        ),
    }
    best: dict[str, dict[str, float]] = {}
    for _ in range(runs):
        for name, script in scripts.items():
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                timeout=300,
                env=os.environ,
            )
            total = time.perf_counter() - start
            if done.returncode:
                continue
            imported, first = map(float, done.stdout.split()[-2:])
            found = {"total_s": total, "import_s": imported, "first_result_s": first}
            if name not in best or total < best[name]["total_s"]:
                best[name] = found
    return best
