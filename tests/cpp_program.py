"""Builds a program of `cpp_user` against what `cmake --install` gives."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / f"cmake-{sys.platform}"

needs_build = pytest.mark.skipif(
    not (BUILD / "libconvt3d.so").exists() or not shutil.which("cmake"),
    reason="needs the build folder and cmake: an installed wheel has neither",
)


def build(program: str, folder: Path) -> Path:
    """Path of the built `program`; `folder` gets its sources, the installation and the build."""
    source = shutil.copytree(HERE / "cpp_user", folder / "source")
    prefix, build = folder / "prefix", folder / "build"
    torch_root = Path(torch.__file__).parent
    for command in (
        ["cmake", "--install", BUILD, "--prefix", prefix],
        [
            *("cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Debug"),
            *(f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTORCH_ROOT={torch_root}"),
        ],
        ["cmake", "--build", build, "--target", program],
    ):
        process = subprocess.run(command, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout + process.stderr
    return build / program
