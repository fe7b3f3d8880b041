"""What makes a CUDA build fail: notes that only the compiler's output tells (cmake/nvcc.sh)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

GUARD = Path(__file__).resolve().parent.parent / "cmake" / "nvcc.sh"
HARMLESS = "ptxas info    : (C7519) warpgroup.arrive is injected in around line 7"


def compile_with(tmp_path: Path, *notes: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the guard around a stand-in for nvcc that writes an object and prints `notes`."""
    compiler = tmp_path / "compiler"
    lines = [f"echo '{note}' >&2" for note in notes]
    compiler.write_text("\n".join(["#!/bin/sh", 'touch "$3"', *lines, f"exit {status}", ""]))
    compiler.chmod(0o755)
    command = ["sh", str(GUARD), str(compiler), "-c", "-o", str(tmp_path / "x.o")]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)


def test_clean_compilation_passes(tmp_path: Path) -> None:
    done = compile_with(tmp_path, HARMLESS, "warning: a word from nvcc")
    assert done.returncode == 0
    assert done.stderr == "warning: a word from nvcc\n"
    assert (tmp_path / "x.o").exists()


@pytest.mark.parametrize(
    "note",
    [
        "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async are serialized",
        "ptxas info    : (C7517) warpgroup.wait is injected in around line 71 by compiler",
        "ptxas info    : (C7520) Potential Performance Loss",
    ],
)
def test_wgmma_held_up_fails(note: str, tmp_path: Path) -> None:
    done = compile_with(tmp_path, HARMLESS, note)
    assert done.returncode == 1
    assert note in done.stderr and "ptxas held up WGMMA" in done.stderr
    assert "C7519" not in done.stderr
    assert not (tmp_path / "x.o").exists(), "the next build would take it for done"


def test_failure_stays_the_compilers_own(tmp_path: Path) -> None:
    done = compile_with(tmp_path, "error: no such thing", status=3)
    assert (done.returncode, done.stderr) == (3, "error: no such thing\n")
