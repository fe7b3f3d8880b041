"""The benchmark's check: right results pass it, wrong ones do not, wherever the error sits."""

import pytest
import torch
from convt3d.bench import check, peers, reference
from convt3d.bench.cases import parse_shape, select
from convt3d.bench.problem import BASIC_PASSES, LAYOUTS, Problem

CPU = torch.device("cpu")
SHAPES = (
    "2,4,3,4,5 -> 6 k3 s2 p1 op1",
    "1,6,4,3,2 -> 4 k2x3x4 s1x2x3 p0x1x2 g2 d2x1x1",
    "3,2,2,3,4 -> 3 k2x1x2 s2x3x2",
    "2,3,5,4,3 -> 1 k3 p2",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pass_name", BASIC_PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_reference_agrees_with_pytorch(shape, pass_name, layout):
    case = parse_shape(shape)
    problem = Problem(case, "fp32", layout, CPU)
    operands = problem.operands(pass_name)
    result = peers.operator("aten", pass_name, problem)(*operands)
    limit = check.limit_of("fp32", pass_name)
    assert check.check_sampled(case, limit, pass_name, operands, result) < 1e-6


@pytest.mark.parametrize("pass_name", BASIC_PASSES)
def test_reference_finds_a_slightly_wrong_result(pass_name):
    case = parse_shape(SHAPES[0])
    problem = Problem(case, "fp32", "contiguous", CPU)
    operands = problem.operands(pass_name)
    result = peers.operator("aten", pass_name, problem)(*operands)
    limit = check.limit_of("fp32", pass_name)
    for wrong in (result * (1 + 1e-4), result.flip(-1), result[:, :1], result * float("nan")):
        with pytest.raises(check.WrongResult):
            check.check_sampled(case, limit, pass_name, operands, wrong)


def job_of_ours(monkeypatch, case, pass_name, pytorch=None, dtype="fp32"):
    """The job of ours and its right result. Ours is computed by PyTorch, and what it is compared
    with is `pytorch(right result)`."""
    problem = Problem(case, dtype, "contiguous", CPU)
    right = peers.operator("aten", pass_name, problem)
    distorted = (lambda *operands: pytorch(right(*operands))) if pytorch else right
    monkeypatch.setattr(
        peers, "operator", lambda impl, *_: right if impl == "convt3d" else distorted
    )
    job = peers.build("convt3d", pass_name, problem)
    return job, job.call(*job.rotation[0])


def unsampled(case, pass_name, shape):
    """An index of the result that the sample does not hold."""
    problem = Problem(case, "fp32", "contiguous", CPU)
    places = reference.sample(case, pass_name, problem.operands(pass_name)).places.tolist()
    sampled = set(map(tuple, places))
    sizes = shape[2:] if pass_name == "grad_weight" else (shape[0], *shape[2:])
    everywhere = torch.cartesian_prod(*map(torch.arange, sizes)).tolist()
    free = next(place for place in everywhere if tuple(place) not in sampled)
    return (0, 1, *free) if pass_name == "grad_weight" else (free[0], 1, *free[1:])


WHOLE = parse_shape("2,8,24,24,24 -> 4 k3x3x4 s2 p1 op1 g2")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("pass_name", BASIC_PASSES)
def test_one_wrong_element_of_ours_is_found_anywhere(monkeypatch, pass_name, dtype):
    """The sample does not hold every element; the comparison with PyTorch's operator does."""
    job, result = job_of_ours(monkeypatch, WHOLE, pass_name, dtype=dtype)
    assert job.check(result) < (1e-6 if dtype == "fp32" else 5e-3)
    place = unsampled(WHOLE, pass_name, result.shape)
    for wrong in (1.2 * result[place] + 0.2 * result.float().std(), float("nan"), float("inf")):
        spoilt = result.clone()
        spoilt[place] = wrong
        with pytest.raises(check.WrongResult, match=r"against PyTorch: 1 of \d+ elements"):
            job.check(spoilt)


@pytest.mark.parametrize("pass_name", BASIC_PASSES)
def test_one_wrong_channel_of_ours_is_found(monkeypatch, pass_name):
    job, result = job_of_ours(monkeypatch, WHOLE, pass_name)
    swapped = result.clone()
    swapped[:, 0], swapped[:, 1] = result[:, 1], result[:, 0]
    for wrong in (result.index_fill(1, torch.tensor([1]), 0), swapped):
        with pytest.raises(check.WrongResult, match="out of tolerance"):
            job.check(wrong)


@pytest.mark.parametrize("pass_name", BASIC_PASSES)
def test_the_error_of_pytorch_is_not_ours(monkeypatch, pass_name):
    """As cuDNN's float32 weight gradients, which add up millions of products in turn; and one
    wrong element of PyTorch's."""

    def noisy(right):
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(right.shape, generator=generator)
        return right + 1e-5 * right.std() * noise

    job, result = job_of_ours(monkeypatch, WHOLE, pass_name, noisy)
    assert job.check(result) < 1e-6
    place = unsampled(WHOLE, pass_name, result.shape)

    def spoilt(right):
        right = right.clone()
        right[place] += 1
        return right

    monkeypatch.undo()
    job, result = job_of_ours(monkeypatch, WHOLE, pass_name, spoilt)
    assert job.check(result) < 1e-6
    monkeypatch.undo()
    job, result = job_of_ours(monkeypatch, WHOLE, pass_name, lambda right: 2 * right)
    with pytest.raises(check.NoReference, match="PyTorch's own result is wrong"):
        job.check(result)


@pytest.mark.parametrize("pass_name", BASIC_PASSES)
def test_single_elements_of_the_reference(pass_name):
    problem = Problem(WHOLE, "fp32", "contiguous", CPU)
    operands = problem.operands(pass_name)
    result = peers.operator("aten", pass_name, problem)(*operands)
    ends = torch.tensor([[0] * 5, [size - 1 for size in result.shape]])
    values = reference.elements(WHOLE, pass_name, operands, ends)
    assert torch.allclose(values, result[tuple(ends.unbind(1))].double(), rtol=1e-4, atol=1e-5)


def test_others_may_add_up_millions_of_products_in_turn():
    """cuDNN's heuristic choice for kb70's weight gradient has a relative error of 4.7e-5."""
    case = select(["kb70"])[0]
    assert check.terms(case, "grad_weight") == 8 * 96**3
    assert check.terms(case, "forward") == 48 * 27
    assert check.terms(case, "grad_input") == 24 * 27
    assert 4.7e-5 < check.others_limit(case, "fp32", "grad_weight").frobenius < 4e-4
    assert check.limit_of("fp32", "grad_weight").frobenius == 4e-6
