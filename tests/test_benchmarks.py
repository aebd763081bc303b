from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(Path(__file__).parent)]  # as python does for a script there

from benchmark_arms import (  # noqa: E402
    dying,
    failing,
    filling,
    filling_after_a_larger_setup,
    noting,
    returning,
    thread_count,
)
from harness import Arm, Report, Row, Target, run_benchmark  # noqa: E402


def test_each_arm_has_its_process_and_calls_go_by_turns(tmp_path):
    log = tmp_path / "log"
    arms = [Arm(name, partial(noting, log, name)) for name in ("a", "b")]
    run_benchmark("Order", arms, baseline="a", repeats=2)

    lines = [line.split() for line in log.read_text().splitlines()]
    assert [line[:2] for line in lines] == [
        ["a", "setup"], ["a", "call"],
        ["b", "setup"], ["b", "call"],
        ["a", "call"], ["b", "call"],
        ["a", "call"], ["b", "call"],
    ]  # fmt: skip
    processes = {(name, process) for name, _, process in lines}
    assert len(processes) == len({process for _, process in processes}) == 2
    assert str(os.getpid()) not in {process for _, process in processes}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can be reset on Linux alone")
def test_extra_peak_memory_is_that_of_the_call_and_not_of_the_setup():
    arms = [
        Arm("much", partial(filling, 120)),
        Arm("little", partial(filling, 30)),
        Arm("after a larger setup", partial(filling_after_a_larger_setup, 30)),
    ]
    rows = run_benchmark("Memory", arms, baseline="much", repeats=1).rows
    assert [row.peak_extra_mib for row in rows] == pytest.approx([120, 30, 32], abs=3)
    assert [row.memory_saving for row in rows] == pytest.approx([1, 4, 4], rel=0.15)


def test_ratios_refer_to_the_baseline_of_the_case_within_each_round():
    arms = [Arm(name, partial(filling, size), case) for case in ("x", "y") for name, size in (("a", 1), ("b", 2))]
    report = run_benchmark("Ratios", arms, baseline="a", repeats=3)
    assert [(row.case, row.arm) for row in report.rows] == [("x", "a"), ("x", "b"), ("y", "a"), ("y", "b")]
    bases, others = report.rows[::2], report.rows[1::2]
    assert [(base.speedup, base.cpu_saving, base.memory_saving) for base in bases] == [(1, 1, 1)] * 2
    ratios = [
        tuple(
            statistics.median(b / o for b, o in zip(*each, strict=True))
            for each in ((base.seconds, other.seconds), (base.cpu_seconds, other.cpu_seconds))
        )
        for base, other in zip(bases, others, strict=True)
    ]
    assert [(other.speedup, other.cpu_saving) for other in others] == ratios
    medians = [(sorted(other.seconds)[1], sorted(other.cpu_seconds)[1]) for other in others]
    assert [(other.median_s, other.median_cpu_s) for other in others] == medians


def test_results_are_compared_with_those_of_the_baseline():
    arms = [Arm("three", partial(returning, 3)), Arm("five", partial(returning, 5))]
    report = run_benchmark("Results", arms, baseline="five", repeats=1, compare=lambda base, own: {"off": own - base})
    assert [row.comparison for row in report.rows] == [{"off": -2}, {"off": 0}]
    assert "| off |" in report.markdown()


def test_threads_are_set_for_the_arms_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    arms = [Arm("a", thread_count)]
    rows = run_benchmark("Threads", arms, baseline="a", repeats=1, threads=1, compare=lambda _, n: {"n": n}).rows
    assert rows[0].comparison == {"n": 1}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    rows = run_benchmark("Threads", arms, baseline="a", repeats=1, compare=lambda _, n: {"n": n}).rows
    assert rows[0].comparison == {"n": 7}


