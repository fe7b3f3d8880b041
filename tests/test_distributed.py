"""The operators on several processes, and the arithmetic of windows on one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import distributed_checks
import distributed_models
import pytest
import torch
from conftest import SEED
from distributed_run import Check, run

CHECKS = [*distributed_checks.CHECKS, *distributed_models.CHECKS]
LIMIT = 150  # seconds until a group of processes is killed
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


def test_scaling_is_measured_on_any_machine(tmp_path: Path) -> None:
    options = "--device cpu --ranks 2 --volume 3 4 4 --dtype float32 --calls 1 --repeats 1"
    command = [sys.executable, "-m", "convt3d.distributed.scaling", *options.split()]
    result = tmp_path / "scaling.json"
    subprocess.run([*command, "--output", str(result)], check=True, timeout=LIMIT)
    report = json.loads(result.read_text())
    assert report["ranks"] == 2 and report["strong"]["volume"] == [3, 4, 4]
    assert report["weak"]["volume"] == [6, 4, 4]
    for kind, share in (("strong", 2), ("weak", 1)):
        for name, seconds in report[kind]["seconds"].items():
            efficiency = report["one rank"]["seconds"][name] / seconds / share
            assert report[kind]["efficiency"][name] == pytest.approx(efficiency, abs=1e-3)
        assert len(report[kind]["peak_memory_bytes"]) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("ranks", [2, 4])
def test_nccl(ranks: int, check: Check) -> None:
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"needs {ranks} GPUs")
    failure = outcome(check, "nccl", ranks)
    assert not failure, failure
