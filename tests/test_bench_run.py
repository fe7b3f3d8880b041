"""Running the benchmark: worker, lost workers, a whole quick run on the CPU."""

import dataclasses
import json
import subprocess
import sys
import time

import pytest
import torch
from convt3d.bench import cli, display, peers, reference, results, runner, timing
from convt3d.bench.cases import parse_shape, select
from convt3d.bench.problem import BASIC_PASSES, LAYOUTS, Problem, set_float32_precision
from convt3d.bench.worker import Worker

CPU = torch.device("cpu")
SHAPE = "2,4,3,4,5 -> 6 k3 s2 p1 op1"


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


def test_references_are_kept_for_the_other_layout(monkeypatch):
    worker = Worker("convt3d", CPU)
    calls = []
    sample = reference.sample
    monkeypatch.setattr(
        reference, "sample", lambda *arguments: calls.append(arguments[1]) or sample(*arguments)
    )
    for dtype in ("fp32", "bf16"):
        for layout in LAYOUTS:
            for pass_name in ("forward", "step"):
                request = request_of(parse_shape(SHAPE), "aten", pass_name, dtype, layout)
                assert worker.answer(request)["status"] == "ok"
    assert calls == 2 * ["forward", "grad_input", "grad_weight"]


def test_a_wrong_implementation_has_no_time(monkeypatch):
    aten = peers.operator

    def doubled(impl, pass_name, problem):
        call = aten("aten", pass_name, problem)
        return (lambda *operands: 2 * call(*operands)) if impl == "convt3d" else call

    monkeypatch.setattr(peers, "operator", doubled)
    row = Worker("convt3d", CPU).answer(request_of(parse_shape(SHAPE), "convt3d"))
    assert row["status"] == "wrong"
    assert "out of tolerance" in row["message"]
    assert "median_ms" not in row


