"""`python -m convt3d bench`: run, and what is made of results.

bench [options]                    measure; see --help
bench merge a.json b.json -o c.json    one result of several
bench compare old.json new.json    what got slower; exits 1 if anything did
bench report result.json           the Markdown summary
bench figures result.json          pictures, and the README's table and figure
bench list                         the cases
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import cases as case_list
from . import compare as comparison
from . import display, peers, plots, report, results, runner
from .floor import DEFAULT_DTYPES, DTYPES
from .problem import BASIC_PASSES, LAYOUTS, PASSES

_RESULTS = Path("benchmarks/results")
_QUICK_BUDGET_MS = 20.0
_QUICK_LIMIT_S = 50.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `python -m convt3d bench`; `argv` is what follows `bench`.

    Returns 0; 1 where a comparison found something slower or a row of ours failed; 2 for bad input.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments.pop(0) if arguments and arguments[0] in _COMMANDS else "run"
    add, act = _COMMANDS[name]
    prog = "python -m convt3d bench" + (f" {name}" if name != "run" else "")
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add(parser)
    options = parser.parse_args(arguments)
    try:
        return act(options)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; --resume goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a measuring run."""
    parser.add_argument(
        "--cases",
        action="append",
        metavar="WORDS",
        help='names, groups and globs, comma-separated, or one shape as "n,c,d,h,w -> cout k3 s2 '
        'p1 op1 g1 d1"; may be repeated (default: the public cases on a GPU, group cpu on a CPU)',
    )
    parser.add_argument(
        "--dtypes",
        type=_choices(DTYPES),
        help=f"of {', '.join(DTYPES)} (default on a GPU: all but fp64)",
    )
    parser.add_argument("--layouts", type=_choices(LAYOUTS), help=f"of {', '.join(LAYOUTS)}")
    parser.add_argument(
        "--passes",
        type=_choices(PASSES, all=PASSES),
        help=f"of {', '.join(PASSES)}, or all (default: the first three; step is the module's "
        "training step, step_compiled the same under torch.compile, which costs seconds a cell)",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), help="default: cuda where there is one"
    )
    parser.add_argument(
        "--alternatives",
        type=_choices(peers.ALTERNATIVES, all=peers.ALTERNATIVES, none=()),
        default=peers.QUICK_ALTERNATIVES,
        help=f"of {', '.join(peers.ALTERNATIVES)}, or all or none (default: the first two; "
        "compiled costs seconds a cell)",
    )
    parser.add_argument(
        "--alternative-dtypes",
        type=_choices(DTYPES, all=DTYPES),
        metavar="DTYPES",
        help="dtypes in which the alternatives run, or all (default: one, bf16 if it is measured)",
    )
    parser.add_argument(
        "--budget", type=float, metavar="MS", help="most time for a row's repeats (100)"
    )
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="most for a row")
    parser.add_argument(
        "--time-limit",
        type=float,
        metavar="S",
        help="stop before the first row that would start later; go on with --resume "
        f"(default: none; {_QUICK_LIMIT_S:g} with --quick)",
    )
    parser.add_argument("--quick", action="store_true", help="few cases, done in a minute")
    parser.add_argument("--no-cold-start", action="store_true", help="leave out the cold start")
    parser.add_argument("--resume", action="store_true", help="keep the rows --output already has")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help=f"the JSON file; .md goes next to it (default: {_RESULTS}/<device>-<date>.json)",
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="also draw the pictures there")
    parser.add_argument("--compare", type=Path, metavar="OLD", help="exit 1 if slower than OLD")
    parser.add_argument("--commit", help="what to note as the commit where there is no checkout")


