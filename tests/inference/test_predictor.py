from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Orientationd, Spacingd
from torch import nn

from medseg3d.data.outputs import input_items, record_file
from medseg3d.errors import UserError
from medseg3d.files.tensors import save_tensors
from medseg3d.inference import CasePredictor, PredictionResult, SliceWindows, SlidingWindow, load_weights, with_engine
from medseg3d.inference.backends import ENGINES, Engine
from medseg3d.transforms import InvertToOriginald, LoadVolumed, SaveMaskd

SHAPE = (12, 11, 10)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, 0.2, -0.1) @ np.diag([-2.0, -2.0, 3.0]), [12.5, -40.0, 900.0]
)


def write_ct(path: Path, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-1000, 1000, SHAPE).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nib.Nifti1Image(values, AFFINE)
    volume.set_qform(AFFINE, 1)
    nib.save(volume, path)
    return values


def above_zero(image: torch.Tensor) -> torch.Tensor:
    """Logits that say 1 where the image is positive."""
    return torch.cat([-image, image], 1)


def predictor(dataset: object, network: Callable = above_zero, **options: object) -> CasePredictor:
    steps = [
        LoadVolumed("image"),
        Orientationd("image", axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        Spacingd("image", pixdim=(2.0, 2.0, 3.0), dtype=torch.float32),
    ]
    defaults = {
        "inferer": SimpleInferer(),
        "preprocessing": Compose(steps),
        "postprocessing": Compose([InvertToOriginald("pred"), SaveMaskd("pred")]),
    }
    return CasePredictor(dataset, network, **{**defaults, **options})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_mask_marks_the_very_voxels_of_the_file(tmp_path: Path) -> None:
    values = write_ct(tmp_path / "in/ct.nii.gz")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert report.exit_code == 0
    mask = nib.load(tmp_path / "out/ct_seg.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), values > 0)
    assert np.array_equal(mask.affine, nib.load(tmp_path / "in/ct.nii.gz").affine)


@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindow((8, 8, 8))])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_any_inferer_serves(tmp_path: Path, inferer: Callable, precision: str) -> None:
    values = write_ct(tmp_path / "in/ct.nii.gz")
    predictor(input_items(tmp_path / "in", tmp_path / "out"), inferer=inferer, precision=precision).run().check()
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out/ct_seg.nii.gz").dataobj), values > 0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_half_precision_is_used_when_asked_for(tmp_path: Path, precision: str) -> None:
    def inferer(batch: torch.Tensor, network: Callable) -> torch.Tensor:
        enabled = torch.is_autocast_enabled("cpu")
        assert (str(torch.get_autocast_dtype("cpu")) if enabled else "torch.float32") == f"torch.{precision}"
        return network(batch)

    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), inferer=inferer, precision=precision).run().check()


def test_faulty_cases_do_not_stop_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(5):
        write_ct(tmp_path / f"in/{number}.nii.gz", seed=number)
    predictor(input_items(tmp_path / "in", tmp_path / "clean")).run().check()
    truncated, empty = tmp_path / "in/1.nii.gz", tmp_path / "in/3.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:1000])
    empty.write_bytes(b"")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert [record["case"] for record in report.done] == ["0", "2", "4"]
    assert [str(failure).split(":")[0] for failure in report.failed] == [f"TRUNCATED {truncated}", f"EMPTY {empty}"]
    assert report.exit_code == 3
    assert str(report) == "3 segmented, 0 skipped, 2 failed"
    assert names(tmp_path / "out") == [f"{number}_seg.{kind}" for number in (0, 2, 4) for kind in ("json", "nii.gz")]
    masks = [f"{number}_seg.nii.gz" for number in (0, 2, 4)]
    made = {name: (tmp_path / "out" / name).read_bytes() for name in masks}
    assert made == {name: (tmp_path / "clean" / name).read_bytes() for name in masks}
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == list(map(str, report.failed))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("inferer", [SimpleInferer(), SlidingWindow((8, 8, 8)), SliceWindows((8, 8), neighbours=0)])
def test_a_scan_whose_logits_are_not_finite_gets_no_mask(tmp_path: Path, inferer: Callable, workers: int) -> None:
    values = [write_ct(tmp_path / f"in/{number}.nii.gz", seed=number) for number in range(3)]
    voxel = int(np.setdiff1d(values[1], [values[0], values[2]])[0])  # the scan in the middle alone has it

    def network(window: torch.Tensor) -> torch.Tensor:
        return above_zero(torch.where(window == voxel, torch.inf, window))

    report = predictor(input_items(tmp_path / "in", tmp_path / "out"), network, inferer=inferer, workers=workers).run()
    assert [str(failure).split(":")[0] for failure in report.failed] == [f"NON_FINITE {tmp_path / 'in/1.nii.gz'}"]
    assert report.exit_code == 3
    assert names(tmp_path / "out") == [f"{number}_seg.{kind}" for number in (0, 2) for kind in ("json", "nii.gz")]


