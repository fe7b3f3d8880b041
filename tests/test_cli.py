"""`python -m convt3d`: commands, `info`, and what is said when the package is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import convt3d
import pytest
import torch
from convt3d import __main__, info

PACKAGE = Path(convt3d.__file__).parent


def test_info_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["info"]) == 0
    text = capsys.readouterr().out
    for words in (convt3d.__version__, torch.__version__, "libconvt3d.so: loaded", "cpu: "):
        assert words in text
    assert text.count("self-check passed") >= 1


@pytest.mark.gpu
def test_info_names_every_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["info"]) == 0
    text = capsys.readouterr().out
    for index in range(torch.cuda.device_count()):
        assert f"cuda:{index}: {torch.cuda.get_device_name(index)}, compute capability" in text
    assert text.count("self-check passed") == 1 + torch.cuda.device_count()


def test_self_check(device: str) -> None:
    assert info.self_check(torch.device(device)) is None


@pytest.mark.parametrize("name", ["forward", "grad_input", "grad_weight"])
def test_info_reports_an_operator_that_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = getattr(torch.ops.convt3d, name)
    monkeypatch.setattr(torch.ops.convt3d, name, lambda *args: 2 * right(*args))
    assert info.main([]) == 1
    assert f"convt3d is broken on cpu: {name} gave [" in capsys.readouterr().out


def test_info_reports_an_operator_that_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: object) -> torch.Tensor:
        raise RuntimeError("no kernel for this GPU")

    monkeypatch.setattr(torch.ops.convt3d, "forward", refuse)
    assert info.main([]) == 1
    assert "convt3d is broken on cpu: no kernel for this GPU" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nothing"]])
def test_unknown_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    text = capsys.readouterr().err
    assert "usage: python -m convt3d" in text
    assert not arguments or "no command 'nothing'" in text


@pytest.mark.parametrize("command", ["info", "plan", "demo", "bench"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command == "demo":
        pytest.importorskip("nibabel")
    with pytest.raises(SystemExit) as stopped:
        __main__.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m convt3d {command}" in capsys.readouterr().out


@pytest.mark.parametrize("library", [None, b"no library"])
def test_missing_or_unfit_library_is_one_sentence(library: bytes | None, tmp_path: Path) -> None:
    """A package without its library, or with one that cannot be loaded."""
    shutil.copytree(PACKAGE, tmp_path / "convt3d", ignore=shutil.ignore_patterns("*.so", "bench"))
    if not (tmp_path / "convt3d" / "meta").exists():  # an editable installation has it elsewhere
        shutil.copytree(PACKAGE.parent / "meta", tmp_path / "convt3d" / "meta")
    folder = tmp_path / "convt3d" / "lib"
    folder.mkdir(exist_ok=True)
    if library is not None:
        (folder / "libconvt3d.so").write_bytes(library)
    process = subprocess.run(
        [sys.executable, "-m", "convt3d", "info"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    expected = (
        "convt3d is not built" if library is None else "libconvt3d.so does not fit this torch"
    )
    assert expected in process.stderr
