"""The polyp bundles on generated images: trained for seconds, evaluated, and asked for masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import ROOT
from commands import knobs as words
from picture_runs import (
    LENGTH,
    anonymous_config,
    linked_pictures,
    overflowing,
    parameters_of,
    parsed,
    polyp_folder,
    run_bundle,
    shallow_encoders,
    split_knobs,
    train_and_evaluate,
)
from PIL import Image

from medseg3d.cli import main
from medseg3d.data.cache import CaseKey
from medseg3d.data.splits import PARTS, read_split
from medseg3d.evaluation.files import SCORES_CSV, read_summary
from medseg3d.networks.backbones import DilatedResNet50
from medseg3d.pictures.masks import read_grey
from medseg3d.training import CaseScores

SMALL = {
    "polyp_resunetpp": {"picture_size": [32, 32], "features": [8, 8, 8, 16], "learning_rate": 0.01},
    "polyp_deeplabv3plus": {"picture_size": [64, 64]},
    "polyp_ann": {"picture_size": [32, 64]},
}
"""Knobs of networks that train in seconds; their masks mean nothing."""


@pytest.fixture(scope="module", params=SMALL)
def bundle(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def run_dir(bundle, pictures, tmp_path_factory) -> Path:
    """A run that was trained and evaluated."""
    with shallow_encoders():
        folder = tmp_path_factory.mktemp("runs") / "run"
        return train_and_evaluate(bundle, folder, **SMALL[bundle], **LENGTH, **pictures)


@pytest.fixture
def shallow():
    with shallow_encoders():
        yield


def predict(bundle: str, run_dir: Path, *more: str) -> int:
    knobs = words(**SMALL[bundle], model_file=run_dir / "model.pt")
    with shallow_encoders():
        return main(["predict", str(ROOT / "bundles" / bundle), *more, *knobs])


def test_training_leaves_weights_and_checkpoints(run_dir):
    assert torch.load(run_dir / "model.pt", weights_only=True)
    assert len(list((run_dir / "checkpoints").glob("*.pt"))) == 2


def test_the_scores_are_those_of_the_masks_on_the_original_picture(run_dir, pictures):
    (row,) = SCORES_CSV.read(run_dir / "evaluation_test" / "scores.csv")
    assert [row["case"]] == read_split(pictures["split_file"]).test
    stored = Image.open(Path(pictures["dataset_dir"]) / "masks" / f"{row['case']}.jpg").convert("L")
    true = np.asarray(stored) > 127
    found = np.asarray(Image.open(run_dir / "evaluation_test" / "masks" / f"{row['case']}_seg.png")) > 0
    assert found.shape == true.shape
    counts = ((true & found).sum(), (~true & found).sum(), (true & ~found).sum(), (~true & ~found).sum())
    assert tuple(row[name] for name in ("tp", "fp", "fn", "tn")) == counts


def test_the_summary_has_every_convention_of_the_field(run_dir):
    summary = read_summary(run_dir / "evaluation_test" / "summary.json")
    assert {score.grid for score in summary.scores} == {"original grid of the image"}
    assert {(score.score, score.over) for score in summary.scores} >= {
        *(("dice", "pooled"), ("mdice", "two_classes"), ("dice_pranet256", "cases"), ("s_measure", "cases")),
        ("mae", "cases"),
    }


def test_a_folder_is_predicted_in_the_size_of_each_picture(bundle, run_dir, pictures, tmp_path):
    folder = Path(pictures["dataset_dir"]) / "images"
    assert predict(bundle, run_dir, str(folder), "-o", str(tmp_path)) == 0
    sizes = {f"{path.stem}_seg.png": Image.open(path).size for path in folder.iterdir()}
    masks = {path.name: Image.open(path) for path in tmp_path.glob("*.png")}
    assert {name: mask.size for name, mask in masks.items()} == sizes != {}
    records = {name: json.loads((tmp_path / name).with_suffix(".json").read_text()) for name in masks}
    pixels = {name: record["labels"].get("1", {"pixels": 0})["pixels"] for name, record in records.items()}
    assert pixels == {name: (np.asarray(mask) == 255).sum() for name, mask in masks.items()}


def test_probabilities_are_written_on_request_and_agree_with_the_mask(bundle, run_dir, pictures, tmp_path):
    image = str(Path(pictures["dataset_dir"]) / "images" / "2.jpg")
    out, probs = tmp_path / "masks", tmp_path / "probs"
    # the second time, what is missing is made and nothing else
    words = (image, "-o", str(out), "--probabilities", str(probs))
    assert [predict(bundle, run_dir, *words) for _ in range(2)] == [0, 0]
    mask, prob = np.asarray(Image.open(out / "2_seg.png")), read_grey(probs / "2_prob.png")
    assert prob.shape == (64, 48)
    assert not np.isin(prob, (0, 1)).all()
    assert np.array_equal(mask == 255, prob > 0.5)
    assert json.loads((out / "2_seg.json").read_text())["probability"]["file"] == "2_prob.png"


def test_one_bad_picture_does_not_stop_the_others(bundle, run_dir, pictures, tmp_path, capsys):
    good = Path(pictures["dataset_dir"]) / "images" / "1.jpg"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.jpg").write_bytes(good.read_bytes()[:300])
    (tmp_path / "in" / "good.jpg").write_bytes(good.read_bytes())
    assert predict(bundle, run_dir, str(tmp_path / "in"), "-o", str(tmp_path / "out")) == 3
    assert "cut.jpg" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good_seg.png", "good_seg.json"}


def test_no_mask_is_made_of_logits_that_are_not_finite(bundle, run_dir, pictures, tmp_path, capsys, shallow):
    image = str(Path(pictures["dataset_dir"]) / "images" / "1.jpg")
    knobs = words(**SMALL[bundle], model_file=overflowing(run_dir / "model.pt", tmp_path))
    assert main(["predict", str(ROOT / "bundles" / bundle), image, "-o", str(tmp_path / "out"), *knobs]) == 1
    assert f"error: NON_FINITE {image}: " in (err := capsys.readouterr().err)
    assert "Hint: use --precision float32" in err
    assert list((tmp_path / "out").glob("*")) == []


def test_windows_smaller_than_the_picture_are_one_knob(bundle, run_dir, pictures, tmp_path):
    image = str(Path(pictures["dataset_dir"]) / "images" / "1.jpg")
    assert predict(bundle, run_dir, image, "-o", str(tmp_path), "--roi_size", "[16, 16]") == 0
    record = json.loads((tmp_path / "1_seg.json").read_text())
    assert record["inference"]["roi_size"] == [16, 16]
    assert Image.open(tmp_path / "1_seg.png").size == (64, 48)


def test_a_sound_folder_passes_the_check(bundle, run_dir, pictures, capsys, shallow):
    knobs = words(**SMALL[bundle], **pictures, output_dir=run_dir)
    assert main(["check", str(ROOT / "bundles" / bundle), *knobs]) == 0
    out = capsys.readouterr().out
    said = ("6 images", "4 training, 1 validation, 1 test", "holds weights of this network", "no problems found")
    assert [part for part in said if part not in out] == []


OWN = {
    *("_desc_", "bundle_root", "output_dir", "out_channels", "features", "backbone", "separable", "output_stride"),
    *("pretrained", "channel_mean", "channel_std", "batch_size", "epochs", "learning_rate"),
    *("lr_power", "min_learning_rate", "lr_drop_epochs", "plateau_patience", "patience"),
    *("auxiliary_weight", "momentum", "weight_decay"),
    *("network_def", "network", "loss", "optimizer", "lr_schedule", "lr_schedules", "lr_scheduler"),
    *("lr_step", "train"),
}
"""Keys of train.json in which the bundles may differ."""

OWN_OF_ANN = OWN | {
    *(f"{what}_prob" for what in ("flip", "affine", "intensity", "noise")),
    *("picture_size", "image_chain", "label_chain", "padding", "val_interval"),
}


class TestAgreement:
    """What scores of different networks may be compared by."""

    def test_training_differs_in_network_optimizer_and_schedule_alone(self):
        one, other = (anonymous_config(bundle, "train") for bundle in ("polyp_resunetpp", "polyp_deeplabv3plus"))
        assert [key for key in (one.keys() | other.keys()) - OWN if one[key] != other[key]] == []
        assert one["train"] == other["train"]

    def test_the_faithful_recipe_of_ann_differs_in_the_frame_and_what_is_done_in_it_too(self):
        one, other = (anonymous_config(bundle, "train") for bundle in ("polyp_deeplabv3plus", "polyp_ann"))
        assert [key for key in (one.keys() | other.keys()) - OWN_OF_ANN if one[key] != other[key]] == []

    @pytest.mark.parametrize("bundle", SMALL)
    @pytest.mark.parametrize("name", ["evaluate", "inference"])
    def test_evaluation_and_inference_differ_in_the_recorded_knobs_of_the_network_alone(self, bundle, name):
        one, other = anonymous_config("polyp_resunetpp", name), anonymous_config(bundle, name)
        own = OWN_OF_ANN if bundle == "polyp_ann" else OWN
        assert [key for key in (one.keys() | other.keys()) - own - {"settings"} if one[key] != other[key]] == []

    @pytest.mark.parametrize("name", ["phantom", "clinicdb", "clinicdb_sequences"])
    def test_overlays_of_one_name_agree(self, name):
        overlays = [anonymous_config(bundle, name) for bundle in SMALL]
        own = {"_desc_", "output_dir", "epochs", "learning_rate"} if name == "phantom" else set()
        shared = [{key: value for key, value in overlay.items() if key not in own} for overlay in overlays]
        assert shared == [shared[0]] * len(SMALL)

    def test_no_two_configs_write_into_one_folder(self):
        folders = [
            json.loads(path.read_text()).get("output_dir")
            for bundle in SMALL
            for path in (ROOT / "bundles" / bundle).glob("*.json")
            if path.stem not in ("evaluate", "inference")
        ]
        named = [folder for folder in folders if folder]
        assert len(set(named)) == len(named) >= 3

    def test_networks_with_the_power_schedule_have_it_alike(self):
        one, other = (anonymous_config(bundle, "train") for bundle in ("polyp_deeplabv3plus", "polyp_ann"))
        assert [key for key in ("lr_scheduler", "lr_step") if one[key] != other[key]] == []
        parts = ("trainer", "handlers", "dataset", "dataloader")
        assert {key: one["train"][key] for key in parts} == {key: other["train"][key] for key in parts}


def rates_of(knob: Callable[[str], Any], iterations: int) -> list[float]:
    """The learning rate of every iteration."""
    optimizer, scheduler, rates = knob("optimizer"), knob("lr_scheduler"), []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return [*rates, optimizer.param_groups[0]["lr"]]


class TestAsymmetricNonLocalNet:
    """What is the bundle's own."""

    def test_the_learning_rate_is_mmsegmentations(self, pictures):
        knob = parsed("polyp_ann", **pictures, epochs=2, iterations_per_epoch=5, device="cpu")
        rate, expected = 0.01, [0.01]
        for step in range(10):  # mmengine's PolyParamScheduler, eta_min 1e-4
            rate = (rate - 1e-4) * (1 - 1 / (10 - step)) ** 0.9 + 1e-4
            expected.append(rate)
        assert rates_of(knob, 10) == pytest.approx(expected)
        assert expected[-1] == 1e-4

    @pytest.mark.usefixtures("shallow")
    def test_the_papers_split_has_no_validation_part_and_chooses_nothing(self, pictures, tmp_path, monkeypatch):
        knob = parsed("polyp_ann", "paper_split")
        split = read_split(knob("split_file"))
        assert [split.count(part) for part in PARTS] == [900, 0, 100]
        scores = iter((0.9, 0.1))
        monkeypatch.setattr(CaseScores, "compute", lambda self: next(scores))
        knobs = {**SMALL["polyp_ann"], **pictures, **LENGTH, "val_interval": 1, "iterations_per_epoch": 1}
        knobs |= {"val_cases": 0, "split_file": str(tmp_path / "split.json"), "output_dir": str(tmp_path / "run")}
        run_bundle("polyp_ann", "training", "train", ("paper_split",), **knobs)
        kept = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
        last = torch.load(tmp_path / "run" / "checkpoints" / "epoch_00002.pt", weights_only=True)["network"]
        assert all(torch.equal(kept[name], last[name]) for name in last)

    def test_the_network_has_its_parameters(self):
        assert parameters_of("polyp_ann") == 46_196_292

    def test_padding_is_where_no_loss_is_taken(self, pictures):
        dataset = parsed("polyp_ann", **pictures, **SMALL["polyp_ann"], device="cpu", num_workers=0)("train#dataset")
        images, labels = (torch.stack([item[key] for item in dataset]) for key in ("image", "label"))
        assert images.shape == (4, 3, 32, 64)
        outside = labels == 255
        columns = (~outside).sum(-1, keepdim=True)
        assert set(columns.flatten().tolist()) <= {24, 43}  # images of 64 x 48 and of 48 x 64
        assert torch.equal(outside, (torch.arange(64) >= columns))
        assert not images[outside.expand_as(images)].any()

    def test_mmsegmentations_augmentation_fills_the_same_frame(self, pictures):
        knobs = {**SMALL["polyp_ann"], **pictures, "device": "cpu", "num_workers": 0}
        dataset = parsed("polyp_ann", "mmseg_augmentation", **knobs)("train#dataset")
        items = [dataset[CaseKey(0, seed)] for seed in range(12)]
        assert {tuple(item["image"].shape) for item in items} == {(3, 32, 64)}
        assert all(set(item["label"].unique().tolist()) <= {0, 1, 255} for item in items)
        assert all((item["image"][:, (item["label"] == 255)[0]] == 0).all() for item in items)
        outside = [(item["label"] == 255).float().mean().item() for item in items]
        assert min(outside) < 0.1  # zoomed by up to 2: the window is full, or nearly
        assert max(outside) > 0.5  # zoomed by 0.5: a quarter of what the fitted image fills


