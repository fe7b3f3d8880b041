"""What only a GPU has: streams, graphs, devices, sizes beyond 2^31, precision, sanitizers."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import BY_NAME, OPERATORS, Case, arguments, call, make_case, make_tensors
from reference import check, expected, forward, grad_input, grad_weight, relative_error

pytestmark = pytest.mark.gpu

SOME = [
    BY_NAME[name]
    for name in (
        "several_tiles",
        "several_tiles_stride2",
        "kernel_is_stride2",
        "asymmetric",
        "depthwise",
        "stride2_dilation2",
    )
]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_graph_capture(case: Case, dtype: torch.dtype, layout: str) -> None:
    """Captures all three operators, then replays them on other values in the same memory."""
    tensors = make_tensors(case, dtype, "cuda", layout, seed=0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for operator in OPERATORS:
            call(operator, tensors, case)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = {operator: call(operator, tensors, case) for operator in OPERATORS}
    for seed in (1, 2):
        others = make_tensors(case, dtype, "cuda", layout, seed)
        tensors.input.copy_(others.input)
        tensors.weight.copy_(others.weight)
        tensors.bias.copy_(others.bias)
        tensors.grad_output.copy_(others.grad_output)
        for result in results.values():
            result.fill_(float("nan"))
        graph.replay()
        for operator in OPERATORS:
            assert torch.equal(results[operator], call(operator, others, case)), operator


def test_training_step_in_a_graph() -> None:
    case = BY_NAME["several_tiles_stride2"]
    tensors = make_tensors(case, torch.float32, "cuda")
    x, w = tensors.input.requires_grad_(), tensors.weight.requires_grad_()

    def step() -> tuple[torch.Tensor, ...]:
        y = torch.ops.convt3d.forward(x, w, tensors.bias, *case.geometry)
        return torch.autograd.grad(y, (x, w), tensors.grad_output)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager = [grad.clone() for grad in step()]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for grad in captured:
        grad.zero_()
    graph.replay()
    for grad, wanted in zip(captured, eager, strict=True):
        assert torch.equal(grad, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
def test_runs_on_the_current_stream(operator: str) -> None:
    """The operand gets its values late on a side stream: only that stream's order can see them."""
    case = BY_NAME["several_tiles_stride2"]
    tensors = make_tensors(case, torch.float32, "cuda", seed=0)
    others = make_tensors(case, torch.float32, "cuda", seed=1)
    wanted = call(operator, others, case)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        for name in ("input", "weight", "bias", "grad_output"):
            getattr(tensors, name).copy_(getattr(others, name))
        result = call(operator, tensors, case)
    busy = not stream.query()
    stream.synchronize()
    assert busy, "the operator waited for the stream"
    assert torch.equal(result, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("operator", OPERATORS)
def test_second_device(operator: str) -> None:
    case = BY_NAME["several_tiles_stride2"]
    with torch.cuda.device(0):
        tensors = make_tensors(case, torch.float32, "cuda:1")
        result = call(operator, tensors, case)
        assert result.device == torch.device("cuda:1")
        assert torch.cuda.current_device() == 0
    check(result, expected(operator, case, tensors), operator)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_in_one_call_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"same device.*cuda:0 and cuda:1"):
        torch.ops.convt3d.forward(
            torch.ones(1, 2, 3, 3, 3, device="cuda:0"), torch.ones(2, 2, 2, 2, 2, device="cuda:1")
        )


def test_a_cpu_weight_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"Input type \(torch.cuda.FloatTensor\) and weight"):
        torch.ops.convt3d.forward(torch.ones(1, 2, 3, 3, 3).cuda(), torch.ones(2, 2, 2, 2, 2))


@pytest.mark.parametrize("case", SOME, ids=str)
def test_never_calls_pytorchs_convolution(case: Case) -> None:
    tensors = make_tensors(case, torch.float32, "cuda")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for operator in OPERATORS:
            call(operator, tensors, case)
    names = {event.name for event in profile.events()}
    assert any("convt3d" in name for name in names)
    assert not [n for n in names if (n.startswith("aten::") and "conv" in n) or "cudnn" in n]


# ---- float32 precision ---------------------------------------------------------------------