def test_all_faulty_is_another_exit_code(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
        (tmp_path / f"in/{name}.nii.gz").write_bytes(b"")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert report.exit_code == 1
    with pytest.raises(
        UserError, match=r"CASES_FAILED 2 of 2 cases: failed, the first with EMPTY .*a\.nii\.gz, expected"
    ):
        report.check()


def test_only_case_fails_with_its_own_error(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    (tmp_path / "ct.nii.gz").write_bytes(b"")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run()
    with pytest.raises(UserError, match=r"^EMPTY "):
        report.check()


@pytest.mark.parametrize("where", ["preprocessing", "postprocessing"])
def test_what_nobody_foresaw_is_one_line_with_the_innermost_cause_and_the_file(tmp_path: Path, where: str) -> None:
    def fail(item: dict) -> dict:
        raise ZeroDivisionError("by zero")

    write_ct(tmp_path / "ct.nii.gz")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), **{where: Compose([fail])}).run()
    said = f"INTERNAL {tmp_path / 'ct.nii.gz'}: ZeroDivisionError: by zero. Hint: "
    assert str(report.failed[0]).startswith(said)
    with pytest.raises(UserError, match="INTERNAL") as caught:
        report.check()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert names(tmp_path / "out") == []


def test_interrupted_run_is_taken_up_where_it_stood(tmp_path: Path) -> None:
    for name in "abc":
        write_ct(tmp_path / f"in/{name}.nii.gz")

    def interrupted(item: dict) -> dict:
        if item["case"] == "b":
            raise KeyboardInterrupt
        return Compose([InvertToOriginald("pred"), SaveMaskd("pred")])(item)

    with pytest.raises(KeyboardInterrupt):
        predictor(input_items(tmp_path / "in", tmp_path / "out"), postprocessing=interrupted).run()
    assert names(tmp_path / "out") == ["a_seg.json", "a_seg.nii.gz"]
    (tmp_path / "out/.medseg3d-tmp-0123456789abcdef.nii.gz").write_bytes(b"half a mask of a killed process")
    report = predictor(input_items(tmp_path / "in", tmp_path / "out")).run()
    assert ([item["case"] for item in report.skipped], [record["case"] for record in report.done]) == (
        ["a"],
        ["b", "c"],
    )
    assert report.exit_code == 0
    assert len(names(tmp_path / "out")) == 6