def _choices(known: Sequence[str], **words: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names of `known`, or one of `words` for several."""

    def parse(text: str) -> tuple[str, ...]:
        if text in words:
            return words[text]
        names = tuple(filter(None, text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _run(options: argparse.Namespace) -> int:
    import torch

    from . import environment

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = _settings(options, device)
    path = options.output or _default_path(environment.device_name(torch.device(device)))
    old = results.load(options.compare) if options.compare else None
    started = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    if options.resume and path.exists():
        result = results.load(path)
    else:
        result = runner.empty_result(settings, started)

    with runner.Run(settings, result, path) as run:
        print(f"{len(run.pending)} cells on {device}; result in {path}", flush=True)
        if run.pending:
            run.probe()
        if options.commit:
            result["environment"]["commit"] = options.commit
        with display.choose(len(run.pending)) as view:
            measured = runner.run_all(run, view.show)
        complete = measured == len(run.pending)
        if complete and not options.no_cold_start and not result["cold_start"]:
            count = 1 if options.quick else 2
            result["cold_start"] = environment.measure_cold_start(torch.device(device), count)
    if not complete:
        print(f"stopped after {measured} of {len(run.pending)} cells; --resume measures the rest")
    return _finish(result, path, options.figures, old)


def _settings(options: argparse.Namespace, device: str) -> runner.Settings:
    on_gpu = device == "cuda"
    quick = case_list.QUICK if on_gpu else case_list.QUICK_CPU
    wanted = options.cases or ([",".join(quick)] if options.quick else None)
    chosen = case_list.select(wanted) if wanted else None
    if chosen is None:
        chosen = list(case_list.PUBLIC if on_gpu else case_list.CPU)
    dtypes = options.dtypes or (("bf16",) if options.quick else DEFAULT_DTYPES)
    if not on_gpu:
        dtypes = options.dtypes or ("fp32",)
        if "tf32" in dtypes:
            raise ValueError("tf32 is a GPU's float32 mode; on a CPU use fp32")
    if options.alternative_dtypes is None:
        alternative_dtypes = ("bf16",) if "bf16" in dtypes else dtypes[:1]
    else:
        alternative_dtypes = options.alternative_dtypes
    limit = options.time_limit
    if limit is None:
        limit = _QUICK_LIMIT_S if options.quick else float("inf")
    return runner.Settings(
        cases=tuple(chosen),
        dtypes=dtypes,
        layouts=options.layouts or LAYOUTS,
        passes=options.passes or BASIC_PASSES,
        device=device,
        budget_ms=options.budget or (_QUICK_BUDGET_MS if options.quick else 100.0),
        timeout_s=options.timeout,
        time_limit_s=limit,
        alternatives=options.alternatives,
        alternative_dtypes=alternative_dtypes,
    )


def _default_path(device: str) -> Path:
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return _RESULTS / f"{slug}-{datetime.date.today().isoformat()}.json"


def _finish(result: dict, path: Path, figures: Path | None, old: dict | None) -> int:
    """Write the report (and pictures), print the summary, compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(report.markdown(result), encoding="utf-8")
    print(report.summary_table(result))
    broken = [row for row in results.failures(result) if row["impl"] == report.OURS]
    for row in broken:
        print(f"{row['status']}: {' '.join(results.key_of(row))}: {row['message']}")
    if figures is not None:
        _draw(result, figures, None, None, old)
    code = 1 if broken else 0
    if old is not None:
        found = comparison.compare(old, result)
        print(comparison.text(found))
        code = max(code, found.exit_code)
    return code


def _draw(
    result: dict, folder: Path, dtype: str | None, pass_name: str | None, old: dict | None
) -> Path:
    """Draw all pictures of `result` into `folder`; returns the speed-up's file."""
    dtype = dtype or plots.default_dtype(result)
    pass_name = pass_name or plots.default_pass(result)
    drawn = [
        plots.speedup(result, folder / f"speedup_{pass_name}_{dtype}.png", dtype, pass_name),
        plots.roofline(result, folder / f"roofline_{pass_name}_{dtype}.png", dtype, pass_name),
    ]
    if old is not None:
        target = folder / f"before_after_{pass_name}_{dtype}.png"
        try:
            drawn.append(plots.before_after(old, result, target, dtype, pass_name))
        except ValueError as nothing_shared:
            print(f"no {target.name}: {nothing_shared}")
    for file in drawn:
        print(file)
    return drawn[0]


def _add_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)


def _merge(options: argparse.Namespace) -> int:
    merged = results.merge([results.load(path) for path in options.results])
    results.save(merged, options.output)
    return _finish(merged, options.output, None, None)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)


def _compare(options: argparse.Namespace) -> int:
    found = comparison.compare(results.load(options.old), results.load(options.new))
    print(comparison.text(found))
    return found.exit_code


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", type=Path)


def _report(options: argparse.Namespace) -> int:
    print(report.markdown(results.load(options.result)), end="")
    return 0


def _add_figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/figures"), metavar="DIR")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bf16 where it was measured")
    parser.add_argument(
        "--pass", dest="pass_name", choices=PASSES, help="default: forward where it was measured"
    )
    parser.add_argument("--compare", type=Path, metavar="OLD", help="also draw before and after")
    parser.add_argument("--readme", type=Path, help="also rewrite the block between its markers")


def _figures(options: argparse.Namespace) -> int:
    result = results.load(options.result)
    old = results.load(options.compare) if options.compare else None
    figure = _draw(result, options.output, options.dtype, options.pass_name, old)
    if options.readme:
        link = figure.resolve().relative_to(options.readme.resolve().parent).as_posix()
        text = options.readme.read_text(encoding="utf-8")
        block = report.readme_block(result, link)
        options.readme.write_text(report.replace_block(text, block), encoding="utf-8")
    return 0


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", help="names, groups, globs or shapes (default: all)")


def _list(options: argparse.Namespace) -> int:
    chosen = case_list.select(options.words) if options.words else case_list.CASES
    for case in chosen:
        print(f"{case.group:12} {case.name:16} {case.shape:44} {2 * case.macs / 1e9:9.2f} GFLOP")
    return 0


_COMMANDS: dict[
    str,
    tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]],
] = {
    "run": (add_arguments, _run),
    "merge": (_add_merge, _merge),
    "compare": (_add_compare, _compare),
    "report": (_add_report, _report),
    "figures": (_add_figures, _figures),
    "list": (_add_list, _list),
}


if __name__ == "__main__":
    raise SystemExit(main())
