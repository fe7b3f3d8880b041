"""The kernels without a GPU: random problems on an emulated block of threads (tests/emulator)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "emulator"
SEED = int(os.environ.get("CONVT3D_TEST_SEED", "0"))


def cuda_headers() -> Path | None:
    """The folder of cuda.h and cuda_fp16.h; a toolkit without a GPU has them."""
    nvcc = shutil.which("nvcc")
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    roots += [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    folders = [Path(root) / "include" for root in roots if root]
    return next((f for f in folders if (f / "cuda.h").exists()), None)


HEADERS = cuda_headers()
pytestmark = pytest.mark.skipif(
    HEADERS is None or not shutil.which("cmake"), reason="needs CUDA's headers and cmake"
)


@pytest.fixture(scope="module")
def configured() -> None:
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    command = ["cmake", *ninja, "-S", ROOT / "tests" / "emulator", "-B", BUILD]
    run = subprocess.run([*command, f"-DCUDA_INCLUDE={HEADERS}"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def build(program: str) -> Path:
    command = ["cmake", "--build", BUILD, "--parallel", "2", "--target", program]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return BUILD / program


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("wgmma_data", 50),
        ("tapwise_data --type bfloat16", 40),
        ("tapwise_data --type float32 --pass grad_input", 20),
        ("tapwise_grad_weight", 40),
        ("gathered_data --type float32", 60),
        ("gathered_data --type bfloat16", 30),
        ("wgmma_grad_weight", 60),
        ("gathered_grad_weight --type float32", 40),
        ("gathered_grad_weight --type bfloat16 --layout contiguous", 40),
        ("gemm_data", 40),
        ("gemm_grad_weight", 40),
        ("depthwise", 100),
        ("im2col", 100),
        ("direct", 30),
    ],
)
def test_random_problems(configured: None, engine: str, count: int) -> None:
    name, *options = engine.split()
    program = build(name)
    arguments = ["--seed", str(SEED * 1_000_003), "--count", str(count), *options]
    run = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    found = re.fullmatch(r"(\d+) problems agree in (\d+) plans, (\d+) refused\n", run.stdout)
    assert found is not None and int(found[1]) > 0.6 * count, run.stdout


def plans_run(engine: str, problem: str, *options: str) -> str:
    """What the engine says of the plans that it ran this problem with; their results agree."""
    arguments = [build(engine), *options, "--count", "1", "--verbose", "--problem", problem]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


# Few result channels: taps along w side by side.
MERGED = [
    ((32, 16), "size=2,16,100 kernel=3,3,3 stride=1,1,1 padding=1,1,1", "forward"),
    ((16, 32), "size=2,16,100 kernel=3,3,3 stride=1,1,1 padding=1,1,1", "grad_input"),
    ((48, 24), "size=2,16,16 kernel=3,3,3 stride=1,1,1 padding=0,0,0", "forward"),
    ((16, 13), "size=2,16,16 kernel=1,2,7 stride=1,1,1 padding=0,0,3", "forward"),
    ((64, 3), "size=4,24,24 kernel=3,3,3 stride=2,2,2 padding=1,1,1", "forward"),
    ((64, 1), "size=2,8,16 kernel=4,4,4 stride=2,2,2 padding=1,1,1", "forward"),
    ((256, 5), "size=2,8,16 kernel=2,4,4 stride=2,4,4 padding=0,0,0", "forward"),
]
MERGED_CHANNELS_LAST = [
    ((128, 32), "size=4,48,32 kernel=3,3,3 stride=2,2,2 padding=1,1,1", "forward"),
]


@pytest.mark.parametrize(
    ("channels", "geometry", "direction", "layout"),
    [(*case, layout) for case in MERGED for layout in ("contiguous", "channels_last")]
    + [(*case, "channels_last") for case in MERGED_CHANNELS_LAST],
)
def test_merged_taps(
    configured: None, channels: tuple[int, int], geometry: str, direction: str, layout: str
) -> None:
    problem = f"batch=1 in={channels[0]} out={channels[1]} groups=1 {geometry}"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", direction, "--layout", layout, "--type", "bfloat16", "--plans", "2"]
    plans = plans_run("wgmma_data", problem, *options)
    assert re.search("merged_taps [1-9]", plans), "no plan with merged taps was run"


# Kernel = stride = 4: those along h, too. Padding by whole strides moves lines, not taps.
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("geometry", ["size=2,18,21 padding=0,0,0", "size=3,7,32 padding=1,4,0"])
def test_merged_patches(configured: None, geometry: str, layout: str, dtype: str) -> None:
    problem = f"batch=2 in=72 out=5 groups=1 {geometry} kernel=2,4,4 stride=2,4,4"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", "forward", "--layout", layout, "--type", dtype, "--plans", "4"]
    plans = plans_run("wgmma_data", problem, *options)
    assert "h_planes 4" in plans, "no plan with merged taps along h was run"


# Of three: one below the other, side by side and as runs of a flattened tile. Channels-last results
# of both residues along w in one column tile need stores of their own.
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_three_warpgroups_and_two_planes(configured: None, dtype: str) -> None:
    problem = "batch=2 in=32 out=64 groups=1 size=3,24,20 kernel=3,3,3 stride=2,2,2 padding=1,1,1"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", "forward", "--layout", "channels_last", "--type", dtype, "--plans", "24"]
    plans = plans_run("wgmma_data", problem, *options)
    for arrangement in ("beside 1", "beside 3", "flattened 1"):
        assert f"3 warpgroups, {arrangement}" in plans
    assert re.search("w_planes 2, .* merged_taps 0", plans)


def test_three_warpgroups_merge_taps(configured: None) -> None:
    problem = "batch=1 in=48 out=24 groups=1 size=4,20,40 kernel=3,3,3 stride=1,1,1 padding=1,1,1"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", "forward", "--layout", "channels_last", "--type", "bfloat16"]
    plans = plans_run("wgmma_data", problem, *options, "--plans", "24")
    assert re.search("merged_taps 3, blocks 2, 3 warpgroups", plans)


# More parts in a round than a warp has lanes: 125 taps of one part.
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_parts_in_pairs(configured: None, layout: str) -> None:
    problem = "batch=1 in=16 out=40 groups=1 size=4,9,24 kernel=5,5,5 stride=1,1,1 padding=2,2,2"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", "forward", "--layout", layout, "--type", "bfloat16", "--plans", "12"]
    assert " in pairs" in plans_run("wgmma_data", problem, *options)


# Boxes that reach from end to end of the operand: zeros around it are written once, and must
# outlast planes in front of the tensor and behind it, and a last tile with fewer samples. What no
# tap reads of a plane has no row.
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("direction", ["forward", "grad_input"])
@pytest.mark.parametrize(
    ("geometry", "fill"),
    [
        ("size=3,4,4 kernel=4,4,4 stride=2,2,2 padding=1,1,1", "planes"),
        ("size=3,3,5 kernel=3,3,3 stride=2,2,2 padding=1,1,1", "planes"),
        ("size=2,2,6 kernel=3,3,3 stride=1,1,1 padding=1,3,3 dilation=1,3,3", "planes"),
        ("size=2,8,6 kernel=2,2,2 stride=1,1,1 padding=1,3,3", "planes"),
        ("size=2,40,16 kernel=3,3,3 stride=1,1,1 padding=1,1,1", "lines of the tensor"),
        ("size=2,40,12 kernel=3,3,3 stride=2,2,2 padding=1,1,2", "lines of the tensor"),
    ],
)
def test_boxes_from_end_to_end(
    configured: None, geometry: str, fill: str, direction: str, dtype: str
) -> None:
    problem = f"batch=5 in=24 out=40 groups=1 {geometry} output_padding=0,0,0"
    problem += "" if "dilation" in geometry else " dilation=1,1,1"
    options = ["--pass", direction, "--layout", "contiguous", "--type", dtype, "--plans", "12"]
    assert re.search(f"fill_run [1248] by {fill}", plans_run("wgmma_data", problem, *options))


# Few weights of many positions, parts of which are work items of their own; two taps, or four, in a
# tile, whose positions differ, and a tile that ends with the taps.
def test_split_steps(configured: None) -> None:
    problem = "batch=5 in=72 out=64 groups=1 size=3,4,9 kernel=1,3,3 stride=1,2,2 padding=0,1,2"
    problem += " output_padding=0,1,0 dilation=1,1,2"
    options = ["--pass", "grad_weight", "--type", "bfloat16", "--plans", "12"]
    plans = plans_run("tapwise_grad_weight", problem, *options)
    assert re.search("columns 256, .* splits [2-9]", plans) and re.search("splits 1,", plans)


# Sums of segments meet in memory: images so small, with so many channels, that there are few tiles.
# Segments begin in the middle of a tap's channels.
@pytest.mark.parametrize("direction", ["forward", "grad_input"])
def test_segments(configured: None, direction: str) -> None:
    problem = "batch=2 in=160 out=160 groups=1 size=2,2,2 kernel=3,3,3 stride=1,1,1 padding=1,1,1"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--pass", direction, "--type", "float16", "--plans", "12"]
    plans = plans_run("tapwise_data", problem, *options)
    assert re.search("segments [2-9] split", plans) and re.search("segments [2-9],", plans)


# With these seeds, blocks walk over several tiles, so that rows of a ring would be stale where
# lines begin and end outside the tensor if they were not cleared.
@pytest.mark.parametrize("seed", [3, 8])
def test_staged_lines(configured: None, seed: int) -> None:
    problem = "batch=3 in=16 out=16 groups=1 size=4,40,96 kernel=1,3,3 stride=1,1,1 padding=0,1,1"
    problem += " output_padding=0,0,0 dilation=1,1,1"
    options = ["--seed", str(seed), "--pass", "grad_weight", "--layout", "contiguous"]
    options += ["--type", "bfloat16", "--plans", "12"]
    plans = plans_run("wgmma_grad_weight", problem, *options)
    staged = re.findall(r"lines \d+x(\d+), .* fill 1\n", plans)
    assert any(int(width) < 96 for width in staged), "no tile narrower than its line was staged"


# Of seed 2, some tensors have gaps between lines: the copy engine then brings parts of lines.
@pytest.mark.parametrize(
    ("channels", "geometry", "plan"),
    [
        ((16, 64), "size=3,5,16 kernel=3,3,3", "  mirrored, columns"),
        ((16, 16), "size=2,3,80 kernel=1,3,3", r"x(96|128), rows of \d+, fill [01] and 0"),
    ],
    ids=["mirrored", "parts_of_lines"],
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gathered_rows(
    configured: None, channels: tuple[int, int], geometry: str, plan: str, dtype: str
) -> None:
    problem = f"batch=2 in={channels[0]} out={channels[1]} groups=1 {geometry} stride=1,1,1"
    problem += f" padding={int('kernel=3' in geometry)},1,1 output_padding=0,0,0 dilation=1,1,1"
    options = ["--seed", "2", "--pass", "grad_weight", "--layout", "contiguous"]
    options += ["--type", dtype, "--plans", "40"]
    plans = plans_run("gathered_grad_weight", problem, *options)
    assert re.search(plan, plans), "no such plan was run"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing_arrival", r"DEADLOCK[^\0]*1 of 2 arrivals and 0 bytes to come: warps 0 1 2 3\n"),
        ("another_arrival", "more than 1 arrivals in a phase"),
        ("no_barrier", "is no mbarrier"),
        ("missing_warp", r"DEADLOCK[^\0]*barrier 1 at faults.cpp:\d+, 96 of 128 threads there"),
        ("barrier_in_branch", r"__syncthreads in a branch: others are at line \d+"),
        ("diverging_lanes", "lanes of a warp diverge"),
        ("store_outside", r"a store: 16 bytes at 0x1400 are outside shared memory"),
        ("write_outside", "byte 4196 of 4096 bytes of shared memory has been written"),
        ("product_outside", r"an operand of wgmma: 16 bytes at 0x\w+ are outside shared memory"),
        ("store_not_fenced", "a product of zeros is"),
        ("product_not_waited_for", "a warp ends with products that it has not waited for"),
        ("different_products", "the lanes of a warp issue different products"),
        ("copy_not_waited_for", "a block ends before its asynchronous copies"),
    ],
)
def test_faults_are_reported(configured: None, fault: str, message: str) -> None:
    run = subprocess.run([build("faults"), fault], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1 and re.match(f"FAILED: .*{message}", run.stdout), run.stdout
