"""The commands a user types, on phantoms: training, evaluation, inference, interruption and bad input."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from commands import ROOT, knobs, monai_bundle, wait_until
from monai.bundle import ConfigWorkflow
from monai.losses import DiceCELoss
from picture_runs import differing_weights, overflowing, parsed, run_bundle
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medseg3d.bundle import read_config
from medseg3d.cli import main
from medseg3d.data.splits import read_split
from medseg3d.errors import UserError, find_user_error
from medseg3d.evaluation.files import SCORES_CSV, SLICES_CSV, read_curve, read_files, read_summary
from medseg3d.networks import SegResNetNL

TRAIN = ("training", "--config_file", "bundles/pancreas_nl/train.json")


def run(run_id: str, config: str, **options: object) -> None:
    """What `monai_bundle` does, in this process, without the seconds that another takes to start."""
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    run_bundle("pancreas_nl", run_id, config, **plain)


def refused(run_id: str, config: str, **options: object) -> UserError:
    """The error that such a run ends with."""
    try:
        run(run_id, config, **options)
    except Exception as error:
        if user_error := find_user_error(error):
            return user_error
        raise
    raise AssertionError("the run came to its end")


@pytest.fixture(scope="module")
def evaluated(trained, small_knobs) -> Path:
    run("evaluating", "evaluate", **small_knobs, output_dir=trained)
    return trained / "evaluation_test"


def test_a_training_leaves_weights_checkpoints_events_and_its_config(trained):
    state = torch.load(trained / "model.pt", weights_only=True)
    assert all(tensor.device.type == "cpu" for tensor in state.values())
    assert sorted(path.name for path in (trained / "checkpoints").glob("*.pt")) == ["epoch_00001.pt", "epoch_00002.pt"]
    assert json.loads((trained / "config.json").read_text())["epochs"] == 2
    events = EventAccumulator(str(trained)).Reload()
    assert {"train_loss", "learning_rate", "gradient_norm", "skipped_steps", "val_dice_mean", "val_dice_pooled"} <= set(
        events.Tags()["scalars"]
    )
    assert len(events.Scalars("train_loss")) == 6
    assert events.Tags()["images"]


def test_the_scores_are_those_of_the_masks_on_the_original_grid(evaluated, phantom_dir):
    (row,) = SCORES_CSV.read(evaluated / "scores.csv")
    truth = nib.load(phantom_dir / "labelsTr" / f"{row['case']}.nii.gz")
    pred = nib.load(evaluated / "masks" / f"{row['case']}_seg.nii.gz")
    assert pred.shape == truth.shape
    assert np.allclose(pred.affine, truth.affine)
    true, found = truth.get_fdata() > 0, pred.get_fdata() > 0
    assert (row["tp"], row["fp"], row["fn"]) == ((true & found).sum(), (~true & found).sum(), (true & ~found).sum())
    assert row["truth_ml"] == pytest.approx(true.sum() * abs(np.linalg.det(truth.affine[:3, :3])) / 1000)


def test_the_other_files_of_an_evaluation(evaluated, phantom_dir):
    (row,) = SCORES_CSV.read(evaluated / "scores.csv")
    assert row["hd95_mm"] > 0
    assert 0 <= row["surface_dice"] <= 1
    files = read_files(evaluated / "files.json")[row["case"]]
    assert files["image"] == str(phantom_dir / "imagesTr" / f"{row['case']}.nii.gz")
    assert files["truth"] == str(phantom_dir / "labelsTr" / f"{row['case']}.nii.gz")
    assert Path(files["pred"]).samefile(evaluated / "masks" / f"{row['case']}_seg.nii.gz")
    slices = SLICES_CSV.read(evaluated / "slices.csv")
    assert sum(each["tp"] for each in slices) == row["tp"]
    assert "| dice | cases |" in (evaluated / "summary.md").read_text()


def test_the_summary_states_conventions_split_and_weights(evaluated, phantom_dir, trained):
    summary = read_summary(evaluated / "summary.json")
    assert summary.find("pancreas", "dice").grid == "original grid of the scan"
    assert summary.context["split_hash"] == read_split(phantom_dir / "split.json").hash
    assert summary.context["model_sha256"] == (trained / "model.pt.sha256").read_text().split()[0]
    assert summary.context["versions"]["monai"]
    weights = torch.load(trained / "model.pt", weights_only=True)
    network = summary.context["network"]
    assert network["class"] == "medseg3d.networks.segresnet_nl.SegResNetNL"
    assert network["parameters"] == sum(tensor.numel() for tensor in weights.values())  # GroupNorm has no buffers
    assert network["input_shape"][0] == 1


def test_the_curve_is_of_all_voxels(evaluated, phantom_dir):
    curve = read_curve(evaluated / "pr.npz")
    (case,) = read_split(phantom_dir / "split.json").test
    truth = nib.load(phantom_dir / "labelsTr" / f"{case}.nii.gz").get_fdata() > 0
    assert curve.histogram.sum(axis=0).tolist() in ([(~truth).sum(), truth.sum()], [truth.sum(), (~truth).sum()])
    assert 0 < curve.average_precision() <= 1
    assert average_precision_score([0, 1], [0.1, 0.9]) == 1  # the judge of the curve itself sits in tests/metrics


class TestPrecision:
    """One knob, in training, evaluation and inference."""

    @pytest.mark.parametrize("words", [{"precision": "float16"}, {"amp": "true"}, {"amp": "false"}])
    def test_training_and_validation_share_it(self, words, small_knobs, tmp_path):
        get = parsed("pancreas_nl", **small_knobs, **words, device="cpu", output_dir=str(tmp_path))
        chosen = get("train#trainer").precision
        assert chosen.name == words.get("precision", "bfloat16" if words.get("amp") == "true" else "float32")
        assert get("validate#inferer").precision is chosen  # so that it follows a checkpoint's, too

    @pytest.mark.parametrize("name", ["evaluate", "inference"])
    def test_evaluation_and_inference_have_it(self, name, trained, small_knobs):
        knobs = {**small_knobs, "output_dir": str(trained), "precision": "float16"}
        parser = read_config([f"bundles/pancreas_nl/{name}.json"], knobs)
        parser.parse()
        assert parser.get_parsed_content("inferer").precision.name == "float16"

    @pytest.mark.parametrize("name", ["evaluate", "inference"])
    def test_so_they_have_a_region_and_flips(self, name, trained, small_knobs):
        knobs = {**small_knobs, "output_dir": str(trained), "region_tau": 0.01, "region_margin": 3, "mirror_axes": [0]}
        parser = read_config([f"bundles/pancreas_nl/{name}.json"], knobs)
        parser.parse()
        inferer = parser.get_parsed_content("inferer")
        assert (inferer.region_tau, inferer.region_margin, inferer.mirror_axes) == (0.01, 3, [0])

    def test_a_record_says_it(self, trained, small_knobs, phantom_dir, tmp_path):
        extra = {key: small_knobs[key] for key in ("spacing", "roi_size", "init_filters")}
        scan = str(next((phantom_dir / "imagesTs").glob("*.nii.gz")))
        words = knobs(**extra, model_file=trained / "model.pt", amp="true", device="cpu")
        assert main(["predict", str(ROOT / "bundles/pancreas_nl"), scan, "-o", str(tmp_path), *words]) == 0
        record = json.loads(next(tmp_path.glob("*_seg.json")).read_text())
        assert record["inference"]["precision"] == "bfloat16"


def test_no_mask_is_made_of_logits_that_are_not_finite(trained, small_knobs, phantom_dir, tmp_path, capsys):
    model_file = overflowing(trained / "model.pt", tmp_path)
    error = refused("evaluating", "evaluate", **small_knobs, output_dir=tmp_path / "run", model_file=model_file)
    (case,) = read_split(small_knobs["split_file"]).test
    assert str(error).startswith(f"NON_FINITE {phantom_dir / 'imagesTr' / case}.nii.gz: ")
    assert not (tmp_path / "run/evaluation_test/summary.json").exists()
    extra = {key: small_knobs[key] for key in ("spacing", "roi_size", "init_filters")}
    scan = str(next((phantom_dir / "imagesTs").glob("*.nii.gz")))
    words = ["-o", str(tmp_path / "masks"), *knobs(**extra, model_file=model_file)]
    assert main(["predict", str(ROOT / "bundles/pancreas_nl"), scan, *words]) == 1
    assert f"error: NON_FINITE {scan}: " in capsys.readouterr().err
    assert list((tmp_path / "masks").glob("*")) == []


def test_inference_writes_uint8_masks_in_the_geometry_of_each_scan(trained, small_knobs, phantom_dir):
    run("inferring", "inference", **small_knobs, output_dir=trained)
    sources = sorted((phantom_dir / "imagesTs").glob("*.nii.gz"))
    masks = sorted((trained / "masks").glob("*.nii.gz"))
    assert [mask.name for mask in masks] == [source.name.replace(".nii.gz", "_seg.nii.gz") for source in sources]
    scans, made = list(map(nib.load, sources)), list(map(nib.load, masks))
    assert {mask.get_data_dtype() for mask in made} == {np.dtype(np.uint8)}
    assert [mask.shape for mask in made] == [scan.shape for scan in scans]
    assert np.array_equal([mask.get_sform() for mask in made], [scan.get_sform() for scan in scans])
    assert {(mask.get_sform(coded=True)[1], mask.get_qform(coded=True)[1]) for mask in made} == {(1, 1)}


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_monai_finds_all_that_its_contract_asks_for(name, trained, small_knobs, tmp_path):
    # a training makes its own weights, the others need some
    weights = {} if name == "train" else {"model_file": str(trained / "model.pt")}
    workflow = ConfigWorkflow(
        config_file=f"bundles/pancreas_nl/{name}.json",
        workflow_type="train" if name == "train" else "inference",
        logging_file="bundles/_shared/logging.conf",
        **{**small_knobs, "output_dir": str(tmp_path), **weights},
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert "run" in workflow.parser


class TestPredict:
    """`medseg3d predict`."""

    @pytest.fixture
    def words(self, trained, small_knobs, tmp_path) -> list[str]:
        extra = {key: small_knobs[key] for key in ("spacing", "roi_size", "init_filters")}
        return ["-o", str(tmp_path / "masks"), *knobs(**extra, model_file=trained / "model.pt")]

    def test_a_file_and_a_folder_from_any_directory(self, words, phantom_dir, tmp_path, capsys, monkeypatch):
        shutil.copytree(phantom_dir / "imagesTs", tmp_path / "scans" / "monday")
        monkeypatch.chdir(tmp_path)
        words[1] = "masks"
        bundle = str(ROOT / "bundles/pancreas_nl")
        one = str(phantom_dir / "imagesTr" / "phantom_001.nii.gz")
        assert main(["predict", bundle, one, "scans", *words]) == 0
        masks = sorted(
            path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.nii.gz")
        )
        assert len(masks) == 3
        assert {mask.split("/")[0] for mask in masks} >= {"monday"}
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*.nii.gz")}
        assert main(["predict", bundle, one, "scans", *words]) == 0
        assert "0 segmented, 3 skipped" in capsys.readouterr().out
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("*.nii.gz")}

    def test_one_bad_scan_does_not_stop_the_others(self, words, phantom_dir, tmp_path, capsys):
        good = next((phantom_dir / "imagesTs").glob("*.nii.gz"))
        (tmp_path / "scans").mkdir()
        shutil.copy(good, tmp_path / "scans")
        (tmp_path / "scans" / "cut.nii.gz").write_bytes(good.read_bytes()[:5000])
        assert main(["predict", str(ROOT / "bundles/pancreas_nl"), str(tmp_path / "scans"), *words]) == 3
        assert "error: TRUNCATED" in (err := capsys.readouterr().err)
        assert "cut.nii.gz" in err
        assert [path.name for path in (tmp_path / "masks").glob("*.nii.gz")] == [good.name.replace(".nii", "_seg.nii")]

    @pytest.mark.parametrize("what", ["empty", "absent"])
    def test_nothing_to_do_is_an_error_with_exit_code_2(self, words, tmp_path, capsys, what):
        (tmp_path / "empty").mkdir()
        assert main(["predict", str(ROOT / "bundles/pancreas_nl"), str(tmp_path / what), *words]) == 2
        assert capsys.readouterr().err.startswith("error: " + {"empty": "NO_INPUT", "absent": "MISSING_FILE"}[what])

    def test_weights_of_another_network_are_refused_by_name(self, words, phantom_dir, trained, capsys):
        position = words.index("--init_filters")
        other = [*words[:position], "--init_filters", "16", *words[position + 2 :]]
        assert main(["predict", str(ROOT / "bundles/pancreas_nl"), str(phantom_dir / "imagesTs"), *other]) == 1
        assert f"error: CHECKPOINT {trained / 'model.pt'}: weights of a different network" in capsys.readouterr().err

    def test_missing_weights_are_named_with_what_to_do(self, phantom_dir, tmp_path, capsys):
        words = ["-o", str(tmp_path / "masks"), "--model_file", str(tmp_path / "none.pt")]
        assert main(["predict", str(ROOT / "bundles/pancreas_nl"), str(phantom_dir / "imagesTs"), *words]) == 1
        assert f"error: MISSING_WEIGHTS {tmp_path / 'none.pt'}: no such file" in capsys.readouterr().err

    def test_a_misspelt_knob_is_an_error_with_exit_code_2(self, words, phantom_dir, capsys):
        bundle, images = str(ROOT / "bundles/pancreas_nl"), str(phantom_dir / "imagesTs")
        assert main(["predict", bundle, images, *words, "--overlapp", "0.1"]) == 2
        assert "UNKNOWN_KNOB --overlapp" in capsys.readouterr().err


class TestThreshold:
    """Chosen on the validation set, used by evaluation and prediction."""

    @pytest.fixture(scope="class")
    def chosen(self, trained, small_knobs) -> Path:
        run("evaluating", "evaluate", **small_knobs, output_dir=trained, part="val")
        assert main(["threshold", str(trained / "evaluation_val")]) == 0
        return trained / "evaluation_val" / "threshold.json"

    def test_the_evaluation_with_it_has_the_dice_it_promised(self, chosen, trained, small_knobs, tmp_path):
        options = {"part": "val", "threshold_file": chosen, "evaluation_dir": tmp_path}
        run("evaluating", "evaluate", **small_knobs, output_dir=trained, **options)
        choice = json.loads(chosen.read_text())
        summary = read_summary(tmp_path / "summary.json")
        assert (summary.context["part"], summary.context["threshold"]) == ("val", choice["threshold"])
        # the bins are of logits, the mask of probabilities: a voxel on the edge may fall to either side
        assert summary.find("pancreas", "dice", "pooled").value == pytest.approx(choice["value"], abs=1e-4)
        assert choice["value"] > choice["value_at_half"]

    def test_masks_of_predict_are_made_with_it_and_say_so(self, chosen, trained, small_knobs, phantom_dir, tmp_path):
        extra = {key: small_knobs[key] for key in ("spacing", "roi_size", "init_filters")}
        threshold = json.loads(chosen.read_text())["threshold"]
        masks, stated = {}, {}
        for name, more in (("argmax", {}), ("chosen", {"threshold_file": chosen})):
            words = knobs(**extra, model_file=trained / "model.pt", **more)
            out = tmp_path / name
            image = str(min((phantom_dir / "imagesTs").iterdir()))
            main(["predict", str(ROOT / "bundles/pancreas_nl"), image, "-o", str(out), *words])
            (mask,), (record,) = out.glob("*.nii.gz"), out.glob("*.json")
            masks[name] = nib.load(mask).get_fdata() > 0
            stated[name] = json.loads(record.read_text())["settings"]["threshold"]
        assert stated == {"argmax": 0.5, "chosen": threshold}
        larger, smaller = ("chosen", "argmax") if threshold < 0.5 else ("argmax", "chosen")
        assert masks[larger].sum() > masks[smaller].sum()
        assert (masks[larger] >= masks[smaller]).all()

    def test_more_classes_are_refused_before_anything_is_computed(self, chosen, phantom_dir, tmp_path, capsys):
        network = SegResNetNL(3, 8, 1, 3)
        torch.save(network.state_dict(), tmp_path / "model.pt")
        settings = {"num_classes": 3, "init_filters": 8, "model_file": tmp_path / "model.pt", "threshold_file": chosen}
        images = str(phantom_dir / "imagesTs")
        words = [
            "predict",
            str(ROOT / "bundles/pancreas_nl"),
            images,
            "-o",
            str(tmp_path / "masks"),
            *knobs(**settings),
        ]
        assert main(words) == 2
        assert capsys.readouterr().err.startswith("error: THRESHOLD_CLASSES")


class TestRefusals:
    """One line, a code, a way out; and nothing trained, nothing left behind."""

    def test_the_users_own_line_without_data_says_how_to_get_it(self):
        if (ROOT / "data" / "Task07_Pancreas").exists():
            pytest.skip("MSD Task07 is there")
        error = str(refused("training", "train"))
        assert error.startswith(f"MISSING_DATA {ROOT / 'data' / 'Task07_Pancreas'}")
        wanted = ("medseg3d data fetch pancreas", "11.4 GB", "CC BY-SA 4.0", "phantom")
        assert [part for part in wanted if part not in error] == []
        assert not (ROOT / "runs" / "pancreas_nl" / "model.pt").exists()

    def test_a_run_is_not_written_over(self, small_knobs, trained):
        before = (trained / "model.pt").read_bytes()
        assert refused("training", "train", **small_knobs, output_dir=trained).code == "RUN_EXISTS"
        assert (trained / "model.pt").read_bytes() == before


def faulty(folder: Path, name: str, change) -> None:
    """Rewrite one volume of a data set through `change(array) -> array`."""
    path = folder / name
    image = nib.load(path)
    changed = change(np.asanyarray(image.dataobj))
    nib.save(nib.Nifti1Image(changed, image.affine), path)


def with_value(value):
    def change(array):
        array = array.astype(np.float32)
        array[0, 0, 0] = value
        return array

    return change


BAD_INPUT = {
    "label value 7": ("labelsTr", with_value(7), "LABEL_SET"),
    "label value 0.5": ("labelsTr", with_value(0.5), "LABEL_SET"),
    "NaN in the image": ("imagesTr", with_value(np.nan), "NON_FINITE"),
    "4-D image": ("imagesTr", lambda array: np.stack([array, array], axis=-1), "DIMENSIONS"),
    "label of another shape": ("labelsTr", lambda array: array[:-1], "PAIR_GEOMETRY"),
    "volume far smaller than the patch": ("both", lambda array: array[:, :, :2], "PATCH_SIZE"),
}


class TestCheck:
    """`medseg3d check` finds all that can be found without training."""

    def check(self, *words: str) -> int:
        return main(["check", str(ROOT / "bundles/pancreas_nl"), *words])

    def test_a_sound_bundle(self, small_knobs, trained, capsys):
        assert self.check(*knobs(**small_knobs, output_dir=trained)) == 0
        out = capsys.readouterr().out
        said = ("4 cases", "split", "parameters", "model.pt holds weights of this network", "no problems found")
        assert [part for part in said if part not in out] == []

    @pytest.mark.parametrize("what", BAD_INPUT)
    def test_bad_input_is_named_by_file_and_code(self, what, small_knobs, phantom_dir, tmp_path, capsys):
        part, change, code = BAD_INPUT[what]
        shutil.copytree(phantom_dir, tmp_path / "data")
        for folder in ("imagesTr", "labelsTr") if part == "both" else (part,):
            faulty(tmp_path / "data" / folder, "phantom_002.nii.gz", change)
        words = {**small_knobs, "dataset_dir": tmp_path / "data", "output_dir": tmp_path / "run"}
        assert self.check(*knobs(**words)) == 1
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        assert any(code in line and "phantom_002.nii.gz" in line for line in errors), errors

    def test_a_missing_and_a_truncated_file_are_both_found(self, small_knobs, phantom_dir, tmp_path, capsys):
        shutil.copytree(phantom_dir, tmp_path / "data")
        (tmp_path / "data/labelsTr/phantom_001.nii.gz").unlink()
        image = tmp_path / "data/imagesTr/phantom_003.nii.gz"
        image.write_bytes(image.read_bytes()[:5000])
        words = {**small_knobs, "dataset_dir": tmp_path / "data", "output_dir": tmp_path / "run"}
        assert self.check(*knobs(**words)) == 1
        err = capsys.readouterr().err
        assert "MISSING_FILE" in err
        assert "TRUNCATED" in err

    @pytest.mark.parametrize(
        ("words", "code", "exit_code"),
        [
            (["--epochz", "1"], "UNKNOWN_KNOB --epochz", 2),
            (["--roi_size", "[20,20,20]"], "NETWORK", 1),
            (["--network_def#nonlocal_block", "3"], "BAD_ARGUMENT", 1),
            (["--optimizer#_target_", "torch.optim.AdamV"], "BAD_TARGET", 1),
            (["--optimizer#_target_", "os.getcwd"], "BAD_TARGET", 1),
            (["--optimizer#_target_", "torch.hub.load"], "BAD_TARGET", 1),
            (["--optimizer#_target_", "monai.bundle.run"], "BAD_TARGET", 1),
            (["--optimizer#_target_", "monai.utils.misc.run_cmd"], "BAD_TARGET", 1),
            (["--loss", "@los"], "BAD_REFERENCE", 1),
            (["--device", "cuda:7"], "DEVICE", 2),
            (["--test_cases", "9"], "TOO_FEW_CASES", 1),
            (["--init_filters", "16"], "CHECKPOINT", 1),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_wrong_knobs(self, words, code, exit_code, small_knobs, trained, tmp_path, capsys):
        settings = {**small_knobs, "output_dir": trained, "split_file": tmp_path / "split.json"}
        settings.pop(words[0][2:], None)
        assert self.check(*knobs(**settings), *words) == exit_code
        assert code in capsys.readouterr().err

    def test_python_that_a_bundle_runs_is_listed(self, small_knobs, capsys):
        self.check(*knobs(**small_knobs, loss="$print"), "--expressions")
        assert "runs   train.json loss: $print\n" in capsys.readouterr().out

    def test_a_package_that_is_allowed_may_be_called(self, small_knobs, capsys):
        words = [*knobs(**small_knobs), "--lr_scheduler#_target_", "numpy.zeros"]
        self.check(*words)
        assert "BAD_TARGET train.json lr_scheduler" in capsys.readouterr().err
        self.check(*words, "--allow", "numpy")
        assert "BAD_TARGET" not in capsys.readouterr().err


class TestInterruption:
    """Stopped at any moment and resumed, a run is the uninterrupted one."""

    def start(self, words: list[str]) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "monai.bundle", "run", *TRAIN, *words],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background job, as these tests may be, hands down that Ctrl-C is ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    @pytest.fixture
    def one_thread(self):
        """As many threads as the processes have, so that the same sums are rounded."""
        torch.set_num_threads(1)

    def test_in_the_second_epoch(self, tmp_path, small_knobs, trained, caplog, one_thread, monkeypatch):
        steps, forward = itertools.count(1), DiceCELoss.forward

        def interrupted(*args: object) -> torch.Tensor:
            if next(steps) == 5:  # three steps are an epoch
                raise KeyboardInterrupt
            return forward(*args)

        monkeypatch.setattr(DiceCELoss, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("training", "train", **small_knobs, output_dir=tmp_path / "run")
        self.resume(tmp_path / "run", small_knobs, trained, caplog)

    def resume(self, folder: Path, small_knobs, trained, caplog) -> None:
        assert not (folder / "checkpoints/epoch_00002.pt").exists()
        with caplog.at_level("INFO", "medseg3d"):
            run("training", "train", **small_knobs, output_dir=folder, resume=True)
        assert "resuming after epoch 1 of 2" in caplog.text
        assert differing_weights(folder, trained, epoch=2) == []

    # what is on the disk after a kill: tests/files/test_atomic.py
    @pytest.mark.slow
    @pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
    def test_after_the_first_epoch(self, kill, tmp_path, small_knobs, trained, caplog, one_thread):
        words = knobs(**small_knobs, output_dir=tmp_path / "run")
        process = self.start(words)
        wait_until((tmp_path / "run/checkpoints/epoch_00001.pt").exists, process)
        process.send_signal(kill)
        _, err = process.communicate(timeout=60)
        if kill == signal.SIGINT:
            assert "--resume true" in err
            assert "Traceback" not in err
        self.resume(tmp_path / "run", small_knobs, trained, caplog)

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", range(6))
    def test_at_any_moment(self, moment, tmp_path, small_knobs, trained):
        words = [*knobs(**small_knobs, output_dir=tmp_path / "run"), "--resume", "true"]
        rng = np.random.default_rng(moment)
        for _ in range(3):
            process = self.start(words)
            time.sleep(8 + 14 * rng.random())
            process.kill()
            process.communicate()
        done = monai_bundle(*TRAIN, *words)
        assert done.returncode == 0, done.stderr
        assert differing_weights(tmp_path / "run", trained, epoch=2) == []
