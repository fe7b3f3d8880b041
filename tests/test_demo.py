"""The demo as a whole, and that its checks notice what they are there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("nibabel", reason="the demo's own requirements: pip install 'convt3d[demo]'")
pytest.importorskip("matplotlib", reason="the demo's own requirements: pip install 'convt3d[demo]'")
pytest.importorskip("tqdm", reason="the demo's own requirements: pip install 'convt3d[demo]'")

from convt3d.demo import cli, decoder, exported, upsample, volume


def test_scan_is_real() -> None:
    scan = volume.load()
    assert scan.shape == (1, 1, 24, 96, 128)
    assert scan.min() >= 0 and scan.max() == 1
    assert scan.unique().numel() > 500
    assert "128 x 96 x 24 voxels of 2.0 x 2.0 x 2.2 mm" in volume.description()


@pytest.mark.parametrize("channels", [1, 3])
def test_trilinear_upsampling(channels: int, device: str) -> None:
    x = torch.rand(2, channels, 4, 5, 6, device=device)
    weight = upsample.trilinear_weight(channels).to(device)
    y = upsample.upsample(x, weight)
    assert y.shape == (2, channels, 8, 10, 12)
    assert upsample.difference(x, y) <= cli.UPSAMPLING_TOLERANCE
    y[0, 0, 3, 4, 5] += 0.01
    assert upsample.difference(x, y) > cli.UPSAMPLING_TOLERANCE


def test_wrong_upsampling_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    right = upsample.trilinear_weight
    monkeypatch.setattr(upsample, "trilinear_weight", lambda: 1.001 * right())
    with pytest.raises(cli.DemoError, match=r"differs from F\.interpolate"):
        cli._upsample(volume.load())


def test_patches_belong_together() -> None:
    scan = volume.load()
    generator = torch.Generator().manual_seed(0)
    coarse, fine = decoder._patches(decoder.coarsen(scan), scan, generator)
    assert coarse.shape == (decoder.BATCH, 1, *decoder.PATCH)
    torch.testing.assert_close(decoder.coarsen(fine), coarse)


def test_export_keeps_the_operator() -> None:
    program = exported.export(decoder.Decoder(4), torch.rand(2, 1, 4, 5, 6))
    calls = exported.operator_calls(program)
    assert calls.count("convt3d.forward.default") == decoder.OPERATOR_CALLS
    assert not any("transpose" in call for call in calls)
    assert program.module()(torch.rand(1, 1, 3, 4, 7)).shape == (1, 1, 6, 8, 14)


def test_failure_of_the_new_process_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"the new process failed: .*nothing\.pt2"):
        exported.run_in_new_process(tmp_path / "nothing.pt2", tmp_path / "a", tmp_path / "b")


def test_backend_without_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(decoder.sysconfig, "get_path", lambda name: str(tmp_path))
    backend, reason = decoder.choose_backend()
    assert backend == "aot_eager"
    assert reason is not None and "Python.h is missing" in reason


def test_unknown_device_is_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["--device", "cuda:99", "--output", str(tmp_path)]) == 1
    assert "the demo failed: device 'cuda:99' cannot be used" in capsys.readouterr().err


def test_whole_demo(device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "convt3d", "demo", "--steps", "30"]
    process = subprocess.run(
        [*command, "--device", device, "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    for words in ("convt3d.forward.default", "differs from here by", "mean loss", "demo.png"):
        assert words in process.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
