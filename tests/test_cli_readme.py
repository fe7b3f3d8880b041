"""The README's lines run, and what it points at exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import convt3d
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_lines_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    code = "\n".join(blocks) + "\nassert y.shape == (2, 32, 16, 16, 16)\n"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "layer.pt2").exists()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_paths_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^):]+)\)", text)
    folders = "csrc|docs|meta|ops|tests|benchmarks"
    named = re.findall(rf"`((?:{folders})/[\w./]*)`", text)
    assert named
    for path in links + named:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)\b", text)) & set(
        re.findall(r"(?:^    |`)make ([a-z-]+)", text, flags=re.MULTILINE)
    )
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("kernel, stride", [(2, 2), (3, 2), (3, 1)])
def test_results_repeat_bit_by_bit(kernel: int, stride: int, device: str) -> None:
    x = torch.randn(2, 12, 6, 10, 11, device=device)
    weight = torch.randn(12, 7, kernel, kernel, kernel, device=device)
    geometry = ([stride] * 3, [1, 1, 1], [0, 0, 0], 1, [1, 1, 1])
    first = None
    for _ in range(4):
        y = convt3d.conv_transpose3d(x, weight, None, *geometry)
        gx = torch.ops.convt3d.grad_input(y, weight, *geometry)
        gw = torch.ops.convt3d.grad_weight(y, x, *geometry)
        first = first or (y, gx, gw)
        for found, expected in zip((y, gx, gw), first, strict=True):
            assert torch.equal(found, expected)
