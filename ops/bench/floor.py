"""The least time a device could need for a case, from what it was measured to do.

    floor = max(2 * MACs / matmul rate,  (x + y + w) bytes / copy bandwidth)

Both rates are measured on the device at hand (`environment.measure_peaks`), so the floor is what
its own matrix multiplication and its own copy would take, not a data-sheet figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cases import Case

ITEM_BYTES = {"fp16": 2, "bf16": 2, "tf32": 4, "fp32": 4, "fp64": 8}
DTYPES = tuple(ITEM_BYTES)
# Measured unless told otherwise; in float64 some of PyTorch's convolutions take seconds a call.
DEFAULT_DTYPES = ("fp16", "bf16", "tf32", "fp32")


@dataclass(frozen=True)
class Floor:
    """A case's floor in milliseconds, with the two times it is the larger of."""

    ms: float
    math_ms: float
    memory_ms: float

    @property
    def bound(self) -> str:
        """Which of the two times is the floor, "math" or "memory"."""
        return "math" if self.math_ms >= self.memory_ms else "memory"


def tensor_bytes(case: Case, dtype: str) -> int:
    """Bytes of input, output and weight together."""
    return case.elements * ITEM_BYTES[dtype]


def floor(case: Case, dtype: str, tflops: float, copy_gbs: float) -> Floor:
    """The floor of every pass of `case`, from TFLOP/s of `dtype` and GB/s (read plus written).

    Forward, grad_input and grad_weight share it: each does the same products and touches the same
    three tensors once. Raises `ValueError` for rates that are not positive.
    """
    if tflops <= 0 or copy_gbs <= 0:
        raise ValueError(f"rates must be positive, not {tflops} TFLOP/s and {copy_gbs} GB/s")
    math_ms = 2 * case.macs / (tflops * 1e12) * 1e3
    memory_ms = tensor_bytes(case, dtype) / (copy_gbs * 1e9) * 1e3
    return Floor(max(math_ms, memory_ms), math_ms, memory_ms)
