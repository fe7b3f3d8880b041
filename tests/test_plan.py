"""`python -m convt3d plan`: shapes it reads, plans it finds, what it says."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
import torch
from cases import BY_NAME, OPERATORS, call, make_tensors
from convt3d import __main__
from convt3d import plan as plans
from convt3d.bench.cases import PUBLIC, Case, parse_shape, select
from convt3d.bench.problem import LAYOUTS

H200, A100 = plans.GPUS["h200"], plans.GPUS["a100"]
DTYPES = ("bf16", "fp16", "tf32", "fp32", "fp64")
FACTS = {"clocks", "tile", "items", "blocks", "waves", "stages", "chunks", "splits"}
FACTS |= {"shared_bytes", "packed_bytes", "workspace_bytes"}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert __main__.main(["plan", "--gpu", "h200", *words]) == 0
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    return json.loads(run(capsys, *words, "--json"))


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ("1,2 -> 3, k=2", "the input '1,2' has 2 sizes"),
        ("2,64,8,8,8 -> 32", "the kernel size is missing"),
        ("2,64,8,8,8 -> 32, k=2, q=1", "unknown option 'q=1'"),
        ("2,64,8,8,8 -> 32, k=2x2", "one number or three"),
        ("2,64,8,8,8 -> 32, k=2, k=3", "option k is given twice"),
        ("2,64,8,8,8 -> 32, k=2, g=3", "divisible by groups=3"),
        ("2,64,8,8,8 -> 32, k=2, op=1", "output padding must be below"),
        ("2,64,8,8,8 -> 32, k=2, p=9", "too small"),
        ("nnunet_46", "no case, group or glob 'nnunet_46'; near it: nnunet_64"),
        ("", "name a shape or a case"),
    ],
)
def test_what_is_no_shape(shape: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["plan", shape]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("python -m convt3d plan: ") and error.count("\n") == 1


@pytest.mark.parametrize("option", [("--dtype", "int8"), ("--layout", "any"), ("--gpu", "v100")])
def test_unknown_choice(option: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        __main__.main(["plan", "nnunet_64", *option])
    assert stopped.value.code == 2
    assert f"invalid choice: '{option[1]}'" in capsys.readouterr().err


def test_shape_is_read_with_and_without_equals() -> None:
    long = parse_shape("2,64,8,9,10 -> 32, k=3x5x7, s=2, p=1x2x3, op=1, d=1, g=4")
    assert long == parse_shape("2,64,8,9,10 -> 32 k3x5x7 s2 p1x2x3 op1 d1 g4")
    assert (long.kernel, long.padding, long.groups) == ((3, 5, 7), (1, 2, 3), 4)


def check_plan(found: dict[str, Any], gpu: plans.Gpu) -> None:
    multiprocessors, per_block, _, has_wgmma = gpu.limits
    chosen = [entry for entry in found["engines"] if entry["chosen"]]
    assert [entry["engine"] for entry in chosen] == [found["engine"]]
    assert found["engines"][-1]["engine"] == "direct"
    before = found["engines"][: found["engines"].index(chosen[0])]
    assert all(entry["refusal"] and entry["refusal"] in entry["reason"] for entry in before)
    names = [entry["engine"] for entry in found["engines"] if entry["plan"]]
    assert has_wgmma or not {"wgmma", "tapwise", "gathered"} & set(names)
    for entry in (*found["engines"], *found.get("alternatives", ())):
        facts = entry["plan"]
        if facts is None:
            assert entry["predicted_ms"] is None
            continue
        assert facts.keys() >= FACTS
        assert 0 < facts["shared_bytes"] <= per_block
        assert 0 <= facts["workspace_bytes"] <= 64 << 20
        assert min(*facts["tile"], facts["items"], facts["waves"], facts["stages"]) >= 1
        assert facts["blocks"] <= facts["items"]
        resident = facts.get("resident_blocks", 1)
        assert facts["waves"] == math.ceil(facts["items"] / (multiprocessors * resident))
        assert entry["predicted_ms"] == pytest.approx(
            facts["clocks"] / gpu.clock_mhz / 1e3, abs=1e-6
        )
        assert entry["predicted_ms"] > 0


@pytest.mark.parametrize("gpu", [H200, A100], ids=["h200", "a100"])
@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: case.name)
def test_every_public_case_has_plans(case: Case, gpu: plans.Gpu) -> None:
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for operator in OPERATORS:
                found = plans.plan(case, dtype, layout, operator, gpu)
                check_plan(found, gpu)
                assert found["engine"] == "gemm" if dtype == "fp64" else found["engine"] != "direct"
                assert plans.report(found)
                assert plans.plan(case, dtype, layout, operator, gpu) == found


def test_many_taps_leave_room_for_their_list() -> None:
    """125 taps whose table once stood behind the end of shared memory."""
    case = parse_shape("1,8,2,5,40 -> 3 k5 s2 p3x4x4 op2x0x1 d3x2x2")
    for dtype, layout in itertools.product(DTYPES, LAYOUTS):
        for operator in OPERATORS:
            check_plan(plans.plan(case, dtype, layout, operator, H200, alternatives=True), H200)


@pytest.mark.parametrize(("dtype", "fits"), [("fp32", True), ("fp64", False)])
def test_offsets_are_counted_in_bytes(dtype: str, fits: bool) -> None:
    """Six planes of depth are 1.5 GB in float32 and 3 GB in float64: more than 32 bits count."""
    case = parse_shape("1,128,2,700,700 -> 128 k1")
    found = plans.plan(case, dtype, "channels_last_3d", "grad_weight", H200)
    gemm = next(entry for entry in found["engines"] if entry["engine"] == "gemm")
    assert gemm["refusal"] == (None if fits else "the strides within a tile exceed 32 bits")


def test_wgmma_needs_its_gpu() -> None:
    """The same problem on a GPU that has it and on one that has not."""
    case = select(["nnunet_64"])[0]
    for layout in LAYOUTS:
        assert plans.plan(case, "bf16", layout, "forward", H200)["engine"] == "wgmma"
        found = plans.plan(case, "bf16", layout, "forward", A100)
        assert found["engine"] == "gemm"
        assert "refused, because the GPU or this build has no WGMMA" in plans.report(found)


@pytest.mark.parametrize("dtype", ["bf16", "tf32"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [50_000, 200_000, 400_000, 1_000_000])
def test_many_channels_fit_the_counters(channels: int, layout: str, dtype: str) -> None:
    case = parse_shape(f"1,{channels},4,4,4 -> 8 k16")
    found = plans.plan(case, dtype, layout, "forward", H200)
    if found["engine"] != "wgmma":
        return
    plan = found["plan"]
    # A row of 16-byte units fits shared memory; the rounds of a column tile are counted in 16 bits.
    assert plan["chunk_units"] * 16 < H200.limits[1]
    assert plan["chunks"] * case.kernel[0] < 1 << 15


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    ["1,16,4,255,255 -> 1000000 k1 s8", "1,16,1,16,255 -> 300000 k1x2x1 s1x1x8 d1x200x1"],
)
def test_many_channels_fit_a_gathered_box(shape: str, layout: str) -> None:
    """The words of a box overflowed 32 bits, and seemed to fit."""
    found = plans.plan(parse_shape(shape), "tf32", layout, "grad_weight", H200)
    (entry,) = (entry for entry in found["engines"] if entry["engine"] == "gathered")
    plan = entry["plan"]
    assert plan is None or 4 * plan["row_channels_per_block"] < plan["shared_bytes"]


def test_alternatives_are_sorted_and_hold_the_plan() -> None:
    case = select(["monai_64"])[0]
    for operator in OPERATORS:
        found = plans.plan(case, "fp16", "contiguous", operator, H200, alternatives=True)
        check_plan(found, H200)
        times = [entry["predicted_ms"] for entry in found["alternatives"]]
        assert times == sorted(times) and len(times) > 5
        assert [e["plan"] for e in found["alternatives"] if e["chosen"]] == [found["plan"]]
        plain = plans.plan(case, "fp16", "contiguous", operator, H200)
        assert plain == {key: value for key, value in found.items() if key != "alternatives"}


def test_batch_changes_neither_engine_nor_order() -> None:
    """What decides the order of sums must not depend on the rest of the batch."""
    shapes = [case.shape for case in select(["kb2_77", "video_256", "kb2_26", "gan_512", "kb72"])]
    shapes += [
        "16,256,4,4,4 -> 256 k3 p1",
        "48,64,1,8,6 -> 160 k2x5x5 s1x2x1 op0x1x0",
        "38,256,1,8,9 -> 16 k4x2x4 s2x1x2 p1x2x1 op0x0x1",
        "41,512,4,4,4 -> 48 k3x5x3 s1x1x3 p0x1x2 op0x0x1 g2",
        "2,16,2,7,33 -> 13 k1x2x7 p0x0x3",
        "2,64,8,16,16 -> 32 k3 s2 p1",
    ]
    decisive = ("chunk_units", "stage_units", "merged_taps", "plane_block")
    for shape, dtype, layout in itertools.product(shapes, ("bf16", "tf32", "fp32"), LAYOUTS):
        for operator in ("forward", "grad_input"):
            orders = set()
            for batch in (1, 3, 16, 64):
                other = parse_shape(f"{batch},{shape.partition(',')[2]}")
                found = plans.plan(other, dtype, layout, operator, H200)
                facts = [found["plan"].get(name) for name in decisive]
                orders.add((found["engine"], str(facts)))
            assert len(orders) == 1, (shape, dtype, layout, operator)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_empty_batch(layout: str) -> None:
    """Many channels and nothing to sum: no division by the positions."""

    def planned(operator: str) -> str:
        geometry = ([1, 1, 1], [0, 0, 0], [0, 0, 0], 1, [1, 1, 1])
        sizes = ([0, 1024, 4, 4, 4], [1024, 1024, 3, 3, 3])
        options = {"channels_last": layout != "contiguous", "tf32": False, "alternatives": True}
        return torch.ops.convt3d._plan(
            operator, "bfloat16", *sizes, *geometry, device=H200.limits, **options
        )

    chosen = [entry["engine"] for entry in json.loads(planned("grad_weight")) if entry["chosen"]]
    assert chosen == ["direct"]
    for operator in ("forward", "grad_input"):
        with pytest.raises(RuntimeError, match=f"nothing to plan for {operator} of an empty batch"):
            planned(operator)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--layout", "contiguous", "--pass", "forward", "--dtype", "bf16")
    (found,) = run_json(capsys, "nnunet_64", *words)
    kept = ("case", "shape", "dtype", "layout", "pass", "gpu", "engine")
    assert [found[key] for key in kept] == [
        *("nnunet_64", "2,64,64,64,64 -> 32 k2 s2", "bf16", "contiguous", "forward"),
        *("NVIDIA H200", "wgmma"),
    ]
    assert found["floor"]["bound"] == "memory"
    # Input, output and weight once, in two bytes each, at the H200's rate of copying.
    elements = 2 * 64 * 64**3 + 2 * 32 * 128**3 + 64 * 32 * 8
    assert found["floor"]["ms"] == pytest.approx(2 * elements / 4255.75e6, abs=1e-6)
    # 64 x 32 x 8 weights in two bytes, none of them padding.
    assert found["plan"]["packed_bytes"] == 2 * 64 * 32 * 8
    assert (found["plan"]["splits"], found["plan"]["workspace_bytes"]) == (1, 0)
    assert [entry["engine"] for entry in found["engines"]] == [
        *("depthwise", "im2col", "tapwise", "gathered", "wgmma", "gemm", "direct")
    ]


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    shape = "2,64,64,64,64 -> 32, k=2, s=2"
    text = run(capsys, shape)
    assert text.startswith("2,64,64,64,64 -> 32 k2 s2, bf16, NVIDIA H200\nfloor 0.0789 ms")
    for operator in OPERATORS:
        for layout in LAYOUTS:
            assert f"\n{operator}, {layout}: " in text
    assert (
        "wgmma: predicted" in text
        and "the first of depthwise, im2col, tapwise, gathered, wgmma, gemm, direct that takes"
        in text
    )
    assert text.count("direct: no cost model; not asked: ") == 6
    assert len(run(capsys, shape, "--all").splitlines()) > len(text.splitlines()) + 20
    doubles = run(capsys, shape, "--dtype", "fp64")
    assert doubles.count(": gemm, predicted") == 6
    assert "refused, because WGMMA has no products of this dtype" in doubles


def test_operator_refuses_what_it_does_not_know() -> None:
    def planned(
        operator: str = "forward", dtype: str = "float16", device: tuple = H200.limits
    ) -> str:
        geometry = ([1, 1, 1], [0, 0, 0], [0, 0, 0], 1, [1, 1, 1])
        sizes = ([1, 8, 4, 4, 4], [8, 8, 3, 3, 3])
        options = {"channels_last": False, "tf32": False, "alternatives": False}
        return torch.ops.convt3d._plan(operator, dtype, *sizes, *geometry, device=device, **options)

    assert json.loads(planned())
    with pytest.raises(RuntimeError, match="'backward' is none of forward, grad_input"):
        planned(operator="backward")
    with pytest.raises(RuntimeError, match="'int8' is none of float16, "):
        planned(dtype="int8")
    with pytest.raises(RuntimeError, match="a device is four numbers, not 1"):
        planned(device=(132,))


@pytest.mark.gpu
def test_present_gpu() -> None:
    gpu = plans.present_gpu("bf16")
    assert gpu is not None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    assert gpu.name == properties.name
    assert gpu.limits[0] == properties.multi_processor_count
    assert gpu.limits[3] == int((properties.major, properties.minor) == (9, 0))
    if "H200" in gpu.name:
        assert gpu == plans.Gpu(gpu.name, H200.limits, H200.clock_mhz, H200.copy_gbs, H200.tflops)


# The tests under compute-sanitizer run them for these kernels' sake.
@pytest.mark.parametrize(
    ("name", "dtype", "fact", "value"),
    [
        ("three_warpgroups", "bf16", "warpgroups", 3),
        ("three_warpgroups", "tf32", "warpgroups", 3),
        ("two_residues", "bf16", "w_planes", 2),
    ],
)
def test_cases_are_planned_as_they_are_named(name: str, dtype: str, fact: str, value: int) -> None:
    tested = BY_NAME[name]
    case = Case(
        name,
        "test",
        (tested.batch, tested.in_channels, *tested.size),
        tested.out_channels,
        tested.kernel,
        tested.stride,
        tested.padding,
        tested.output_padding,
        tested.dilation,
        tested.groups,
    )
    found = plans.plan(case, dtype, "channels_last_3d", "forward", H200)
    assert found["engine"] == "wgmma" and found["plan"][fact] == value


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["nnunet_320", "kb72", "gan_512", "stereo_64", "monai_head"])
@pytest.mark.parametrize("dtype", ["bf16", "tf32", "fp32", "fp64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_planned_engine_is_the_one_that_runs(name: str, dtype: str, layout: str) -> None:
    torch.backends.cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    gpu = plans.present_gpu(dtype)
    assert gpu is not None
    case = BY_NAME[name]
    tensors = make_tensors(case, getattr(torch, plans._DTYPES[dtype]), "cuda", layout)
    for operator in OPERATORS:
        engine = plans.plan(select([name])[0], dtype, layout, operator, gpu)["engine"]
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call(operator, tensors, case)
            torch.cuda.synchronize()
        kernels = " ".join(event.key for event in profile.key_averages())
        engines = ("depthwise", "im2col", "tapwise", "gathered", "wgmma", "gemm", "direct")
        found = {word for word in engines if f"::{word}_" in kernels}
        assert found == {engine}, kernels
