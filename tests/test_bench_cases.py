"""The benchmark's shapes, and its floors against numbers worked out by hand."""

import pytest
from convt3d.bench.cases import CASES, PUBLIC, Case, parse_shape, select
from convt3d.bench.floor import floor, tensor_bytes


def test_shape_with_all_options():
    case = parse_shape("2,8,4,5,6 -> 12 k3x4x5 s2 p1x0x2 op1x0x1 g4 d1x2x1")
    assert case == Case(
        name="2,8,4,5,6 -> 12 k3x4x5 s2 p1x0x2 op1x0x1 g4 d1x2x1",
        group="custom",
        input=(2, 8, 4, 5, 6),
        out_channels=12,
        kernel=(3, 4, 5),
        stride=(2, 2, 2),
        padding=(1, 0, 2),
        output_padding=(1, 0, 1),
        dilation=(1, 2, 1),
        groups=4,
    )
    assert case.output == (2, 12, 8, 15, 12)
    assert case.weight == (8, 3, 3, 4, 5)


def test_options_left_out_have_their_defaults():
    case = parse_shape("1,2,3,4,5->6 k2")
    assert (case.stride, case.padding, case.output_padding) == ((1, 1, 1), (0, 0, 0), (0, 0, 0))
    assert (case.dilation, case.groups) == ((1, 1, 1), 1)
    assert case.name == "1,2,3,4,5 -> 6 k2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4,5 -> 6", "kernel size is missing"),
        ("1,2,3,4 -> 6 k2", "4 sizes"),
        ("1,2,x,4,5 -> 6 k2", "not a shape"),
        ("1,2,3,4,5 ->", "not a shape"),
        ("1,2,3,4,5 -> 6 k2x3", "one number or three"),
        ("1,2,3,4,5 -> 6 k2 q7", "unknown option 'q7'"),
        ("1,2,3,4,5 -> 6 k2 k3", "given twice"),
        ("1,2,3,4,5 -> 6 k2 g3", "divisible by groups"),
        ("1,2,3,4,5 -> 6 k2 g1x2x1", "groups is one number"),
        ("1,2,3,4,5 -> 6 k2 op1", "output padding must be below"),
        ("1,2,3,4,5 -> 6 k2 p4", "too small"),
        ("1,2,3,4,5 -> 6 k0", "at least 1"),
    ],
)
def test_bad_shapes_say_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse_shape(text)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shape_and_dict_round_trip(case):
    again = parse_shape(case.shape, case.name, case.group)
    assert again == case
    assert Case.from_dict(case.to_dict()) == case


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(PUBLIC) == 26


def test_select_takes_names_groups_globs_and_shapes():
    chosen = select(["monai,kb2_1*", "1,2,3,4,5 -> 6 k2", "monai_64"])
    assert [case.name for case in chosen] == [
        "monai_128",
        "monai_64",
        "monai_head",
        "kb2_13",
        "kb2_100",
        "1,2,3,4,5 -> 6 k2",
    ]


def test_select_names_what_is_near():
    with pytest.raises(ValueError, match=r"'nnunet_46'.*nnunet_64"):
        select(["nnunet_46"])


@pytest.mark.parametrize(
    ("text", "macs"),
    [
        # 2 samples x 3 x 4 channels x (2*3*4 positions) x 8 taps, nothing cropped
        ("2,3,2,3,4 -> 4 k2 s2", 2 * 3 * 4 * 24 * 8),
        # each axis: 4 positions x 4 taps, of which the first and the last fall into the padding
        ("1,2,4,4,4 -> 3 k4 s2 p1", 2 * 3 * 14**3),
        # 4 groups: 8 input channels meet 12/4 output channels each
        ("1,8,2,2,2 -> 12 k1 g4", 8 * 3 * 8),
        # output padding beyond the last tap adds no product; of 3x3 per axis the first is cropped
        ("1,1,3,3,3 -> 1 k3 s2 p1 op1", 8**3),
    ],
)
def test_macs_by_hand(text, macs):
    assert parse_shape(text).macs == macs


def test_floor_by_hand():
    # 1,4,2,2,2 -> 8 k2 s2: output 4x4x4, 32 + 512 + 256 = 800 elements, 4*8*8*8 = 2048 MACs
    case = parse_shape("1,4,2,2,2 -> 8 k2 s2")
    assert tensor_bytes(case, "bf16") == 1600
    assert tensor_bytes(case, "tf32") == 3200
    memory_bound = floor(case, "bf16", tflops=1.0, copy_gbs=1.0)
    assert memory_bound.memory_ms == pytest.approx(1.6e-3)
    assert memory_bound.math_ms == pytest.approx(4.096e-6)
    assert (memory_bound.ms, memory_bound.bound) == (memory_bound.memory_ms, "memory")
    math_bound = floor(case, "fp32", tflops=0.001, copy_gbs=1000.0)
    assert (math_bound.ms, math_bound.bound) == (pytest.approx(4.096e-3), "math")
    with pytest.raises(ValueError, match="positive"):
        floor(case, "bf16", 0.0, 1.0)


def test_floor_of_a_public_case():
    # kb61: 8 x 48 x 48 x 27 products at each of 64^3 positions; 806 TFLOP/s give 0.3238 ms
    case = select(["kb61"])[0]
    assert case.macs == 8 * 48 * 48 * 27 * 64**3
    assert floor(case, "bf16", 806, 4273).ms == pytest.approx(0.3238, rel=1e-3)