def test_resumed_run_with_errors_ends_like_the_first(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
    (tmp_path / "in/b.nii.gz").write_bytes(b"")
    codes = [predictor(input_items(tmp_path / "in", tmp_path / "out")).run().exit_code for _ in range(2)]
    assert codes == [3, 3]


@pytest.mark.parametrize("moment", ["before the mask", "after the mask"])
def test_no_record_speaks_of_another_mask(tmp_path: Path, moment: str) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run().check()

    def killed(item: dict) -> dict:
        if moment == "after the mask":
            Compose([InvertToOriginald("pred"), SaveMaskd("pred")])(item)
        raise KeyboardInterrupt

    again = input_items(tmp_path / "ct.nii.gz", tmp_path / "out", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        predictor(again, postprocessing=killed, overwrite=True).run()
    assert names(tmp_path / "out") == ["ct_seg.nii.gz"]
    # the mask without a record is ours, so the case is not done
    assert len(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")) == 1


def test_a_case_that_fails_leaves_its_earlier_mask_with_the_record_of_it(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run().check()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fail(item: dict) -> dict:
        raise ZeroDivisionError("by zero")

    again = input_items(tmp_path / "ct.nii.gz", tmp_path / "out")
    report = predictor(again, inferer=SlidingWindow((8, 8, 8)), postprocessing=Compose([fail])).run()
    assert (report.exit_code, report.again) == (1, [])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_record_tells_what_was_done(tmp_path: Path) -> None:
    values = write_ct(tmp_path / "secret/ct.nii.gz")
    network = nn.Conv3d(1, 2, 1, bias=False)
    network.weight.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1, 1)
    save_tensors(tmp_path / "model.pt", network.state_dict())
    network = load_weights(network, tmp_path / "model.pt")
    report = predictor(
        input_items(tmp_path / "secret/ct.nii.gz", tmp_path / "out"),
        network,
        inferer=SlidingWindow((8, 8, 8), precision="bfloat16"),
        settings={"window_hu": (-100, 240)},
    ).run()
    text = record_file(tmp_path / "out/ct_seg.nii.gz").read_text()
    record = json.loads(text)
    assert record["intended_use"] == "research only, not for clinical use"
    paths = {"input": "secret/ct.nii.gz", "mask": "out/ct_seg.nii.gz", "model": "model.pt"}
    digests = {part: hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() for part, path in paths.items()}
    assert {part: record[part]["sha256"] for part in paths} == digests
    assert record["labels"] == {"1": {"voxels": (values > 0).sum(), "ml": pytest.approx((values > 0).sum() * 0.012)}}
    assert record["geometry"]["shape"] == list(SHAPE)
    assert record["geometry"]["spacing_mm"] == pytest.approx([2, 2, 3])
    assert record["geometry"]["orientation"] == "LPS"
    assert record["inference"] == {
        "class": "SlidingWindow", "device": "cpu", "engine": "torch", "precision": "bfloat16",
        "roi_size": [8, 8, 8], "overlap": 0.5, "mirror_axes": [], "region_tau": 0.0, "region_margin": 16,
    }  # fmt: skip
    assert record["settings"] == {"window_hu": [-100, 240]}
    assert record["warnings"] == []
    assert set(record["seconds"]) == {"preprocessing", "inference", "postprocessing"}
    assert {"medseg3d", "monai", "torch"} <= record["versions"].keys()
    assert "secret" not in text
    assert record == json.loads(json.dumps(report.done[0]))


def test_record_names_the_engine_that_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    engine = Engine("other", lambda network, windows, precision: network, frozenset({"float32"}))
    monkeypatch.setitem(ENGINES, "other", engine)
    network = nn.Conv3d(1, 2, 1).eval()
    inferer = with_engine(SlidingWindow((8, 8, 8)), "other")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), network, inferer=inferer).run().check()
    assert report.done[0]["inference"]["engine"] == "other"
    again = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), network, inferer=SlidingWindow((8, 8, 8)))
    assert len(again.run().skipped) == 1  # the device and the engine make no other mask


