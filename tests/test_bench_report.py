"""What is made of a stored result: report, README block, pictures, comparison, merge."""

import copy
from pathlib import Path

import pytest
from convt3d.bench import cli, compare, report, results

assert_expected_inline = pytest.importorskip("expecttest").assert_expected_inline

STORED = Path(__file__).with_name("bench_result.json")


@pytest.fixture
def stored():
    return results.load(STORED)


def row_of(result, case, dtype, layout, impl="convt3d"):
    wanted = (case, dtype, layout, "forward")
    rows = (r for r in result["rows"] if results.key_of(r) == wanted and r["impl"] == impl)
    return next(rows)


def saved(result, path):
    results.save(result, path)
    return str(path)


def test_summary(stored):
    text = report.markdown(stored)
    assert_expected_inline(
        text[: text.index("## What one might")],
        """\
# convt3d on Imaginary GPU

convt3d 0.1.0 (0123456789ab), torch 2.11.0, cuDNN 91900, CUDA 13.0, 2026-01-02.
Measured peaks: matmul TFLOP/s bf16 800, tf32 400; copy 4000 GB/s.
An empty kernel in a CUDA graph takes 1.25 us.
Times are medians in milliseconds; x floor is our time over the floor.
Speed-up is the baseline's time over ours; the baseline is the faster of cuDNN's heuristic and benchmark mode.

## Losing cases: 2 of 10

| case | dtype | layout | pass | ours | spread | baseline | by | speed-up | x floor | bound |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| monai_64 | bf16 | contiguous | forward | 0.4 | 0.004 | 0.3 | cudnn_benchmark | 0.75x | 11.29 | memory |
| monai_64 | tf32 | contiguous | forward | 0.8 | 0.008 | 0.6 | cudnn_benchmark | 0.75x | 11.29 | memory |

## Failures: 3

These rows have no time.

| case | dtype | layout | pass | by | status | message |
| --- | --- | --- | --- | --- | --- | --- |
| nnunet_128 | tf32 | channels_last_3d | forward | convt3d | wrong | 3 of 9 elements \\| out of tolerance |
| gan_head | bf16 | channels_last_3d | forward | convt3d | timeout | no answer within 60 s |
| gan_head | tf32 | contiguous | forward | cudnn_benchmark | error | out of memory |

## Summary

| dtype | layout | pass | geometric mean | worst case | cases won |
| --- | --- | --- | --- | --- | --- |
| bf16 | contiguous | forward | 1.44x | 0.75x (monai_64) | 2 of 3 |
| bf16 | channels_last_3d | forward | 2.24x | 1.67x (nnunet_128) | 2 of 3 (1 failed) |
| tf32 | contiguous | forward | 1.44x | 0.75x (monai_64) | 2 of 3 |
| tf32 | channels_last_3d | forward | 1.50x | 1.50x (monai_64) | 2 of 3 (1 failed) |

""",  # noqa: E501
    )


def test_report_of_a_run_without_failures_or_losses(stored):
    stored["rows"] = [
        r for r in stored["rows"] if r["case"] == "nnunet_128" and r["dtype"] == "bf16"
    ]
    text = report.markdown(stored)
    assert "## Losing cases: 0 of 2" in text
    assert "## Failures" not in text


def test_save_and_load_round_trip(stored, tmp_path):
    again = tmp_path / "again.json"
    results.save(stored, again)
    assert results.load(again) == stored
    assert again.read_text() == STORED.read_text()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.json"
    for text, message in (
        ("{", "not JSON"),
        ("[]", "not a benchmark result"),
        ('{"schema": 0, "rows": []}', "schema 0"),
    ):
        path.write_text(text)
        with pytest.raises(results.ResultError, match=message):
            results.load(path)


def test_a_wrong_row_has_no_speedup(stored):
    pairs = {pair.key: pair for pair in results.pairs(stored)}
    wrong = pairs["nnunet_128", "tf32", "channels_last_3d", "forward"]
    assert wrong.baseline is not None
    assert wrong.speedup is None


def test_better_cudnn_mode_counts(stored):
    pairs = {pair.key: pair for pair in results.pairs(stored)}
    assert pairs["monai_64", "bf16", "contiguous", "forward"].baseline["impl"] == "cudnn_benchmark"
    assert pairs["gan_head", "tf32", "contiguous", "forward"].baseline["impl"] == "cudnn_heuristic"


def test_comparison_within_the_noise(stored, tmp_path):
    new = copy.deepcopy(stored)
    row_of(new, "monai_64", "bf16", "contiguous")["median_ms"] *= 1.029
    assert cli.main(["compare", str(STORED), saved(new, tmp_path / "new.json")]) == 0


