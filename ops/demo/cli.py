"""Runs the demo's steps, checks what they give, and says so."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from . import decoder, exported, picture, upsample, volume

# float32 rounding of sums of eight values near 1, with room for another order of summation.
UPSAMPLING_TOLERANCE = 2e-6
# Two processes may split their work over threads differently.
RELOAD_TOLERANCE = 1e-4


class DemoError(RuntimeError):
    """A check that did not hold; the text says which."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns 0, or 1 with a sentence where a check does not hold."""
    options = _parse(argv)
    started = time.perf_counter()
    # The comparisons are of float32 results, whatever a GPU's default is.
    torch.backends.cudnn.allow_tf32 = False
    try:
        device = _device(options.device)
        options.output.mkdir(parents=True, exist_ok=True)
        path = _run(device, options.output, options.steps)
    except (DemoError, OSError) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
        return 1
    print(f"\npicture: {path.resolve()}  ({time.perf_counter() - started:.0f} s)")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m convt3d demo",
        description="The operator on a real MRI volume: called, trained with, exported, drawn.",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="(%(default)s)"
    )
    parser.add_argument(
        "--device", help="cpu, cuda, cuda:1, ... (default: cuda where there is one)"
    )
    parser.add_argument("--steps", type=int, default=250, help="training steps (%(default)s)")
    options = parser.parse_args(argv)
    if options.steps < 2:
        parser.error("--steps must be 2 or more")
    return options


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DemoError(f"device {name!r} cannot be used: {error}") from error
    return device


def _run(device: torch.device, output: Path, steps: int) -> Path:
    scan = volume.load().to(device)
    print(f"scan: {volume.description()}")
    print(f"device: {_name(device)}")

    print("\n1. torch.ops.convt3d.forward, called directly: 2x trilinear upsampling")
    upsampled = _upsample(scan)

    print("\n2. a decoder trained under torch.compile(fullgraph=True)")
    torch.manual_seed(0)
    model = decoder.Decoder().to(device)
    losses = _train(model, scan, steps)
    coarse = decoder.coarsen(scan)
    model.eval()
    with torch.no_grad():
        decoded = model(coarse)
    trilinear = F.interpolate(
        coarse, scale_factor=decoder.SCALE, mode="trilinear", align_corners=False
    )
    held_out = decoder.halves(scan)[1]
    quality = [decoder.psnr(decoder.halves(v)[1], held_out) for v in (trilinear, decoded)]
    print(
        f"   held-out half: F.interpolate {quality[0]:.2f} dB, decoder {quality[1]:.2f} dB (PSNR)"
    )

    print("\n3. exported with dynamic batch and spatial sizes, loaded in a new process")
    _export(model, coarse, output)

    path = output / "demo.png"
    results = picture.Results(
        scan=scan[0, 0].cpu(),
        upsampled=upsampled[0, 0].cpu(),
        coarse=coarse[0, 0].cpu(),
        trilinear=trilinear[0, 0].cpu(),
        decoded=decoded[0, 0].cpu(),
        losses=losses,
        trilinear_loss=F.mse_loss(decoder.halves(trilinear)[0], decoder.halves(scan)[0]).item(),
        psnr_trilinear=quality[0],
        psnr_decoded=quality[1],
    )
    picture.draw(results, path)
    return path


def _upsample(scan: Tensor) -> Tensor:
    upsampled = upsample.upsample(scan, upsample.trilinear_weight().to(scan.device))
    difference = upsample.difference(scan, upsampled)
    print(f"   {_size(scan)} -> {_size(upsampled)}")
    print(f"   largest difference from F.interpolate away from the border: {difference:.1e}")
    if not difference <= UPSAMPLING_TOLERANCE:
        raise DemoError(f"upsampling differs from F.interpolate by {difference}")
    return upsampled


def _train(model: torch.nn.Module, scan: Tensor, steps: int) -> list[float]:
    backend, reason = decoder.choose_backend()
    if reason:
        print(f"   {reason}")
    print(f"   {steps} steps on one half of the scan, backend {backend}; the first one compiles")
    training, _ = decoder.halves(scan)
    losses: list[float] = []
    interval = 0.1 if sys.stdout.isatty() else 5.0  # seconds between redraws: a log keeps them all
    with tqdm(
        total=steps, unit="step", ncols=90, file=sys.stdout, mininterval=interval, maxinterval=60
    ) as bar:
        for loss in decoder.train(model, training, steps, backend):
            losses.append(loss)
            bar.set_postfix(loss=f"{loss:.5f}", refresh=False)
            bar.update()
    tenth = max(1, steps // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    print(f"   mean loss: first {tenth} steps {first:.5f}, last {tenth} steps {last:.5f}")
    if not last < first:
        raise DemoError("the loss did not fall")
    return losses


def _export(model: torch.nn.Module, coarse: Tensor, output: Path) -> None:
    program = exported.export(model, torch.cat([coarse, coarse]))
    calls = exported.operator_calls(program)
    print(f"   graph: {' -> '.join(calls)}")
    if calls.count("convt3d.forward.default") != decoder.OPERATOR_CALLS:
        raise DemoError("the graph does not have every call of convt3d.forward.default")

    # Other batches and sizes than the program was exported with.
    inputs = [coarse, coarse[..., 2:9, 3:16, :18].expand(3, -1, -1, -1, -1).contiguous()]
    files = [output / name for name in ("decoder.pt2", "inputs.pt", "outputs.pt")]
    torch.export.save(program, files[0])
    torch.save(inputs, files[1])
    try:
        exported.run_in_new_process(*files)
    except RuntimeError as error:
        raise DemoError(str(error)) from error
    outputs = torch.load(files[2])
    for tensor, found in zip(inputs, outputs, strict=True):
        with torch.no_grad():
            here = model(tensor)
        difference = (found - here).abs().max().item()
        print(f"   {_size(tensor)} -> {_size(found)}: differs from here by {difference:.1e}")
        if found.shape != here.shape or not difference <= RELOAD_TOLERANCE:
            raise DemoError("the reloaded program computes something else")
    print(f"   saved: {files[0]} ({files[0].stat().st_size / 1024:.0f} KiB)")


def _size(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"
