"""Running the benchmark: reference, worker, lost workers, a whole quick run on the CPU."""

import json
import subprocess
import sys
import time

import pytest
import torch
from convt3d.bench import check, cli, display, peers, results, runner, timing
from convt3d.bench.cases import parse_shape, select
from convt3d.bench.problem import BASIC_PASSES, LAYOUTS, Problem, set_float32_precision
from convt3d.bench.worker import Worker

CPU = torch.device("cpu")
SHAPES = (
    "2,4,3,4,5 -> 6 k3 s2 p1 op1",
    "1,6,4,3,2 -> 4 k2x3x4 s1x2x3 p0x1x2 g2 d2x1x1",
    "3,2,2,3,4 -> 3 k2x1x2 s2x3x2",
    "2,3,5,4,3 -> 1 k3 p2",
)


def request_of(case, impl="aten", pass_name="forward", dtype="fp32", layout="contiguous"):
    return {
        "task": "cell",
        "case": case.to_dict(),
        "dtype": dtype,
        "layout": layout,
        "pass": pass_name,
        "impl": impl,
        "budget_ms": 1.0,
    }


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


def test_one_wrong_element_of_ours_is_found_anywhere(monkeypatch):
    """The sample does not hold every element; the comparison with PyTorch's operator does."""
    case = parse_shape("1,8,24,24,24 -> 4 k3 s2 p1 op1")
    problem = Problem(case, "fp32", "contiguous", CPU)
    right = peers.operator("aten", "forward", problem)

    monkeypatch.setattr(peers, "operator", lambda *_: right)
    job = peers.build("convt3d", "forward", problem)
    result = job.call(*job.rotation[0])
    assert job.check(result) < 1e-6
    positions = check.sample_positions((48, 48, 48), 1, CPU, 16384 // 4)
    sampled = set(map(tuple, positions[:, 1:].tolist()))
    everywhere = torch.cartesian_prod(*[torch.arange(48)] * 3).tolist()
    d, h, w = next(place for place in everywhere if tuple(place) not in sampled)
    result[0, 1, d, h, w] += 0.1
    with pytest.raises(check.WrongResult, match=r"against PyTorch: 1 of \d+ elements"):
        job.check(result)


def test_one_wrong_element_of_our_weight_gradient_is_found(monkeypatch):
    """The sample holds a few taps; float32 is compared with float64 at all of them."""
    case = parse_shape("2,4,5,6,7 -> 6 k4 s2 p1")
    problem = Problem(case, "fp32", "contiguous", CPU)
    right = peers.operator("aten", "grad_weight", problem)
    monkeypatch.setattr(peers, "operator", lambda *_: right)
    job = peers.build("convt3d", "grad_weight", problem)
    result = job.call(*job.rotation[0])
    assert job.check(result) < 4e-6
    tap = (1, 1, 2)
    assert tap not in check.sampled_taps(case)
    result[3, 5, 1, 1, 2] *= 1.001
    with pytest.raises(check.WrongResult, match=r"against float64: 1 of \d+ elements"):
        job.check(result)


def test_a_wrong_implementation_has_no_time(monkeypatch):
    aten = peers.operator

    def doubled(impl, pass_name, problem):
        call = aten("aten", pass_name, problem)
        return (lambda *operands: 2 * call(*operands)) if impl == "convt3d" else call

    monkeypatch.setattr(peers, "operator", doubled)
    row = Worker("convt3d", CPU).answer(request_of(parse_shape(SHAPES[0]), "convt3d"))
    assert row["status"] == "wrong"
    assert "out of tolerance" in row["message"]
    assert "median_ms" not in row


def test_an_implementation_that_raises_has_no_time(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel for this\nand a long trace")

    monkeypatch.setattr(peers, "operator", broken)
    row = Worker("convt3d", CPU).answer(request_of(parse_shape(SHAPES[0]), "convt3d"))
    assert (row["status"], row["message"]) == ("error", "no kernel for this")
    assert "median_ms" not in row


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_name", [*BASIC_PASSES, "step"])
def test_worker_times_pytorch(pass_name, dtype):
    row = Worker("aten", CPU).answer(request_of(parse_shape(SHAPES[0]), "aten", pass_name, dtype))
    assert row["status"] == "ok", row
    assert row["median_ms"] > 0 and row["repeats"] >= timing.FEWEST and row["method"] == "wall"


@pytest.mark.parametrize("impl", peers.ALTERNATIVES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_alternatives_pass_their_check(impl, layout):
    case = parse_shape("2,4,3,4,5 -> 6 k2x3x1 s2x3x1")
    assert impl in peers.implementations(case, "forward", "cpu")
    row = Worker("aten", CPU).answer(request_of(case, impl, layout=layout))
    assert row["status"] == "ok", row


def test_alternatives_only_where_they_make_sense():
    def names(shape, pass_name="forward"):
        return peers.implementations(parse_shape(shape), pass_name, "cuda")

    cudnn = ("convt3d", "cudnn_heuristic", "cudnn_benchmark")
    assert names("1,2,3,3,3 -> 2 k3") == cudnn
    assert names("1,2,3,3,3 -> 2 k3 s2") == (*cudnn, "interpolate_conv")
    assert names("1,2,3,3,3 -> 2 k2 s2") == (*cudnn, *peers.ALTERNATIVES)
    assert names("1,2,3,3,3 -> 2 k2 s2", "grad_input") == cudnn


def test_rotation_outgrows_the_cache():
    problem = Problem(parse_shape("1,8,32,32,32 -> 8 k3"), "fp32", "channels_last_3d", CPU)
    sets = problem.rotation("forward")
    size = 4 * problem.case.elements
    assert (len(sets) - 1) * size < 3 * (32 << 20) <= len(sets) * size
    assert len({x.data_ptr() for x, _ in sets}) == len(sets)
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x, _ in sets)


def test_repeats_follow_the_budget():
    assert timing.repeats_within(100, 1) == 100
    assert timing.repeats_within(100, 500) == timing.FEWEST
    assert timing.repeats_within(100, 1e-3) == timing.MOST
    spread = timing.summarize([1.0, 2.0, 3.0, 4.0, 100.0], 1, "wall")
    assert (spread.median_ms, spread.spread_ms) == (3.0, 2.0)


def settings_of(*shapes):
    cases = tuple(parse_shape(shape) for shape in shapes)
    return runner.Settings(cases, ("fp32",), ("contiguous",), ("forward",), "cpu")


class FakeWorker:
    """Answers from a list of times, which may hold a `WorkerLost`."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def ask(self, request, timeout_s):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        names = {key: request[key] for key in ("dtype", "layout", "pass", "impl")}
        row = {"case": request["case"]["name"], **names, "status": "ok", "message": ""}
        return row | {"median_ms": answer, "spread_ms": 0.0}

    def stop(self):
        pass


def run_with(workers, *shapes):
    settings = settings_of(*shapes)
    result = runner.empty_result(settings, "2026-01-01")
    result["peaks"] = {"fp32": 1.0, "copy_gbs": 10.0}
    run = runner.Run(settings, result, None)
    run._workers = workers
    return run


def test_a_lost_worker_costs_one_row():
    lost = runner.WorkerLost("timeout", "no answer within 1 s")
    workers = {"convt3d": FakeWorker(lost, 1.0), "aten": FakeWorker(2.0, 2.0)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    shown = [display.line_of(cell, rows) for cell, rows in run.rows()]
    assert [line[4:7] for line in shown] == [
        ("timeout", "2 (aten)", "-"),
        ("1", "2 (aten)", "2.00x"),
    ]


def test_surprising_rows_are_measured_again():
    workers = {"convt3d": FakeWorker(0.1, 0.5), "aten": FakeWorker(2.0, 2.1)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3")
    ((_, rows),) = run.rows()
    assert [(r["median_ms"], r["first_median_ms"]) for r in rows] == [(0.5, 0.1), (2.1, 2.0)]


def test_time_limit_and_resume():
    workers = {"convt3d": FakeWorker(1.0, 1.0), "aten": FakeWorker(1.0, 1.0)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    steps = run.rows()
    next(steps)
    resumed = runner.Run(run.settings, run.result, None)
    assert [cell.case.kernel for cell in resumed.pending] == [(2, 2, 2)]


def test_worker_process_survives_crash_and_timeout(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys, time\n"
        "for line in sys.stdin:\n"
        "    task = json.loads(line)['task']\n"
        "    if task == 'crash':\n"
        "        print('the last words', file=sys.stderr, flush=True)\n"
        "        os._exit(3)\n"
        "    if task == 'hang':\n"
        "        time.sleep(60)\n"
        "    print(json.dumps({'task': task}), flush=True)\n"
    )
    worker = runner.WorkerProcess("aten", "cpu")
    worker._command = [sys.executable, str(script)]
    try:
        assert worker.ask({"task": "a"}, 30) == {"task": "a"}
        with pytest.raises(runner.WorkerLost, match="code 3: the last words") as crash:
            worker.ask({"task": "crash"}, 30)
        assert crash.value.status == "crash"
        started = time.monotonic()
        with pytest.raises(runner.WorkerLost, match="no answer within 1 s") as hang:
            worker.ask({"task": "hang"}, 1)
        assert hang.value.status == "timeout" and time.monotonic() - started < 10
        assert worker.ask({"task": "b"}, 30) == {"task": "b"}
    finally:
        worker.stop()


def test_quick_run_on_the_cpu(tmp_path, capsys):
    path = tmp_path / "quick.json"
    arguments = ["--quick", "--device", "cpu", "-o", str(path), "--timeout", "120"]
    assert cli.main([*arguments, "--layouts", "contiguous"]) == 0
    result = results.load(path)
    cells = {results.key_of(row) for row in result["rows"]}
    assert len(cells) == 3 * 3
    assert list(results.failures(result)) == []
    assert {row["impl"] for row in result["rows"]} == {"convt3d", "aten", *peers.ALTERNATIVES}
    assert all(pair.speedup and pair.floor_ratio for pair in results.pairs(result))
    assert set(result["cold_start"]) == {"convt3d", "torch"}
    assert result["peaks"]["fp32"] > 0 and result["peaks"]["copy_gbs"] > 0
    assert "## All cells" in path.with_suffix(".md").read_text()

    capsys.readouterr()
    assert cli.main([*arguments, "--layouts", "contiguous", "--resume"]) == 0
    assert "0 cells on cpu" in capsys.readouterr().out


def test_command_line_errors(capsys):
    assert cli.main(["--cases", "nosuch", "--device", "cpu"]) == 2
    assert "no case, group or glob 'nosuch'" in capsys.readouterr().err
    assert cli.main(["--device", "cpu", "--dtypes", "tf32"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["--dtypes", "int8"])
    assert cli.main(["list", "nnunet"]) == 0
    assert "nnunet_128" in capsys.readouterr().out


def test_live_table_holds_every_cell(stored_rows):
    pytest.importorskip("rich")
    view = display.LiveDisplay(2)
    with view:
        for cell, rows in stored_rows:
            view.show(cell, rows)
    assert view._progress.finished


@pytest.fixture
def stored_rows():
    lost = runner.WorkerLost("crash", "gone")
    workers = {"convt3d": FakeWorker(lost, 1.0), "aten": FakeWorker(2.0, 2.0)}
    return run_with(workers, "1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2").rows()


def test_nothing_is_drawn_until_asked():
    """The extras are optional: importing and listing works without them."""
    code = (
        "import sys\n"
        "sys.modules['rich'] = sys.modules['matplotlib'] = None\n"
        "from convt3d.bench.cli import main\n"
        "raise SystemExit(main(['list', 'weather']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["weather", "weather"]


def test_cases_survive_the_result_file():
    case = select(["kb72"])[0]
    stored = json.loads(json.dumps(case.to_dict()))
    assert (stored["macs"], stored["elements"]) == (case.macs, case.elements)


@pytest.mark.parametrize("dtype", ["tf32", "fp32", "tf32"])
def test_float32_precision_is_set_everywhere(dtype):
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    try:
        set_float32_precision(dtype)
        tf32 = dtype == "tf32"
        assert backends.cudnn.conv.fp32_precision == ("tf32" if tf32 else "ieee")
        assert backends.cuda.matmul.fp32_precision == ("tf32" if tf32 else "ieee")
        assert (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32) == (tf32, tf32)
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before
