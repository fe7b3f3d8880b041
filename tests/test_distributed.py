"""The operators on several processes, and the arithmetic of windows on one."""

from __future__ import annotations

import distributed_checks
import distributed_models
import pytest
import torch
from conftest import SEED
from distributed_run import Check, run

CHECKS = [*distributed_checks.CHECKS, *distributed_models.CHECKS]
LIMIT = 120  # seconds until a group of processes is killed
_outcomes: dict[tuple[str, int], dict[str, str]] = {}


def outcome(check: Check, backend: str, ranks: int) -> str:
    """Of one check; the processes start once and run all of them."""
    if (backend, ranks) not in _outcomes:
        _outcomes[backend, ranks] = run(CHECKS, backend, ranks, SEED, LIMIT)
    return _outcomes[backend, ranks][check.__name__]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("ranks", [2, 4])
def test_gloo(ranks: int, check: Check) -> None:
    failure = outcome(check, "gloo", ranks)
    assert not failure, failure


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nccl(check: Check) -> None:
    failure = outcome(check, "nccl", min(torch.cuda.device_count(), 4))
    assert not failure, failure
