"""Devices, seeds and the ``gpu`` marker."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import torch

SEED = int(os.environ.get("CONVT3D_TEST_SEED", "0"))


def pytest_report_header() -> str:
    return f"convt3d: torch {torch.__version__}, CONVT3D_TEST_SEED={SEED}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    selected = [item for item in items if item.get_closest_marker("gpu") is None]
    config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("gpu")])
    items[:] = selected


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def seed() -> int:
    """Seed of a test's own random values; CONVT3D_TEST_SEED moves all of them."""
    return SEED


@pytest.fixture(autouse=True)
def _reproducible() -> Iterator[None]:
    random.seed(SEED)
    torch.manual_seed(SEED)
    # float32 as float32, save where a test asks for TF32. Through the older setting, because
    # PyTorch's own readers of it (torch.export among them) raise once the newer one differs.
    # PyTorch's testing tools freeze both on import; this lifts it.
    with torch.backends.__allow_nonbracketed_mutation():
        settings = [getattr(torch.backends.cudnn, name) for name in ("conv", "rnn")]
        before = [setting.fp32_precision for setting in settings]
        torch.backends.cudnn.allow_tf32 = False
        yield
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
