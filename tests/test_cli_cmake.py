"""A C++ program outside the repository uses what `cmake --install` gives."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cpp_program import build, needs_build


@needs_build
def test_find_package(tmp_path: Path) -> None:
    found = subprocess.run([build("cpp_user", tmp_path)], capture_output=True, text=True)
    assert found.stdout.split() == ["3", "11", "10"], found.stderr