def test_warnings_and_an_empty_mask_are_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nib.save(nib.Nifti1Image(np.full(SHAPE, -7, np.int16), AFFINE), tmp_path / "ct.nii.gz")
    report = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out")).run().check()
    codes = [warning.split(":")[0] for warning in report.done[0]["warnings"]]
    assert codes == ["HU_RANGE", "EMPTY_MASK"]
    assert report.done[0]["labels"] == {}
    assert [record.message.split(":")[:2] for record in caplog.records if record.levelname == "WARNING"] == [
        ["ct", f" {code}"] for code in codes
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("two\nlines"), r"^INTERNAL .*ct\.nii\.gz: RuntimeError: two lines. "),
        (MemoryError(), "^OUT_OF_MEMORY .*ct.nii.gz"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "^OUT_OF_MEMORY"),
        (RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc"), "^OUT_OF_MEMORY"),
    ],
)
def test_whatever_a_network_raises_becomes_one_line(tmp_path: Path, error: Exception, words: str) -> None:
    def network(image: torch.Tensor) -> torch.Tensor:
        raise error

    write_ct(tmp_path / "ct.nii.gz")
    (failure,) = predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), network).run().failed
    assert re.search(words, str(failure))
    assert "\n" not in str(failure)
    assert not (tmp_path / "out").exists()


def test_data_set_with_its_own_transform_is_the_same(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct.nii.gz")
    write_ct(tmp_path / "done.nii.gz")
    predictor(input_items(tmp_path / "done.nii.gz", tmp_path / "a")).run()
    items = input_items([tmp_path / "ct.nii.gz", tmp_path / "done.nii.gz"], tmp_path / "a")
    steps = predictor([]).preprocessing
    report = predictor(Dataset(items, steps), preprocessing=None).run()
    assert (len(report.done), len(report.skipped)) == (1, 1)
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "b")).run()
    assert (tmp_path / "a/ct_seg.nii.gz").read_bytes() == (tmp_path / "b/ct_seg.nii.gz").read_bytes()


def test_plain_list_needs_a_preprocessing() -> None:
    with pytest.raises(ValueError, match="preprocessing must be given"):
        predictor([], preprocessing=None)


def test_nothing_to_do_is_done() -> None:
    report = predictor([{"case": "a", "reason": "somebody else's"}]).run()
    assert (report.exit_code, str(report)) == (0, "0 segmented, 1 skipped, 0 failed")
    assert report.check() is report
    assert PredictionResult().exit_code == 0


def test_progress_is_told_after_each_case(tmp_path: Path) -> None:
    for name in "ab":
        write_ct(tmp_path / f"in/{name}.nii.gz")
    told = []

    def tell(number: int, total: int, item: dict) -> None:
        told.append((number, total, item["case"], names(tmp_path / "out")))

    predictor(input_items(tmp_path / "in", tmp_path / "out")).run(progress=tell)
    masks = ["a_seg.json", "a_seg.nii.gz", "b_seg.json", "b_seg.nii.gz"]
    assert told == [(1, 2, "a", masks[:2]), (2, 2, "b", masks)]