def test_an_implementation_that_raises_has_no_time(monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel for this\nand a long trace")

    monkeypatch.setattr(peers, "operator", broken)
    row = Worker("convt3d", CPU).answer(request_of(parse_shape(SHAPE), "convt3d"))
    assert (row["status"], row["message"]) == ("error", "no kernel for this")
    assert "median_ms" not in row


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("pass_name", [*BASIC_PASSES, "step"])
def test_worker_times_pytorch(pass_name, dtype):
    row = Worker("aten", CPU).answer(request_of(parse_shape(SHAPE), "aten", pass_name, dtype))
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
    assert names("1,2,3,3,3 -> 2 k3") == (*cudnn, "compiled")
    assert names("1,2,3,3,3 -> 2 k3 s2") == (*cudnn, "interpolate_conv", "compiled")
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


def lost(status="timeout"):
    return runner.WorkerLost(status, "no answer within 1 s")


def run_with(workers, *shapes, time_limit_s=float("inf")):
    settings = dataclasses.replace(settings_of(*shapes), time_limit_s=time_limit_s)
    result = runner.empty_result(settings, "2026-01-01")
    result["peaks"] = {"fp32": 1.0, "copy_gbs": 10.0}
    run = runner.Run(settings, result, None)
    run._workers = workers
    return run


def test_a_lost_worker_costs_one_row():
    workers = {"convt3d": FakeWorker(lost(), 1.0), "aten": FakeWorker(2.0, 2.0)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    shown = [display.line_of(cell, rows) for cell, rows in run.rows()]
    assert [line[4:7] for line in shown] == [
        ("timeout", "2 (aten)", "-"),
        ("1", "2 (aten)", "2.00x"),
    ]
    workers = {"convt3d": FakeWorker(1.0, 1.0), "aten": FakeWorker(lost(), 2.0)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    shown = [display.line_of(cell, rows) for cell, rows in run.rows()]
    assert [line[4:7] for line in shown] == [("1", "none", "-"), ("1", "2 (aten)", "2.00x")]
    statuses = [row["status"] for row in run.result["rows"]]
    assert statuses == ["ok", "timeout", "ok", "ok"]


def test_surprising_rows_are_measured_again():
    workers = {"convt3d": FakeWorker(0.1, 0.5), "aten": FakeWorker(2.0, 2.1)}
    run = run_with(workers, "1,2,3,3,3 -> 2 k3")
    ((_, rows),) = run.rows()
    assert [(r["median_ms"], r["first_median_ms"]) for r in rows] == [(0.5, 0.1), (2.1, 2.0)]


def test_resume_measures_what_a_cell_lacks():
    shapes = ("1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    run = run_with({"convt3d": FakeWorker(1.0), "aten": FakeWorker(1.0)}, *shapes)
    next(run.rows())
    del run.result["rows"][1]
    resumed = runner.Run(run.settings, run.result, None)
    assert [cell.case.kernel for cell in resumed.pending] == [(3, 3, 3), (2, 2, 2)]
    resumed._workers = {"convt3d": FakeWorker(5.0), "aten": FakeWorker(2.0, 6.0)}
    assert len(list(resumed.rows())) == 2
    assert [row["median_ms"] for row in run.result["rows"]] == [1.0, 2.0, 5.0, 6.0]
    assert runner.Run(run.settings, run.result, None).pending == []


def test_time_limit_stops_between_rows(monkeypatch):
    """The last row would start too late; what was measured is in the result."""
    clock = [0.0]
    monkeypatch.setattr(runner.time, "monotonic", lambda: clock[0])

    class Slow(FakeWorker):
        def ask(self, request, timeout_s):
            clock[0] += 4.0
            return super().ask(request, timeout_s)

    shapes = ("1,2,3,3,3 -> 2 k3", "1,2,3,3,3 -> 2 k2")
    workers = {"convt3d": Slow(1.0, 2.0), "aten": Slow(3.0)}
    run = run_with(workers, *shapes, time_limit_s=10.0)
    assert runner.run_all(run, lambda *_: None) == 1
    assert [row["median_ms"] for row in run.result["rows"]] == [1.0, 3.0, 2.0]
    assert results.pairs(run.result)[1].speedup is None

    # A row that the limit, not its own timeout, cuts short is no failure of the implementation.
    run = run_with({"convt3d": FakeWorker(lost())}, *shapes, time_limit_s=10.0)
    assert runner.run_all(run, lambda *_: None) == 0
    assert run.result["rows"] == []


def test_a_result_of_another_device_is_not_resumed():
    run = run_with({}, "1,2,3,3,3 -> 2 k3")
    run.result["environment"] = {"device": "A", "torch": "2", "cudnn": None}

    class Probed(FakeWorker):
        def ask(self, request, timeout_s):
            assert request["dtypes"] == []
            return {"environment": {"device": "B", "torch": "2"}, "peaks": {}}

    run._workers["convt3d"] = Probed()
    with pytest.raises(results.ResultError, match="device A, not B"):
        run.probe()


def test_settled_samples_end_a_row_early():
    drawn = []

    def draw(noise):
        def samples(count):
            drawn.append(count)
            return [1.0 + noise * (i % 2) for i in range(count)]

        return samples

    assert len(timing._until_settled(draw(0.001), 100)) == 25
    assert len(timing._until_settled(draw(0.1), 100)) == 100
    assert len(timing._until_settled(draw(0.001), 4)) == 4
    assert drawn == [25, 25, 75, 4]


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
    arguments = [
        "--quick",
        "--device",
        "cpu",
        "-o",
        str(path),
        "--timeout",
        "120",
        "--time-limit",
        "500",
    ]
    assert cli.main([*arguments, "--layouts", "contiguous"]) == 0
    result = results.load(path)
    cells = {results.key_of(row) for row in result["rows"]}
    assert len(cells) == 3 * 3
    assert list(results.failures(result)) == []
    assert {row["impl"] for row in result["rows"]} == {"convt3d", "aten", *peers.QUICK_ALTERNATIVES}
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
    workers = {"convt3d": FakeWorker(lost("crash"), 1.0), "aten": FakeWorker(2.0, 2.0)}
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