def test_page_and_json_say_what_was_run_and_which_target_was_met(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks/x.py", "--note", "two words"])
    page = tmp_path / "new" / "page.md"
    report = run_benchmark(
        "A title",
        [Arm("a", partial(filling, 1), "size 1")],
        baseline="a",
        repeats=2,
        output=page,
        targets=[Target("size 1", "a", "speedup", 1), Target("size 1", "a", "memory_saving", 1.5)],
    )
    text = page.read_text()
    assert text == report.markdown()
    assert text.startswith("# A title\n")
    assert "python benchmarks/x.py --note 'two words'" in text
    assert "- a size 1: speedup 1.00x, target at least 1x: **met**" in text
    assert "- a size 1: memory saving 1.00x, target at least 1.5x: **missed**" in text
    record = json.loads(page.with_suffix(".json").read_text())
    assert record["rows"][0]["seconds"] == report.rows[0].seconds
    assert len(record["rows"][0]["seconds"]) == record["repeats"] == 2
    assert [target["met"] for target in record["targets"]] == [True, False]
    assert {"python", "torch", "monai"} <= record["versions"].keys()
    assert record["machine"]["cpu"]


def test_a_failing_arm_is_named_with_its_traceback():
    with pytest.raises(RuntimeError, match=r"(?s)arm 'bad' in case 'x' failed:.*IndexError: list index out of range"):
        run_benchmark("Failing", [Arm("bad", failing, "x")], baseline="bad")


def test_an_arm_whose_process_dies_is_named_with_the_exit_code():
    with pytest.raises(RuntimeError, match="arm 'bad' died with exit code 3"):
        run_benchmark("Dying", [Arm("bad", dying)], baseline="bad")


A = Arm("a", partial(returning, 0))


@pytest.mark.parametrize(
    ("arms", "arguments", "message"),
    [
        ([], {}, "arms must not be empty"),
        ([A], {"repeats": 0}, "repeats must be at least 1, got 0"),
        ([A], {"threads": 0}, "threads must be at least 1, got 0"),
        ([A, A], {}, r"different names, got \('', 'a'\) twice"),
        ([A, Arm("b", A.setup, "other")], {}, "baseline 'a', case 'other' has none"),
        ([A], {"targets": [Target("", "b", "speedup", 1)]}, r"not measured: \('', 'b'\)"),
        ([A], {"targets": [Target("", "a", "beauty", 1)]}, "speedup, cpu_saving or memory_saving, got 'beauty'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(arms, arguments, message):
    with pytest.raises(ValueError, match=message):
        run_benchmark("Refused", arms, baseline="a", **arguments)


@pytest.mark.parametrize("backward", [False, True])
def test_the_stored_map_that_nonlocal_block_is_measured_against_is_the_same_function(backward):
    import nonlocal_block as benchmark

    stored = benchmark.make_call(benchmark.StoredMapBlock, 3, backward)()
    ours = benchmark.make_call(benchmark.NonLocalBlock, 3, backward)()
    assert stored.shape == (1, 128, 3, 3, 3)
    assert benchmark.largest_difference(stored, ours)["largest difference"] < 1e-5


@pytest.mark.parametrize("backward", [False, True])
def test_every_arm_of_the_asymmetric_attention_is_the_softmax_over_its_tokens(backward):
    import asymmetric_nonlocal as benchmark

    checked = {arm: benchmark.make_call(arm, (9, 14), backward)() for arm in benchmark.ARMS}
    shapes = {shape for each in checked.values() for shape in (each.result.shape, each.expected.shape)}
    assert shapes == {(256, 126)}
    assert max(benchmark.largest_difference(each, each)["error"] for each in checked.values()) < 1e-5
    # the two kinds of tokens differ, and so do the results
    stored = checked[benchmark.STORED].result
    like_stored = {arm for arm, each in checked.items() if np.allclose(each.result, stored, atol=1e-4)}
    assert like_stored == {benchmark.STORED, benchmark.TILED}


def test_the_two_ways_to_attend_are_compared_by_round_and_in_sum():
    import asymmetric_nonlocal as benchmark

    seconds = {
        ("44×44 forward", benchmark.POOLED_SDPA): [2.0, 8.0, 3.0],
        ("44×44 forward", benchmark.POOLED): [2.0, 2.0, 2.0],
        ("44×44 forward + backward", benchmark.POOLED_SDPA): [4.0, 4.0, 9.0],
        ("44×44 forward + backward", benchmark.POOLED): [8.0, 2.0, 4.0],
    }
    rows = [Row(case, arm, each, each, each[1], 1.0, each[1], 1.0, 1.0, 1.0) for (case, arm), each in seconds.items()]
    report = Report("", "", "", "", "", 3, None, {}, {}, "", rows, [])
    # 1, 4, 1.5; 0.5, 2, 2.25; 6/10, 12/4, 12/6
    assert benchmark.verdict(report).endswith("44×44: forward 1.50, forward + backward 2.00, both together 2.00.")


def test_the_loop_that_the_pr_curve_is_measured_against_gives_the_average_precision_of_its_thresholds():
    import pr_curve as benchmark
    from sklearn.metrics import average_precision_score

    logits, truth = benchmark.make_scores(5000, saturated=False)
    thresholds = np.linspace(1, 0, 1000, dtype=np.float32)
    prob = thresholds[np.abs(benchmark.as_prob(logits)[:, None] - thresholds).argmin(1)]  # so that they lose nothing
    loop = benchmark.loop_over_thresholds(prob, truth.astype(bool), 1000)
    assert loop == pytest.approx(average_precision_score(truth, prob), abs=1e-9)


@pytest.fixture(scope="module")
def small_polyp_run(tmp_path_factory):
    """A run folder of ResUNet++ with random weights whose last bias finds polyps in about a third of the pixels."""
    import polyp_inference as benchmark

    folder = tmp_path_factory.mktemp("run")
    subject = benchmark.Subject("polyp_resunetpp", None, None, (64, 64), 1)
    parser = benchmark.config_of("polyp_resunetpp", None)
    (folder / "config.json").write_text(json.dumps({**parser.get(), "features": [8, 8, 8, 8, 8]}))
    parser = benchmark.config_of("polyp_resunetpp", folder)
    network = benchmark.make_network(subject, parser, None)
    with torch.no_grad():
        logits = network(benchmark.batch(subject, parser))
    network.get_parameter([name for name, _ in network.named_parameters()][-1]).data -= logits.quantile(2 / 3)
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


def test_polyp_networks_give_the_labels_of_a_run_in_every_precision(small_polyp_run):
    import polyp_inference as benchmark

    subject = benchmark.Subject("polyp_resunetpp", small_polyp_run, None, (64, 64), 2)
    plain = benchmark.make_call(subject, benchmark.PLAIN, "cpu")()
    assert plain.values.shape == (2, 64, 64)
    assert plain.level() == 0
    assert benchmark.label_agreement(plain, plain)["polyp %"] == pytest.approx(100 / 3, abs=0.1)
    own = {arm: benchmark.make_call(subject, arm, "cpu")() for arm in benchmark.ARMS["cpu"]}
    assert [arm for arm, each in own.items() if np.array_equal(each.values, plain.values)] == [benchmark.PLAIN]
    most = {arm: 1000 if dtype is None else 100_000 for arm, (dtype, _) in benchmark.ARMS["cpu"].items()}
    others = {arm: benchmark.label_agreement(plain, each)["differing labels, ppm"] for arm, each in own.items()}
    assert {arm: ppm for arm, ppm in others.items() if ppm > most[arm]} == {}


def test_agreement_of_labels_is_counted_above_the_level_of_plain_float32():
    import polyp_inference as benchmark

    values = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    other = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    # random weights: above 2.5 are the last two, and the second and third
    found = benchmark.label_agreement(benchmark.Margins(values, False), benchmark.Margins(other, False))
    assert found == {"polyp %": 50, "differing labels, ppm": 500_000, "1 - Dice": 0.5}
    # trained ones: all are above 0
    found = benchmark.label_agreement(benchmark.Margins(values, True), benchmark.Margins(other, True))
    assert found == {"polyp %": 100, "differing labels, ppm": 0, "1 - Dice": 0}
    # no polyp on either side has no Dice
    found = benchmark.label_agreement(benchmark.Margins(-values, True), benchmark.Margins(-other, True))
    assert found == {"polyp %": 0, "differing labels, ppm": 0}


def test_weights_are_those_of_the_run_or_of_the_bundle_or_random():
    import polyp_inference as benchmark

    def weights(name: str, run: Path | None):
        subject = benchmark.Subject(name, run, None, (64, 64), 1)
        return benchmark.weights_of(subject, benchmark.config_of(name, None))

    shipped = weights("kvasir_clinicdb128", None)
    assert shipped.is_file()
    assert shipped.parent == BENCHMARKS.parent / "bundles/polyp_resunetpp/models"
    assert weights("kvasir_clinicdb128", Path("runs/a")) == Path("runs/a/model.pt")
    assert weights("polyp_resunetpp", None) is None


def test_a_run_of_no_known_network_is_refused():
    import polyp_inference as benchmark

    assert benchmark.named_runs(["unet=runs/a"]) == {"unet": Path("runs/a").resolve()}
    with pytest.raises(ValueError, match=r"with a name of polyp_ann, .*, found 'vnet'"):
        benchmark.named_runs(["vnet=runs/a"])
    with pytest.raises(ValueError, match="found ''"):
        benchmark.named_runs(["runs/a"])


def test_images_per_second_are_those_of_the_batch():
    import polyp_inference as benchmark

    row = Row("case", "arm", [2.0], [2.0], 2.0, 1.0, 2.0, 1.0, 1.0, 1.0, {"1 - Dice": 0.0})
    report = Report("", "", "", "", "", 1, None, {}, {}, "", [row], [])
    assert benchmark.add_rates(report, batch_size=8) == "case: arm: 4 images/s"
    assert row.comparison == {"images/s": 4, "1 - Dice": 0}


@pytest.mark.slow
def test_the_loop_that_prediction_is_measured_against_makes_the_same_masks(tmp_path):
    import picture_folder as benchmark

    pictures = benchmark.picture_files(argparse.Namespace(phantom=True, pictures=2), tmp_path)
    folders = [tmp_path / name for name in ("loop", "own")]
    for folder in folders:
        folder.mkdir()
    loop = benchmark.plain_loop(pictures, folders[0], 64, None)()
    own = benchmark.ours(pictures, folders[1], 64, None, workers=2, precision="float32")()
    assert len(list(own.glob("*.json"))) == 2
    numbers = benchmark.compare(loop, own)
    assert 1 < numbers["foreground %"] < 99
    assert numbers["differing labels, ppm"] < 100


@pytest.mark.slow
def test_the_loader_of_before_gives_the_same_pictures_and_samples(tmp_path):
    import loader as benchmark

    folder = benchmark.data_sets(argparse.Namespace(phantom=True, pictures=None, cases=3), tmp_path)["generated"]
    knobs = {"dataset_dir": str(folder), "split_file": str(tmp_path / "split.json"), "test_cases": 1, "val_cases": 1}
    knobs["picture_size"] = [48, 64]
    before, ours = (
        benchmark.filling("polyp_resunetpp", knobs, 3, 2, arm)() for arm in (benchmark.BEFORE, benchmark.OURS)
    )
    assert [item["image"].shape for item in before] == [(3, 48, 64)] * 3
    found = benchmark.differences(before, ours)
    assert 0 < found["largest difference of an image"] < 1e-6
    assert found["differing labels"] == 0
    before, ours = (
        benchmark.drawing("polyp_resunetpp", knobs, 3, 32, arm)() for arm in (benchmark.BEFORE, benchmark.OURS)
    )
    assert before[0]["image"].shape == (16, 3, 48, 64)
    assert set(benchmark.differences(before, ours).values()) == {0}
    assert benchmark.drawing("polyp_resunetpp", knobs, 3, 32, benchmark.BATCHED)() is None
    assert benchmark.decoding("polyp_resunetpp", knobs, 3, 2)() is None


def test_cases_per_second_are_those_of_their_case():
    import loader as benchmark

    row = Row("case", "arm", [2.0], [1.0], 2.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    report = Report("", "", "", "", "", 1, None, {}, {}, "", [row], [])
    assert benchmark.add_rates(report, {"case": 8}) == "case: arm: 4 per second"
    assert row.comparison == {"per s": 4, "CPU ms each": 125}


def test_every_way_to_run_a_window_gives_its_labels():
    import window as benchmark

    options = {"edge": 16, "batch": 2, "passes": 1, "filters": 8}
    plain = benchmark.make_call(benchmark.PLAIN, "cpu", **options)()
    assert plain.shape == (2, 16, 16, 16)
    assert 0.2 < plain.mean() < 0.8
    others = {
        arm: benchmark.agreement(plain, benchmark.make_call(arm, "cpu", **options)())["differing labels, ppm"]
        for arm in benchmark.ARMS["cpu"]
    }
    # a little, and in bfloat16 more than nothing
    limits = {
        arm: (way.dtype == torch.bfloat16, 1000 if way.dtype is None else 100_000)
        for arm, way in benchmark.ARMS["cpu"].items()
    }
    assert {arm: ppm for arm, ppm in others.items() if not limits[arm][0] <= ppm <= limits[arm][1]} == {}
    assert benchmark.agreement(np.array([True, False]), np.array([True, True])) == {
        "foreground %": 50,
        "differing labels, ppm": 500_000,
    }


def test_milliseconds_are_those_of_one_window():
    import window as benchmark

    row = Row("case", "arm", [2.0], [2.0], 2.0, 1.0, 2.0, 1.0, 1.0, 1.0)
    report = Report("", "", "", "", "", 1, None, {}, {}, "", [row], [])
    assert benchmark.add_milliseconds(report, {"case": 40}) == "case: arm: 50 ms per window"


NO_TIMING = ("harness.py", "endurance.py", "agreement.py", "memory.py", "region.py", "nnunet_predictor.py")


@pytest.mark.parametrize("script", sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name not in NO_TIMING))
def test_every_benchmark_explains_its_options_anywhere(script, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert {"--repeats", "--threads", "--output"} <= set(capsys.readouterr().out.replace(",", " ").split())


@pytest.mark.slow
def test_a_benchmark_is_a_script_that_runs_anywhere(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "pr_curve.py"), "--help"]
    assert "--repeats" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
