"""The demo, `python -m convt3d demo`: the operator's main job on a real MRI volume.

- `volume`    the scan, from the files that nibabel's wheel brings
- `upsample`  the operator called directly: trilinear 2x
- `decoder`   a super-resolution decoder trained under torch.compile
- `exported`  torch.export, saved, and reloaded in a new process
- `picture`   the PNG
- `cli`       runs the four and checks what they give
"""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m convt3d demo`; returns the exit status."""
    try:
        import matplotlib  # noqa: F401
        import nibabel  # noqa: F401
        import tqdm  # noqa: F401
    except ImportError as error:
        print(f"the demo needs {error.name}: pip install 'convt3d[demo]', or run `make demo`")
        return 2
    from convt3d.demo import cli

    return cli.main(argv)
