"""`python -m convt3d info | plan | demo | bench`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

_USAGE = """usage: python -m convt3d <command> [options]

commands:
  info    versions, libraries, devices, and what runs where; exits 1 if something is broken
  plan    which kernel a shape would run on a GPU, with which tiles, and why; needs no GPU
  demo    the operator on a real MRI volume: called, trained with, exported, reloaded, drawn
  bench   measure against PyTorch; draw and compare results

`python -m convt3d <command> --help` tells a command's options."""


def _info() -> Callable[[Sequence[str]], int]:
    from convt3d import info

    return info.main


def _plan() -> Callable[[Sequence[str]], int]:
    from convt3d import plan

    return plan.main


def _demo() -> Callable[[Sequence[str]], int]:
    from convt3d import demo

    return demo.main


def _bench() -> Callable[[Sequence[str]], int]:
    from convt3d.bench import cli

    return cli.main


# Imported only when asked for: the demo and the benchmark have requirements of their own.
_COMMANDS = {"info": _info, "plan": _plan, "demo": _demo, "bench": _bench}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status, 2 for a command that does not exist."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if not arguments or arguments[0] not in _COMMANDS:
        if arguments:
            print(f"python -m convt3d: no command {arguments[0]!r}", file=sys.stderr)
        print(_USAGE, file=sys.stderr)
        return 2
    return _COMMANDS[arguments[0]]()(arguments[1:])


if __name__ == "__main__":
    raise SystemExit(main())
