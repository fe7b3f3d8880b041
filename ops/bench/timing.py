"""Timing one callable: CUDA events, CUDA-graph replay for what is short, the wall clock on a CPU.

Every method walks through a rotation of operand sets (`Problem.rotation`) and keeps as many outputs
alive, so that neither operands nor outputs are found in the last-level cache. The number of
repeats follows from a time budget; it is never below `FEWEST`. A quarter of the budget is enough
where the samples agree (`is_settled`).
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

FEWEST = 3
MOST = 200
SETTLED_REPEATS = 12
SETTLED_SPREAD = 0.01
# By events, which see launch gaps too: what lasts 0.2 ms in truth may look like this.
GRAPH_BELOW_MS = 0.4
_GRAPH_MS = 1.0
_FEWEST_REPLAYS = 5
_MOST_REPLAYS = 50

Rotation = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Timing:
    """Median and interquartile range of `repeats` samples, in milliseconds per call.

    A sample of method "graph" is a replay of `calls` calls, divided by `calls`; else `calls` is 1.
    """

    median_ms: float
    spread_ms: float
    repeats: int
    calls: int
    method: str


def summarize(samples: Sequence[float], calls: int, method: str) -> Timing:
    """Median and interquartile range of `samples` (at least two)."""
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, high - low, len(samples), calls, method)


def repeats_within(budget_ms: float, call_ms: float) -> int:
    """How many calls of `call_ms` fit the budget, between `FEWEST` and `MOST`."""
    return max(FEWEST, min(MOST, int(budget_ms / max(call_ms, 1e-6))))


def measure(
    call: Callable[..., Any],
    rotation: Rotation,
    device: torch.device,
    budget_ms: float,
    graph: bool = True,
) -> Timing:
    """Time `call(*operands)` over the rotation, within about `budget_ms`.

    The caller has called it before: no first call, that would search or compile, is timed here.
    `graph=False` forbids graph capture (for a call that a graph cannot hold, such as a training
    step). A capture that fails falls back to events, which `Timing.method` shows.
    """
    if device.type != "cuda":
        return _measure_wall(call, rotation, budget_ms)
    events = _Events(call, rotation)
    samples = events.draw(1)
    if samples[0] * FEWEST > budget_ms:
        samples += events.draw(FEWEST - 1)
        return summarize(samples, 1, "events")
    # Memory for the outputs of a whole rotation is allocated here, not while it is timed.
    first_turn = min(len(rotation), repeats_within(budget_ms, 4 * samples[0]))
    estimate = min(samples + events.draw(first_turn))
    if graph and estimate < GRAPH_BELOW_MS:
        timing = _measure_graph(call, rotation, budget_ms, estimate)
        if timing is not None:
            return timing
    samples = _until_settled(events.draw, repeats_within(budget_ms, estimate))
    return summarize(samples, 1, "events")


def is_settled(samples: Sequence[float]) -> bool:
    """Whether there are `SETTLED_REPEATS` and their interquartile range is within 1 %."""
    if len(samples) < SETTLED_REPEATS:
        return False
    found = summarize(samples, 1, "")
    return found.spread_ms <= SETTLED_SPREAD * found.median_ms


def _until_settled(draw: Callable[[int], list[float]], most: int) -> list[float]:
    """`most` samples by `draw(count)`; a quarter (at least `SETTLED_REPEATS`) if settled."""
    samples = draw(min(most, max(SETTLED_REPEATS, most // 4)))
    if len(samples) < most and not is_settled(samples):
        samples += draw(most - len(samples))
    return samples


def _measure_wall(call: Callable[..., Any], rotation: Rotation, budget_ms: float) -> Timing:
    for operands in rotation[:FEWEST]:
        call(*operands)
    samples: list[float] = []
    spent = 0.0
    while len(samples) < FEWEST or (spent < budget_ms and len(samples) < MOST):
        if spent > budget_ms / 4 and is_settled(samples):
            break
        operands = rotation[len(samples) % len(rotation)]
        start = time.perf_counter()
        call(*operands)
        samples.append((time.perf_counter() - start) * 1e3)
        spent += samples[-1]
    return summarize(samples, 1, "wall")


class _Events:
    """Times calls between two CUDA events each, going on through the rotation from draw to draw."""

    def __init__(self, call: Callable[..., Any], rotation: Rotation) -> None:
        self._call = call
        self._rotation = rotation
        self._outputs: list[Any] = [None] * len(rotation)
        self._next = 0

    def draw(self, count: int) -> list[float]:
        """Milliseconds of each of `count` calls; the results of a whole rotation stay alive."""
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(count)
        ]
        torch.cuda.synchronize()
        for start, end in events:
            slot = self._next % len(self._rotation)
            self._next += 1
            start.record()
            self._outputs[slot] = self._call(*self._rotation[slot])
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]


def _measure_graph(
    call: Callable[..., Any], rotation: Rotation, budget_ms: float, estimate_ms: float
) -> Timing | None:
    """Replay a graph of whole rotations, about a millisecond long; None where capture fails."""
    turns = max(1, round(_GRAPH_MS / max(estimate_ms, 1e-3) / len(rotation)))
    calls = turns * len(rotation)
    graph = capture([functools.partial(call, *operands) for operands in rotation], turns)
    if graph is None:
        return None
    replays = int(budget_ms / (calls * estimate_ms))
    most = max(_FEWEST_REPLAYS, min(_MOST_REPLAYS, replays))
    samples = _until_settled(lambda count: replay_samples(graph, count), most)
    return summarize([sample / calls for sample in samples], calls, "graph")


def capture(calls: Sequence[Callable[[], Any]], turns: int) -> torch.cuda.CUDAGraph | None:
    """A graph of `turns` times `calls`, each with memory of its own for its result.

    Returns None where a call cannot be captured; the current stream is usable either way.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    outputs: list[Any] = [None] * len(calls)
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
        torch.cuda.synchronize()
        try:
            graph.capture_begin(capture_error_mode="thread_local")
            for _ in range(turns):
                for slot, call in enumerate(calls):
                    outputs[slot] = call()
            graph.capture_end()
        except RuntimeError:
            _abandon(graph)
            return None
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def _abandon(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that an error has already invalidated; ending it reports that error again."""
    try:
        graph.capture_end()
    except RuntimeError:
        torch.cuda.synchronize()


def replay_samples(graph: torch.cuda.CUDAGraph, count: int) -> list[float]:
    """Milliseconds of each of `count` replays, after one that is not counted."""
    graph.replay()
    return _Events(graph.replay, [()]).draw(count)
