"""Export with dynamic sizes; run as a module it is the new process that loads what was saved."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram


def export(model: nn.Module, example: Tensor) -> ExportedProgram:
    """`model` for any batch and any depth, height and width.

    `example` is a ``(batch, 1, D, H, W)`` input with two samples or more, lest export take the
    batch of one for a constant.
    """
    sizes = {0: Dim("batch"), 2: Dim("depth"), 3: Dim("height"), 4: Dim("width")}
    return torch.export.export(model, (example,), dynamic_shapes=(sizes,))


def operator_calls(program: ExportedProgram) -> list[str]:
    """The graph's operators, in order, as ``namespace.name.overload``."""
    nodes = program.graph.nodes
    return [str(n.target) for n in nodes if isinstance(n.target, torch._ops.OpOverload)]


def run_in_new_process(program: Path, inputs: Path, outputs: Path) -> None:
    """Run the saved `program` on the saved list of tensors in a new Python process.

    Raises:
        RuntimeError: with the last line of what that process printed, where it fails.
    """
    command = [sys.executable, "-m", __name__, str(program), str(inputs), str(outputs)]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise RuntimeError(f"the new process failed: {lines[-1]}")


def main(argv: Sequence[str]) -> int:
    """The new process: ``program inputs outputs`` are files of torch.export and torch.save."""
    torch.backends.cudnn.allow_tf32 = False  # as in the process that compares
    program, inputs, outputs = argv
    model = torch.export.load(program).module()
    with torch.no_grad():
        torch.save([model(tensor) for tensor in torch.load(inputs)], outputs)
    return 0


if __name__ == "__main__":
    # `-m` has imported the package, and with it the operators that the program calls.
    raise SystemExit(main(sys.argv[1:]))