class TestDeepLabV3Plus:
    """What is the bundle's own."""

    @pytest.mark.parametrize(("overlays", "count"), [((), 26_691_250), (("seresnext50",), 28_694_114)])
    def test_the_networks_have_their_parameters(self, overlays, count):
        assert parameters_of("polyp_deeplabv3plus", *overlays) == count

    def test_the_learning_rate_falls_by_a_power_to_nothing(self, pictures):
        knob = parsed("polyp_deeplabv3plus", **pictures, epochs=2, iterations_per_epoch=5, device="cpu")
        assert rates_of(knob, 10) == pytest.approx([1e-4 * (1 - step / 10) ** 0.9 for step in range(11)])

    def test_the_other_schedule_is_a_step_after_20_epochs(self, pictures):
        knob = parsed("polyp_deeplabv3plus", "step_schedule", **pictures, iterations_per_epoch=2, device="cpu")
        assert knob("epochs") == 40
        assert rates_of(knob, 80) == pytest.approx([1e-4] * 40 + [1e-5] * 41)

    def test_a_resumed_training_goes_on_with_the_schedule(self, pictures, tmp_path, monkeypatch, shallow):
        rates, step = [], torch.optim.Adam.step
        monkeypatch.setattr(CaseScores, "compute", lambda self: 0.5)
        monkeypatch.setattr(
            torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self)
        )
        length = {**LENGTH, "epochs": 4, "iterations_per_epoch": 1, "lr_power": 1, "lr_drop_epochs": [3]}
        knobs = {**SMALL["polyp_deeplabv3plus"], **pictures, **length, "output_dir": str(tmp_path / "run")}
        run_bundle("polyp_deeplabv3plus", "training", "train", **knobs, patience=1)  # stops after two epochs
        assert len(rates) == 2
        run_bundle("polyp_deeplabv3plus", "training", "train", **knobs, resume=True)
        assert rates == pytest.approx([1e-4, 0.75e-4, 0.5e-4, 0.025e-4])

    def test_the_encoder_begins_with_the_weights_of_a_file(self, tmp_path, caplog):
        weights = DilatedResNet50().state_dict()
        torch.save(weights, tmp_path / "resnet50.pth")
        with caplog.at_level("INFO", "medseg3d"):
            network = parsed("polyp_deeplabv3plus", pretrained=str(tmp_path / "resnet50.pth"), device="cpu")("network")
        assert all(torch.equal(network.backbone.state_dict()[name], weights[name]) for name in weights)
        assert "265 tensors of the encoder filled, 0 missing" in caplog.text

    def test_weights_of_another_encoder_are_found_before_the_training(self, tmp_path, capsys):
        torch.save({"layer0.conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "se.pth")
        assert main(["check", "bundles/polyp_deeplabv3plus", "--pretrained", str(tmp_path / "se.pth")]) == 1
        assert f"PRETRAINED {tmp_path}/se.pth: the layout of cadene" in capsys.readouterr().err

    @pytest.mark.parametrize(("part", "smallest"), [(1, 1), (3, 1), (2, None), (0, None)])
    def test_parts_of_a_batch_that_cannot_be_normalised_are_found_before_the_training(
        self, part, smallest, capsys, shallow
    ):
        knobs = words(batch_size=4, micro_batch_size=part, dataset_dir="nowhere", picture_size=[64, 64])
        assert main(["check", "bundles/polyp_deeplabv3plus", *knobs]) == 1
        err = capsys.readouterr().err
        assert ("BATCH_PART" in err) is (smallest is not None)
        assert smallest is None or f"--micro_batch_size {part}: {smallest} at a time of a batch of 4" in err

    def test_an_encoder_without_weights_is_said_to_be_random(self, caplog):
        parsed("polyp_deeplabv3plus", device="cpu")("network")
        assert "the encoder is randomly initialised" in caplog.text


class TestResUNetPlusPlus:
    """What is the bundle's own."""

    def parsed(self, *overlays: str, **knobs: object) -> Callable[[str], Any]:
        return parsed("polyp_resunetpp", *overlays, **knobs)

    @pytest.mark.parametrize(
        ("overlays", "count"), [((), 4_062_993), (("unet",), 31_113_217), (("resunet",), 8_223_809)]
    )
    def test_the_networks_have_their_parameters(self, overlays, count):
        assert parameters_of("polyp_resunetpp", *overlays) == count

    def test_the_loss_is_one_minus_soft_dice_of_the_flattened_batch(self):
        logits, truth = torch.randn(3, 1, 4, 5), torch.randint(0, 2, (3, 1, 4, 5))
        prob = logits.sigmoid()
        expected = 1 - (2 * (prob * truth).sum() + 1) / (prob.sum() + truth.sum() + 1)
        assert self.parsed()("loss")(logits, truth) == pytest.approx(expected.item())

    def test_validations_without_progress_lower_the_learning_rate_and_end_the_training(
        self, pictures, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(CaseScores, "compute", lambda self: 0.5)
        length = {**LENGTH, "epochs": 9, "iterations_per_epoch": 1, "plateau_patience": 0, "patience": 2}
        knobs = {**SMALL["polyp_resunetpp"], **pictures, **length, "learning_rate": 1e-3}
        run_bundle("polyp_resunetpp", "training", "train", **knobs, output_dir=str(tmp_path / "run"))
        state = torch.load(max((tmp_path / "run" / "checkpoints").glob("epoch_*.pt")), weights_only=True)
        assert state["epoch"] == 3
        assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-5)

    def test_with_the_power_schedule_the_learning_rate_falls_to_nothing_whatever_the_score(
        self, pictures, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(CaseScores, "compute", lambda self: 0.5)
        knobs = {**SMALL["polyp_resunetpp"], **pictures, **LENGTH, "lr_schedule": "power", "plateau_patience": 0}
        run_bundle("polyp_resunetpp", "training", "train", **knobs, output_dir=str(tmp_path / "run"))
        state = torch.load(max((tmp_path / "run" / "checkpoints").glob("epoch_*.pt")), weights_only=True)
        assert state["lr_scheduler"]["last_epoch"] == 4  # 2 epochs of 2 iterations
        assert state["optimizer"]["param_groups"][0]["lr"] == 0

    def test_both_data_sets_together_have_an_average_that_is_kept_and_scores_of_each(self, tmp_path):
        folders = [polyp_folder(tmp_path / name) for name in ("Kvasir-SEG", "CVC-ClinicDB")]
        earlier = tmp_path / "earlier.pt"
        knobs = {**SMALL["polyp_resunetpp"], **LENGTH, "test_cases": 1, "val_cases": 1, "mirror_axes": [0, 1]}
        knobs |= {
            "group_pattern": "",
            "dataset_dir": list(map(str, folders)),
            "split_file": [f"{folder}.json" for folder in folders],
        }
        torch.save(self.parsed(**SMALL["polyp_resunetpp"])("network_def").state_dict(), earlier)
        run = train_and_evaluate(
            "polyp_resunetpp", tmp_path / "run", ("kvasir_clinicdb",), **knobs, init_from=str(earlier)
        )
        rows = SCORES_CSV.read(run / "evaluation_test" / "scores.csv")
        assert {row["case"].split("/")[0] for row in rows} == {"Kvasir-SEG", "CVC-ClinicDB"}
        summary = read_summary(run / "evaluation_test" / "summary.json")
        counts = {each.data_set: each.n for each in summary.cases if each.data_set}
        assert counts == {"Kvasir-SEG": 1, "CVC-ClinicDB": 1}
        assert summary.context["split_hash"] == "+".join(read_split(file).hash for file in knobs["split_file"])
        state = torch.load(max((run / "checkpoints").glob("epoch_*.pt")), weights_only=True)
        assert state["average"]["n_averaged"] == 4
        average = {name.removeprefix("module."): value for name, value in state["average"].items()}
        kept = torch.load(run / "model.pt", weights_only=True)
        assert all(torch.equal(kept[name], average[name]) for name in kept)

    def test_clinicdb_by_sequence_parts_no_sequence(self, tmp_path):
        folder = polyp_folder(tmp_path / "CVC-ClinicDB", cases=3)
        for part in ("images", "masks"):
            for number, frame in ((2, 26), (3, 51)):  # the first frames of the second and the third sequence
                (folder / part / f"{number}.jpg").rename(folder / part / f"{frame}.jpg")
        split = {"split_file": str(tmp_path / "split.json"), "test_cases": 1, "val_cases": 1}
        cases = self.parsed("clinicdb_sequences", dataset_dir=str(folder), **split)("cases")
        groups = {case["group"] for part in ("train", "val", "test") for case in cases(part=part)}
        assert groups == {"clinicdb-01", "clinicdb-02", "clinicdb-03"}

    @pytest.mark.parametrize(
        ("overlays", "name"),
        [
            ((), "Kvasir-SEG_80-10-10"),
            (("clinicdb",), "CVC-ClinicDB_80-10-10"),
            (("clinicdb_sequences",), "CVC-ClinicDB_sequences_80-10-10"),
        ],
    )
    def test_the_committed_splits_are_the_default(self, overlays, name):
        knob = self.parsed(*overlays)
        split = read_split(knob("split_file"))
        assert Path(knob("split_file")).stem == name
        total = sum(split.count(part) for part in ("train", "val", "test"))
        assert (split.seed, split.count("test")) == (knob("split_seed"), round(knob("test_cases") * total))
        assert split.count("val") == round(knob("val_cases") * total)


@pytest.mark.parametrize(
    ("bundle", "name"),
    [
        ("polyp_resunetpp", "cvc-clinicdb"),
        ("polyp_ann", "kvasir-seg"),
        # what they do to an image is what the two others do
        pytest.param("polyp_resunetpp", "kvasir-seg", marks=pytest.mark.slow),
        pytest.param("polyp_deeplabv3plus", "kvasir-seg", marks=pytest.mark.slow),
    ],
)
def test_real_pictures_are_trained_on_and_scored(bundle, name, real_data, tmp_path, shallow):
    knobs = {**SMALL[bundle], **LENGTH, **split_knobs(linked_pictures(real_data / name, tmp_path))}
    overlays = ("clinicdb",) if name == "cvc-clinicdb" else ()
    run = train_and_evaluate(bundle, tmp_path / "run", overlays, **knobs)
    (row,) = SCORES_CSV.read(run / "evaluation_test" / "scores.csv")
    assert row["tp"] + row["fn"] > 0