def _float32_error(operator: str) -> float:
    case = make_case("channels64", (2, 64, 8, 9, 10), 64, 3, s=2, p=1, op=1)
    tensors = make_tensors(case, torch.float32, "cuda", "channels_last_3d")
    wanted = expected(operator, case, tensors)
    result = call(operator, tensors, case)
    check(result, wanted, operator, tf32=torch.backends.cudnn.conv.fp32_precision != "ieee")
    return relative_error(result, wanted)


@pytest.mark.parametrize("operator", OPERATORS)
def test_precision_follows_the_setting(operator: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert _float32_error(operator) < 1e-6
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert 1e-5 < _float32_error(operator) < 2 * 2.9e-4  # cuDNN's own error in TF32 is 2.9e-4


@pytest.mark.parametrize("operator", OPERATORS)
def test_precision_inherits_the_general_setting(operator: str) -> None:
    before = torch.backends.fp32_precision
    try:
        torch.backends.cudnn.conv.fp32_precision = "none"
        torch.backends.cudnn.fp32_precision = "none"
        torch.backends.fp32_precision = "ieee"
        assert _float32_error(operator) < 1e-6
    finally:
        torch.backends.fp32_precision = before


# ---- More than 2^31 elements ---------------------------------------------------------------


@pytest.fixture
def _much_memory():
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    if free < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    yield
    torch.cuda.empty_cache()


def _random(*size: int, layout: str) -> torch.Tensor:
    channels_last = layout == "channels_last_3d"
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    empty = torch.empty(size, dtype=torch.bfloat16, device="cuda", memory_format=memory_format)
    return empty.normal_()


# (input, output channels, kernel, stride, padding, output padding): one sample, many samples.
HUGE = [
    pytest.param((1, 8, 260, 260, 260), 16, 3, 2, 1, 1, id="one_sample"),
    pytest.param((70, 8, 64, 60, 64), 16, 3, 2, 1, 1, id="many_samples"),
    pytest.param((1, 8, 260, 260, 260), 16, 2, 2, 0, 0, id="kernel_is_stride"),
]


def _slab(size: tuple[int, ...], out: int, k: int, s: int, p: int, op: int, depth: int) -> Case:
    """One sample, cut to `depth` planes."""
    return make_case("slab", (1, size[1], depth, *size[3:]), out, k, s=s, p=p, op=op)


@pytest.mark.usefixtures("_much_memory")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
@pytest.mark.parametrize(("size", "out", "k", "s", "p", "op"), HUGE)
def test_huge_output(
    size: tuple[int, ...], out: int, k: int, s: int, p: int, op: int, layout: str
) -> None:
    """Compared plane by plane with the reference of slabs at both ends and in the middle."""
    x = _random(*size, layout=layout)
    w = torch.randn(size[1], out, k, k, k, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(out, dtype=torch.bfloat16, device="cuda")
    y = torch.ops.convt3d.forward(x, w, b, s, p, op)
    assert y.numel() > 2**31
    case, total = _slab(size, out, k, s, p, op, 5), size[2]
    for sample in {0, size[0] // 2, size[0] - 1}:
        for first in (0, total // 2, total - 5):
            wanted = forward(case, x[sample : sample + 1, :, first : first + 5], w, b)
            inner = slice(
                0 if first == 0 else s, wanted.shape[2] - (0 if first == total - 5 else s)
            )
            got = y[sample : sample + 1, :, s * first :][:, :, : wanted.shape[2]]
            torch.testing.assert_close(
                got[:, :, inner].double(), wanted[:, :, inner], rtol=2**-8, atol=1e-3
            )


@pytest.mark.usefixtures("_much_memory")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
def test_huge_grad_input(layout: str) -> None:
    """A result of more than 2^31 elements, from a small gradient of the output."""
    size, out = (1, 16, 516, 516, 516), 8
    gy = _random(1, out, 517, 517, 517, layout=layout)
    w = torch.randn(size[1], out, 2, 2, 2, dtype=torch.bfloat16, device="cuda")
    gx = torch.ops.convt3d.grad_input(gy, w, 1, 0, 0, 1, 1)
    assert gx.numel() > 2**31 and gx.shape == size
    case = _slab(size, out, 2, 1, 0, 0, 3)
    for first in (0, 200, size[2] - 3):
        wanted = grad_input(case, gy[:, :, first : first + 4], w)
        torch.testing.assert_close(
            gx[:, :, first : first + 3].double(), wanted, rtol=2**-8, atol=1e-3
        )


@pytest.mark.usefixtures("_much_memory")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
@pytest.mark.parametrize("huge", ["input", "grad_output"])
def test_huge_operand_of_grad_weight(huge: str, layout: str) -> None:
    """Zero but for the last planes, whose part of the sum a 32-bit index would miss."""
    channels = {"input": (16, 2), "grad_output": (2, 16)}[huge]
    x = _random(1, channels[0], 516, 516, 516, layout=layout)
    gy = _random(1, channels[1], 517, 517, 517, layout=layout)
    x[:, :, :-3] = 0
    gw = torch.ops.convt3d.grad_weight(gy, x, 1, 0, 0, 1, 1)
    assert max(x.numel(), gy.numel()) > 2**31
    case = _slab((1, channels[0], 516, 516, 516), channels[1], 2, 1, 0, 0, 3)
    wanted = grad_weight(case, gy[:, :, -4:], x[:, :, -3:])
    assert (gw.double() - wanted).norm() / wanted.norm() < 2 * 1.7e-3  # bfloat16's rounding


@pytest.mark.usefixtures("_much_memory")
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_3d"])
def test_huge_input_of_forward(layout: str) -> None:
    x = _random(1, 16, 516, 516, 516, layout=layout)
    w = torch.randn(16, 1, 1, 1, 1, dtype=torch.bfloat16, device="cuda")
    y = torch.ops.convt3d.forward(x, w)
    assert x.numel() > 2**31
    for first in (0, 513):
        wanted = forward(
            _slab((1, 16, 516, 516, 516), 1, 1, 1, 0, 0, 3), x[:, :, first : first + 3], w
        )
        torch.testing.assert_close(
            y[:, :, first : first + 3].double(), wanted, rtol=2**-8, atol=1e-3
        )


# ---- compute-sanitizer ---------------------------------------------------------------------


def _sanitizer() -> str | None:
    found = shutil.which("compute-sanitizer")
    installed = sorted(Path("/usr/local").glob("cuda*/bin/compute-sanitizer"))
    return found or (str(installed[-1]) if installed else None)


@pytest.mark.skipif(_sanitizer() is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer(tool: str) -> None:
    """Every tensor is its own allocation there, so that an access one element off is seen."""
    script = Path(__file__).with_name("sanitizer_script.py")
    command = [str(_sanitizer()), "--tool", tool, "--error-exitcode", "9", sys.executable]
    run = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "Device not supported" in run.stdout + run.stderr:
        pytest.skip("compute-sanitizer cannot attach to this machine's device")
    report = "\n".join(line for line in run.stdout.splitlines() if "Host Frame" not in line)
    assert run.returncode == 0, report[:4000] + run.stderr[-2000:]
    assert "ERROR SUMMARY: 0 errors" in run.stdout or "RACECHECK SUMMARY: 0" in run.stdout
    assert "all operators ran" in run.stdout


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("case", ["hopper_stride1", "hopper_stride2", "hopper_kernel_is_stride"])
def test_alignment_may_change_from_call_to_call(case: str, dtype: torch.dtype) -> None:
    """Plans are kept; one for tensors on 16-byte boundaries must not serve others."""

    def off_by_one(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.new_empty(tensor.numel() + 1)[1:].view(tensor.shape).copy_(tensor)

    torch.backends.cudnn.conv.fp32_precision = "tf32"
    problem = BY_NAME[case]
    tensors = make_tensors(problem, dtype, "cuda")
    shifted = dataclasses.replace(
        tensors, input=off_by_one(tensors.input), grad_output=off_by_one(tensors.grad_output)
    )
    for operator in OPERATORS:
        wanted = expected(operator, problem, tensors)
        for values in (tensors, shifted, tensors):
            result = call(operator, values, problem)
            check(result, wanted, f"{operator} of {case}", tf32=dtype == torch.float32)


def test_arguments_are_left_alone() -> None:
    case = BY_NAME["several_tiles_stride2"]
    for operator in OPERATORS:
        tensors = make_tensors(case, torch.float32, "cuda", "channels_last_3d")
        copies = [a.clone() for a in arguments(operator, tensors, case)[:2]]
        call(operator, tensors, case)
        for argument, copy in zip(arguments(operator, tensors, case), copies, strict=False):
            assert torch.equal(argument, copy)