class TestWorkers:
    """Several cases under way at once."""

    def cases(self, folder: Path, count: int, bad: tuple[str, ...] = ()) -> list[str]:
        """Names of volumes written to `folder`, those of `bad` without a byte."""
        names = [f"ct_{index}" for index in range(count)]
        for seed, name in enumerate(names):
            write_ct(folder / f"{name}.nii.gz", seed)
            if name in bad:
                (folder / f"{name}.nii.gz").write_bytes(b"")
        return names

    def test_files_and_report_are_those_of_one_worker(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        bad = ("ct_1", "ct_4")
        names_of_cases = self.cases(tmp_path / "in", 6, bad)
        reports, told, said = {}, {}, {}
        for workers in (1, 3):
            caplog.clear()
            told[workers] = []
            reports[workers] = predictor(
                input_items(tmp_path / "in", tmp_path / f"out{workers}"),
                inferer=SlidingWindow((8, 8, 8)),
                workers=workers,
            ).run(progress=lambda number, total, item, to=told[workers]: to.append((number, total, item["case"])))
            said[workers] = [record.message for record in caplog.records if record.levelname == "ERROR"]
        assert told[3] == told[1] == [(number, 6, name) for number, name in enumerate(names_of_cases, 1)]
        assert said[3] == said[1]
        assert len(said[3]) == 2
        done = {workers: [record["case"] for record in report.done] for workers, report in reports.items()}
        failed = {workers: [failure.item["case"] for failure in report.failed] for workers, report in reports.items()}
        assert done[1] == done[3] == [name for name in names_of_cases if name not in bad]
        assert failed[1] == failed[3] == list(bad)
        one, three = (
            {
                path.name: {**json.loads(path.read_bytes()), "seconds": None}
                if path.suffix == ".json"
                else path.read_bytes()
                for path in (tmp_path / folder).iterdir()
            }
            for folder in ("out1", "out3")
        )
        assert one == three
        assert len(one) == 2 * 4

    def test_cases_are_under_way_at_once(self, tmp_path: Path) -> None:
        meeting = threading.Barrier(2, timeout=60)

        def network(image: torch.Tensor) -> torch.Tensor:
            meeting.wait()  # alone, a case would break the barrier
            assert torch.get_num_threads() == max(1, threads // 2)
            return above_zero(image)

        threads = torch.get_num_threads()
        self.cases(tmp_path / "in", 4)
        predictor(input_items(tmp_path / "in", tmp_path / "out"), network, workers=2).run().check()
        new = ThreadPoolExecutor(1).submit(torch.get_num_threads).result()
        assert (torch.get_num_threads(), new) == (threads, threads)

    def test_after_an_interrupt_what_is_under_way_ends_and_nothing_begins(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cases(tmp_path / "in", 9)
        raised, cancelled = threading.Event(), threading.Event()
        stock_shutdown = ThreadPoolExecutor.shutdown

        def shutdown(pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
            stock_shutdown(pool, wait=False, cancel_futures=cancel_futures)
            cancelled.set()
            stock_shutdown(pool, wait=wait)

        def interrupted(item: dict) -> dict:
            if item["case"] == "ct_1":
                raised.set()
                raise KeyboardInterrupt
            # the others of the four that are begun end when no more can begin
            assert (raised if item["case"] == "ct_0" else cancelled).wait(60)
            return Compose([InvertToOriginald("pred"), SaveMaskd("pred")])(item)

        monkeypatch.setattr(ThreadPoolExecutor, "shutdown", shutdown)
        with pytest.raises(KeyboardInterrupt):
            predictor(input_items(tmp_path / "in", tmp_path / "out"), postprocessing=interrupted, workers=2).run()
        written = names(tmp_path / "out")
        finished = {name.removesuffix("_seg.json") for name in written if name.endswith(".json")}
        assert written == sorted(f"{name}_seg.{kind}" for name in finished for kind in ("json", "nii.gz"))
        assert {"ct_0"} <= finished <= {"ct_0", "ct_2", "ct_3"}

    def test_as_many_as_torch_has_threads_and_eight_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = []
        for threads in (1, 3, 64):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            found.append(predictor([], workers=None).workers)
        assert found == [1, 3, 8]

    @pytest.mark.parametrize("workers", [0, "many"])
    def test_what_is_no_number_of_cases_is_refused(self, workers: object) -> None:
        with pytest.raises(UserError, match=f"^BAD_VALUE --workers: {workers!r}, expected a whole number, 1 or more"):
            predictor([], workers=workers)


def test_network_infers_without_dropout_and_without_gradients(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not (self.weight * image).requires_grad
            return above_zero(image)

    write_ct(tmp_path / "ct.nii.gz")
    predictor(input_items(tmp_path / "ct.nii.gz", tmp_path / "out"), Network().train()).run().check()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("stitch_on", [None, "cpu"])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_gpu_marks_the_same_voxels(tmp_path: Path, stitch_on: str | None, workers: int, precision: str) -> None:
    write_ct(tmp_path / "in/other.nii.gz", seed=1)
    values = write_ct(tmp_path / "in/ct.nii.gz")
    predictor(
        input_items(tmp_path / "in", tmp_path / "out"),
        inferer=SlidingWindow((8, 8, 8), precision=precision, device=stitch_on),
        device="cuda",
        workers=workers,
    ).run().check()
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out/ct_seg.nii.gz").dataobj), values > 0)
