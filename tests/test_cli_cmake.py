"""A C++ program outside the repository uses what `cmake --install` gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / f"cmake-{sys.platform}"


@pytest.mark.skipif(
    not (BUILD / "libconvt3d.so").exists() or not shutil.which("cmake"),
    reason="needs the build folder and cmake: an installed wheel has neither",
)
def test_find_package(tmp_path: Path) -> None:
    source = shutil.copytree(HERE / "cpp_user", tmp_path / "source")
    prefix, build = tmp_path / "prefix", tmp_path / "build"
    torch_root = Path(torch.__file__).parent
    for command in (
        ["cmake", "--install", BUILD, "--prefix", prefix],
        [
            *("cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Debug"),
            *(f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTORCH_ROOT={torch_root}"),
        ],
        ["cmake", "--build", build],
    ):
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
    found = subprocess.run([build / "cpp_user"], capture_output=True, text=True)
    assert found.stdout.split() == ["3", "11", "10"], found.stderr
