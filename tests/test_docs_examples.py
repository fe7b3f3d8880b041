"""Every Python example of the documentation runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Leaves without finalizing Python, which stops a thread of gloo that still has a tensor to release
# in the midst of C++ code, so that the process aborts (1 in 50 runs of PyTorch alone, loaded).
LEAVE = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXAMPLES = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in sorted(DOCS.glob("*.md"))
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
]


@pytest.mark.parametrize("block", EXAMPLES)
def test_example_runs(block: str, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", block + LEAVE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


def test_examples_are_short() -> None:
    for page in DOCS.glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
            assert len(block.splitlines()) <= 15, page.name
