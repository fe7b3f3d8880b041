"""Memory full of NaN, so that an element nobody wrote or a read past the end shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def poisoned_allocations() -> Iterator[None]:
    """Every uninitialised tensor, results and scratch memory alike, starts as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def poison_freed_memory(device: str, sizes: tuple[int, ...] = (2**12, 2**16, 2**20, 2**24)) -> None:
    """Fills blocks of several sizes with NaN and frees them, for the next allocations to get."""
    blocks = [torch.full((size // 4,), float("nan"), device=device) for size in sizes]
    del blocks