def test_comparison_exit_code_and_text(stored, tmp_path, capsys):
    new = copy.deepcopy(stored)
    row_of(new, "monai_64", "bf16", "contiguous")["median_ms"] = 0.48
    row_of(new, "gan_head", "bf16", "contiguous")["median_ms"] = 0.125
    broken = row_of(new, "nnunet_128", "bf16", "contiguous")
    broken.update(status="crash", message="process ended with code -11")
    del broken["median_ms"]
    assert cli.main(["compare", str(STORED), saved(new, tmp_path / "new.json")]) == 1
    assert_expected_inline(
        capsys.readouterr().out,
        """\
2 slower:
  nnunet_128 bf16 contiguous forward: 0.04 ms -> crash: process ended with code -11
  monai_64 bf16 contiguous forward: 0.4 ms -> 0.48 ms (1.20x)
1 faster:
  gan_head bf16 contiguous forward: 0.25 ms -> 0.125 ms (0.50x)
7 unchanged within the noise
""",
    )


def test_noise_is_three_spreads_or_three_percent():
    still = {"median_ms": 1.0, "spread_ms": 0.001}
    noisy = {"median_ms": 1.0, "spread_ms": 0.05}
    assert compare.noise_ms(still, still) == pytest.approx(0.03)
    assert compare.noise_ms(still, noisy) == pytest.approx(0.15)


def test_results_of_different_devices_are_not_compared(stored, tmp_path, capsys):
    stored["environment"]["device"] = "Another GPU"
    assert cli.main(["compare", str(STORED), saved(stored, tmp_path / "new.json")]) == 2
    assert "different devices" in capsys.readouterr().err


def test_merge_keeps_the_later_row_and_all_cases(stored, tmp_path):
    first, second = copy.deepcopy(stored), copy.deepcopy(stored)
    first["rows"] = [row for row in stored["rows"] if row["case"] != "gan_head"]
    del first["cases"]["gan_head"]
    second["rows"] = [r for r in second["rows"] if r["case"] != "nnunet_128"]
    row_of(second, "monai_64", "bf16", "contiguous")["median_ms"] = 0.25
    second["peaks"] = {**second["peaks"], "bf16": 2 * first["peaks"]["bf16"], "copy_gbs": 1.0}
    first["peaks"]["copy_gbs"] *= 2
    target = tmp_path / "merged.json"
    paths = [saved(first, tmp_path / "a.json"), saved(second, tmp_path / "b.json")]
    cli.main(["merge", *paths, "-o", str(target)])
    merged = results.load(target)
    assert len(merged["rows"]) == len(stored["rows"])
    assert set(merged["cases"]) == set(stored["cases"])
    row = row_of(merged, "monai_64", "bf16", "contiguous")
    assert row["median_ms"] == 0.25
    for name in ("bf16", "copy_gbs"):
        assert merged["peaks"][name] == pytest.approx(2 * stored["peaks"][name], rel=1e-5)
    # Both rates are twice as high, so every floor in bf16 is half of what it was.
    before = row_of(stored, "monai_64", "bf16", "contiguous")["floor_ms"]
    assert row["floor_ms"] == pytest.approx(before / 2, rel=1e-4)
    assert row["floor_ratio"] == pytest.approx(0.25 / row["floor_ms"], rel=1e-4)
    assert target.with_suffix(".md").exists()

    second["environment"]["torch"] = "2.99"
    with pytest.raises(results.ResultError, match="different torch"):
        results.merge([first, second])


def test_figures_rewrite_the_readme_between_its_markers(stored, tmp_path):
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.README_BEGIN}\nold\n{report.README_END}\nafter\n")
    arguments = ["figures", str(STORED), "-o", str(tmp_path / "docs"), "--compare", str(STORED)]
    assert cli.main([*arguments, "--readme", str(readme)]) == 0
    drawn = sorted(path.name for path in (tmp_path / "docs").iterdir())
    assert drawn == [
        "before_after_forward_bf16.png",
        "roofline_forward_bf16.png",
        "speedup_forward_bf16.png",
    ]
    first = {path: path.read_bytes() for path in (tmp_path / "docs").iterdir()}
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "![Speed-up by case](docs/speedup_forward_bf16.png)" in text
    assert "Imaginary GPU" in text

    assert cli.main([*arguments, "--readme", str(readme)]) == 0
    assert readme.read_text() == text
    assert {path: path.read_bytes() for path in first} == first


def test_figures_need_the_markers(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    readme = tmp_path / "README.md"
    readme.write_text("no markers\n")
    arguments = ["figures", str(STORED), "-o", str(tmp_path), "--readme", str(readme)]
    assert cli.main(arguments) == 2
    assert "bench:begin" in capsys.readouterr().err


def test_where_the_time_went(stored):
    assert "Where the run's time went" not in report.markdown(stored)
    for row in stored["rows"][:2]:
        row |= {"impl": "convt3d", "took_s": [1.0, 0.5, 0.25]}
    assert "| convt3d | 2.0 s | 1.0 s | 0.5 s |" in report.markdown(stored)
