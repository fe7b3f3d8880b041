"""`python -m convt3d plan`: what a call would run on a GPU, and why.

The plans come from the library and are the ones that its CUDA kernels use. They are made on the
CPU: no GPU is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from convt3d import _library
from convt3d.bench.cases import Case, select
from convt3d.bench.floor import floor
from convt3d.bench.problem import BASIC_PASSES, LAYOUTS

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "tf32": "float32", "fp32": "float32"} | {
    "fp64": "float64"
}


@dataclass(frozen=True)
class Gpu:
    """What plans, predictions and floors need to know of a GPU.

    `limits`: multiprocessors, bytes of shared memory per block and per multiprocessor, has WGMMA.
    `clock_mhz` is the one under load; `tflops` are rates of matrix products by dtype.
    """

    name: str
    limits: tuple[int, int, int, int]
    clock_mhz: float
    copy_gbs: float
    tflops: Mapping[str, float] = field(default_factory=dict)


GPUS = {
    # Rates: the benchmark's measured peaks (benchmarks/results); fp64 from the data sheet.
    "h200": Gpu(
        "NVIDIA H200",
        (132, 232448, 233472, 1),
        1700,
        4255.75,
        {"fp16": 767.978, "bf16": 798.173, "tf32": 413.923, "fp32": 51.3013, "fp64": 67.0},
    ),
    # Rates from the data sheet.
    "a100": Gpu(
        "NVIDIA A100",
        (108, 166912, 167936, 0),
        1410,
        2039,
        {"fp16": 312.0, "bf16": 312.0, "tf32": 156.0, "fp32": 19.5, "fp64": 19.5},
    ),
}


def present_gpu(dtype: str) -> Gpu | None:
    """The current GPU; its rates are measured, in about a second, unless `GPUS` knows them."""
    if not torch.cuda.is_available() or _library.CUDA not in _library.loaded:
        return None
    from convt3d.bench import environment

    index = torch.cuda.current_device()
    device = torch.device("cuda", index)
    name = torch.cuda.get_device_name(device)
    limits = tuple(torch.ops.convt3d._device_limits(index))
    known = next((gpu for key, gpu in GPUS.items() if key in name.lower()), None)
    if known is not None:
        return Gpu(name, limits, known.clock_mhz, known.copy_gbs, known.tflops)
    clocks = environment.Clocks(device)
    peaks = environment.measure_peaks(device, (dtype,))
    clock = clocks.read() or GPUS["h200"].clock_mhz
    rates = {key: rate for key, rate in peaks.items() if key != "copy_gbs"}
    return Gpu(name, limits, clock, peaks["copy_gbs"], rates)


def plan(
    case: Case, dtype: str, layout: str, operator: str, gpu: Gpu, *, alternatives: bool = False
) -> dict[str, Any]:
    """What `operator` would run on dense tensors of `layout`, as `--json` prints it.

    `engines` has an entry for each engine, in the order in which they are asked: `chosen`, the
    `refusal` (None: it would take the problem), the `plan` that it would run with (None: it cannot,
    or has no tiles to plan), `predicted_ms` (None: no cost model) and the `reason`. `alternatives`
    adds the list of that name, the best plan of each kind. Raises `RuntimeError` where the sizes do
    not fit.
    """
    text = torch.ops.convt3d._plan(
        operator,
        _DTYPES[dtype],
        case.input,
        case.weight,
        case.stride,
        case.padding,
        case.output_padding,
        case.groups,
        case.dilation,
        channels_last=layout == "channels_last_3d",
        tf32=dtype == "tf32",
        device=gpu.limits,
        alternatives=alternatives,
    )
    engines, others = [], []
    asked = json.loads(text)
    chosen = next(entry for entry in asked if entry["chosen"])
    for entry in asked:
        engine = {key: entry[key] for key in ("engine", "chosen", "refusal")}
        engines.append(engine | _costed(entry["plan"], gpu) | {"reason": _reason(entry, asked)})
        for facts in entry["alternatives"]:
            is_run = entry["chosen"] and facts == entry["plan"]
            others.append({"engine": entry["engine"], "chosen": is_run} | _costed(facts, gpu))
    result = {
        "case": case.name,
        "shape": case.shape,
        "dtype": dtype,
        "layout": layout,
        "pass": operator,
        "gpu": gpu.name,
        "engine": chosen["engine"],
        **_costed(chosen["plan"], gpu),
        "floor": _floor(case, dtype, gpu),
        "engines": engines,
    }
    if alternatives:
        result["alternatives"] = sorted(others, key=lambda entry: entry["predicted_ms"])
    return result


def _costed(facts: dict[str, Any] | None, gpu: Gpu) -> dict[str, Any]:
    if facts is None:
        return {"predicted_ms": None, "plan": None}
    return {"predicted_ms": round(facts["clocks"] / gpu.clock_mhz / 1e3, 6), "plan": facts}


def _reason(entry: dict[str, Any], asked: list[dict[str, Any]]) -> str:
    if entry["chosen"]:
        order = ", ".join(other["engine"] for other in asked)
        return f"the first of {order} that takes the problem"
    if entry["refusal"] is None:
        taken = next(other["engine"] for other in asked if other["chosen"])
        return f"not asked: {taken} takes the problem"
    return f"{'not taken' if entry['plan'] else 'refused'}, because {entry['refusal']}"


def _floor(case: Case, dtype: str, gpu: Gpu) -> dict[str, Any] | None:
    if dtype not in gpu.tflops:
        return None
    found = floor(case, dtype, gpu.tflops[dtype], gpu.copy_gbs)
    return {
        "ms": round(found.ms, 6),
        "math_ms": round(found.math_ms, 6),
        "memory_ms": round(found.memory_ms, 6),
        "bound": found.bound,
    }


# ---- Text ---------------------------------------------------------------------------------------
# What every plan has is printed in words, the rest as key=value.
_COMMON = ("clocks", "tile", "items", "blocks", "waves", "stages", "chunks", "splits")
_BYTES = ("shared_bytes", "packed_bytes", "workspace_bytes")


def _time(ms: float | None) -> str:
    return "no cost model" if ms is None else f"predicted {ms:.4f} ms"


def _tile(facts: dict[str, Any]) -> str:
    return "x".join(map(str, facts["tile"]))


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _size(number: int) -> str:
    return f"{number / 1024:.1f} KiB" if number >= 1024 else f"{number} bytes"


def _rest(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{key}={'x'.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in facts.items()
        if key not in (*_COMMON, *_BYTES)
    )


def report(found: dict[str, Any]) -> str:
    """The result of `plan` in words."""
    lines = [f"{found['pass']}, {found['layout']}: {found['engine']}"]
    if found["plan"] is None:
        lines[0] += ": no cost model, no tiles"
    else:
        facts = found["plan"]
        lines[0] += f", {_time(found['predicted_ms'])}"
        if found["floor"]:
            lines[0] += f", {found['predicted_ms'] / found['floor']['ms']:.2f} x floor"
        counts = [_count(facts[name], name[:-1]) for name in ("stages", "chunks", "splits")]
        lines += [
            f"  tile {_tile(facts)}, {_count(facts['items'], 'item')} in "
            f"{_count(facts['blocks'], 'block')}, {_count(facts['waves'], 'wave')}",
            f"  {', '.join(counts)}",
            f"  shared memory {_size(facts['shared_bytes'])}, packed weights "
            f"{_size(facts['packed_bytes'])}, workspace {_size(facts['workspace_bytes'])}",
            f"  {_rest(facts)}",
        ]
    for entry in found["engines"]:
        able = entry["plan"] is not None or entry["refusal"] is None
        time = f"{_time(entry['predicted_ms'])}; " if able else ""
        lines.append(f"  {entry['engine']}: {time}{entry['reason']}")
    for entry in found.get("alternatives", ()):
        mark = "*" if entry["chosen"] else " "
        lines.append(
            f"  {mark} {entry['predicted_ms']:9.4f} ms  {entry['engine']:6} "
            f"tile {_tile(entry['plan'])}, {_rest(entry['plan'])}"
        )
    return "\n".join(lines)


def _heading(case: Case, dtype: str, gpu: Gpu) -> str:
    name = "" if case.name == case.shape else f"{case.name}: "
    text = f"{name}{case.shape}, {dtype}, {gpu.name}"
    found = _floor(case, dtype, gpu)
    if found:
        text += (
            f"\nfloor {found['ms']:.4f} ms: {found['memory_ms']:.4f} for memory, "
            f"{found['math_ms']:.4f} for arithmetic"
        )
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Print the plans; returns 2, with a sentence, for a shape that is none."""
    parser = argparse.ArgumentParser(
        prog="python -m convt3d plan", description=(__doc__ or "").partition("\n")[2].strip()
    )
    parser.add_argument(
        "shape",
        help='"2,64,64,64,64 -> 32, k=2, s=2" (n,c,d,h,w -> out channels; k s p op d g, each one '
        "number or three as in k=3x5x7), or the name of a benchmark case such as nnunet_64",
    )
    parser.add_argument("--dtype", choices=tuple(_DTYPES), default="bf16", help="default: bf16")
    parser.add_argument("--layout", choices=(*LAYOUTS, "both"), default="both")
    parser.add_argument(
        "--pass", dest="operator", choices=(*BASIC_PASSES, "all"), default="all", help="or all"
    )
    parser.add_argument(
        "--gpu", choices=tuple(GPUS), help="default: the GPU that is present, else h200"
    )
    parser.add_argument(
        "--all", action="store_true", help="list the best plan of every kind, fastest first"
    )
    parser.add_argument("--json", action="store_true", help="a list of all that is known")
    options = parser.parse_args(argv)
    gpu = GPUS[options.gpu] if options.gpu else present_gpu(options.dtype) or GPUS["h200"]
    layouts = LAYOUTS if options.layout == "both" else (options.layout,)
    operators = BASIC_PASSES if options.operator == "all" else (options.operator,)
    try:
        cases = select([options.shape])
        if not cases:
            raise ValueError("name a shape or a case")
        found = {
            case: [
                plan(case, options.dtype, layout, operator, gpu, alternatives=options.all)
                for operator in operators
                for layout in layouts
            ]
            for case in cases
        }
    except (ValueError, RuntimeError) as error:
        print(f"python -m convt3d plan: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([entry for entries in found.values() for entry in entries], indent=1))
        return 0
    for case, entries in found.items():
        print(_heading(case, options.dtype, gpu))
        for entry in entries:
            print(f"\n{report(entry)}")
    return 0
