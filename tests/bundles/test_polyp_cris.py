"""CRIS and what it is compared with, on generated images: trained for seconds, evaluated, and asked for masks."""

from __future__ import annotations

import itertools
import json
from functools import partial
from pathlib import Path

import pytest
import torch
from commands import ROOT
from commands import knobs as words
from picture_runs import (
    LENGTH,
    anonymous_config,
    linked_pictures,
    parsed,
    run_bundle,
    scalars,
    split_knobs,
    train_and_evaluate,
)
from PIL import Image

from medseg3d.cli import main
from medseg3d.data.splits import PARTS, read_split
from medseg3d.errors import find_user_error
from medseg3d.evaluation.files import SCORES_CSV, read_summary
from medseg3d.training import Objective

STRATEGIES = ("backbone", "fcn", "crf", "cris")
SMALL = {
    "picture_size": [32, 32],
    "unet_features": [4] * 6,
    "unet_plus_plus_features": [4] * 6,
    "segnet_features": [4] * 5,
    "refinement_channels": 4,
    "learning_rate": 0.01,
}


def trained(folder: Path, pictures: dict[str, object], overlays: tuple[str, ...] = (), **knobs: object) -> Path:
    """The folder of a run of the bundle, evaluated on the test set."""
    return train_and_evaluate("polyp_cris", folder, overlays, **{**SMALL, **LENGTH, **pictures, **knobs})


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory) -> dict[str, Path]:
    """A run of each strategy, each backbone among them."""
    folder = tmp_path_factory.mktemp("runs")
    backbones = dict(zip(STRATEGIES, ("segnet", "unet_plus_plus", "segnet", "unet"), strict=True))
    return {
        name: trained(folder / name, pictures, () if name == "cris" else (name,), backbone=backbone)
        for name, backbone in backbones.items()
    }


train_json = partial(parsed, "polyp_cris", device="cpu")


def turns(folder: Path) -> list[float]:
    """Whose turn it was in each iteration of a run: 0 the backbone's, 1 the final map's."""
    return [value for _, value in scalars(folder)["objective"]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_says_its_backbone_and_strategy_and_has_the_papers_scores(runs, strategy):
    summary = read_summary(runs[strategy] / "evaluation_test" / "summary.json")
    config = json.loads((runs[strategy] / "evaluation_test" / "summary.json").read_text())
    assert (summary.context["strategy"], summary.context["backbone"]) == (strategy, config["backbone"])
    ways = {(score.score, score.over) for score in summary.scores}
    assert ways >= {("dice", "cases"), ("dice", "pooled"), ("mse", "cases")}
    assert (runs[strategy] / "evaluation_test" / "pr.npz").exists()
    assert len(SCORES_CSV.read(runs[strategy] / "evaluation_test" / "scores.csv")) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_are_those_of_the_strategys_network(runs, strategy):
    names = torch.load(runs[strategy] / "model.pt", weights_only=True).keys()
    parts = {name.partition(".")[0] for name in names}
    expected = {"crf": {"backbone", "crf"}, "fcn": {"backbone", "refinement"}, "cris": {"backbone", "refinement"}}
    assert parts == expected.get(strategy, {"encoder", "decoder"})  # SegNet's own


def test_only_cris_takes_turns(runs):
    assert turns(runs["cris"]) == [0, 0, 1, 1]
    assert not any("objective" in scalars(folder) for name, folder in runs.items() if name != "cris")


def test_the_final_map_is_what_is_validated():
    knob = train_json(**SMALL, precision="float32")
    network, picture = knob("network").eval(), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        seen = knob("validate#inferer")(picture, network)
        final = network.refinement(network.backbone(picture).sigmoid())
    assert torch.allclose(seen, final, atol=1e-6)


def test_a_folder_is_predicted_with_the_knobs_of_the_training(runs, pictures, tmp_path):
    folder = Path(pictures["dataset_dir"]) / "images"
    knobs = words(**SMALL, model_file=runs["crf"] / "model.pt", backbone="segnet")
    assert (
        main(["predict", "bundles/polyp_cris", str(folder), "-o", str(tmp_path), "--config-overlay", "crf", *knobs])
        == 0
    )
    sizes = {path.stem: Image.open(path).size for path in folder.iterdir()}
    assert {name: Image.open(tmp_path / f"{name}_seg.png").size for name in sizes} == sizes != {}


def test_a_threshold_of_the_training_part_is_used_on_the_test_part(runs, pictures, tmp_path):
    knobs = {**SMALL, **LENGTH, **pictures, "backbone": "unet", "output_dir": str(runs["cris"])}
    chosen = tmp_path / "train"
    run_bundle("polyp_cris", "evaluating", "evaluate", **knobs, part="train", evaluation_dir=str(chosen))
    assert main(["threshold", str(chosen), "--score", "dice_mean"]) == 0
    choice = json.loads((chosen / "threshold.json").read_text())
    assert (choice["part"], choice["n_cases"]) == ("train", 4)
    knobs |= {"threshold_file": str(chosen / "threshold.json"), "evaluation_dir": str(tmp_path / "test")}
    run_bundle("polyp_cris", "evaluating", "evaluate", **knobs)
    summary = read_summary(tmp_path / "test" / "summary.json")
    assert (summary.context["part"], summary.context["threshold"]) == ("test", choice["threshold"])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sound_bundle_passes_the_check(strategy, runs, pictures, capsys):
    folder = runs[strategy]
    backbone = read_summary(folder / "evaluation_test" / "summary.json").context["backbone"]
    knobs = words(**SMALL, **pictures, output_dir=folder, backbone=backbone)
    assert main(["check", "bundles/polyp_cris", "--strategy", strategy, *knobs]) == 0
    assert "holds weights of this network" in capsys.readouterr().out


def test_turns_by_the_step_may_end_anywhere(pictures, tmp_path):
    folder = trained(tmp_path, pictures, interleave="step", epochs=1, iterations_per_epoch=3)
    assert turns(folder) == [0, 1, 0]


def test_an_end_in_the_backbones_turn_is_refused_before_anything_is_trained(pictures, tmp_path):
    with pytest.raises(Exception) as error:  # noqa: PT011 -- MONAI wraps it
        trained(tmp_path, pictures, epochs=3)
    assert str(find_user_error(error.value)).startswith("BAD_VALUE --epochs 3: ")
    assert not (tmp_path / "checkpoints").exists()


def test_the_check_finds_an_end_in_the_backbones_turn(pictures, tmp_path, capsys):
    knobs = words(**SMALL, **pictures, output_dir=tmp_path)
    assert main(["check", "bundles/polyp_cris", *knobs, "--epochs", "5"]) == 2
    assert "BAD_VALUE --epochs 5: a training that ends with an epoch of backbone" in capsys.readouterr().err
    assert main(["check", "bundles/polyp_cris", *knobs, "--epochs", "6"]) == 0
    assert "the losses of backbone and final take turns" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("knob", "known"),
    [("backbone", "unet, unet_plus_plus, segnet"), ("strategy", "backbone, fcn, crf, cris")],
)
def test_an_unknown_choice_is_refused_with_those_there_are(knob, known):
    with pytest.raises(Exception) as error:  # noqa: PT011 -- MONAI wraps it
        train_json(**{knob: "pspnet"})("network_def")
    assert (
        str(find_user_error(error.value)) == f"BAD_VALUE --{knob}: 'pspnet', expected one of {known}. Hint: correct it"
    )


@pytest.mark.parametrize(
    ("backbone", "count"), [("unet", 31_113_217), ("unet_plus_plus", 9_119_233), ("segnet", 29_443_585)]
)
def test_the_networks_have_their_parameters(backbone, count):
    with torch.device("meta"):
        networks = {each: train_json(backbone=backbone, strategy=each)("network_def") for each in STRATEGIES}
    counts = {each: sum(p.numel() for p in network.parameters()) for each, network in networks.items()}
    assert counts == {"backbone": count, "fcn": count + 76_193, "crf": count + 12, "cris": count + 76_193}


class TestStrategies:
    """In what they differ, and that they differ in nothing else."""

    @pytest.mark.parametrize("name", ["backbone", "fcn", "crf"])
    def test_an_overlay_changes_nothing_but_the_strategy(self, name):
        overlay = json.loads((ROOT / f"bundles/polyp_cris/{name}.json").read_text())
        assert overlay.keys() == {"_desc_", "strategy"}
        assert overlay["strategy"] == name

    def test_fcn_differs_from_cris_in_the_schedule_alone(self):
        fcn, cris = train_json("fcn", **SMALL), train_json(**SMALL)
        networks = []
        for knob in (fcn, cris):
            torch.manual_seed(0)
            networks.append(knob("network_def").state_dict())
        assert networks[0].keys() == networks[1].keys()
        assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())
        assert fcn("optimizer").defaults == cris("optimizer").defaults
        (backbone, final) = cris("loss").objectives
        assert str(final.loss) == str(fcn("loss"))
        assert (backbone.network_arguments, final.network_arguments) == ({"refine": False}, {})

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_the_field_alone_learns_at_a_rate_of_its_own(self, strategy):
        groups = train_json(strategy=strategy, **SMALL, crf_learning_rate=0.5)("optimizer").param_groups
        sizes = [(sum(parameter.numel() for parameter in group["params"]), group["lr"]) for group in groups]
        assert sizes[1:] == ([(12, 0.5)] if strategy == "crf" else [])
        assert sizes[0][1] == 0.01
        assert all(group["betas"] == (0.9, 0.999) for group in groups)

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_a_backbone_of_two_logits_is_trained_too(self, strategy):
        knob = train_json(**SMALL, strategy=strategy, out_channels=2, backbone="segnet")
        network, loss = knob("network").train(), knob("loss")
        picture, labels = torch.rand(2, 3, 32, 32), torch.randint(0, 2, (2, 1, 32, 32))
        objectives = loss.objectives if strategy == "cris" else [Objective(loss)]
        for each in objectives:
            each.loss(network(picture, **each.network_arguments), labels).backward()
        assert all(parameter.grad is not None for parameter in network.parameters())

    def test_every_combination_has_a_folder_of_its_own(self):
        overlays = [(), ("clinicdb",), ("clinicdb_sequences",), ("phantom",)]
        folders = {
            train_json(*data, backbone=backbone, strategy=strategy)("output_dir")
            for data, backbone, strategy in itertools.product(overlays, ("unet", "segnet"), STRATEGIES)
        }
        assert len(folders) == 4 * 2 * 4


OWN = {
    *("_desc_", "bundle_root", "output_dir", "test_cases", "val_cases", "split_file", "picture_size", "features"),
    *("unet_features", "unet_plus_plus_features", "segnet_features", "backbone", "strategy"),
    *("refinement_channels", "refinement_dropout", "refinement_init", "interleave"),
    *("crf_training_iterations", "crf_iterations", "crf_alpha", "crf_beta", "crf_gamma", "crf_learning_rate"),
    *("flip_prob", "affine_prob", "intensity_prob", "noise_prob"),
    *("batch_size", "epochs", "learning_rate", "plateau_patience", "patience"),
    *("network", "weight_decay", "lr_schedule", "lr_schedules", "lr_power", "lr_step"),
    *("min_learning_rate", "lr_drop_epochs", "power_schedule", "context", "settings"),
    *("backbones", "chosen_backbone", "backbone_def", "refined", "with_crf", "networks", "network_def"),
    *("final_loss", "turns", "losses", "loss", "parameters", "optimizer", "lr_scheduler"),
}
"""Keys of train.json in which the bundle may differ from polyp_resunetpp."""


class TestProtocol:
    """What is the paper's, and what must agree with the other polyp bundles."""

    def test_training_differs_in_the_papers_protocol_alone(self):
        one, other = (anonymous_config(bundle, "train") for bundle in ("polyp_resunetpp", "polyp_cris"))
        assert [key for key in (one.keys() | other.keys()) - OWN if one[key] != other[key]] == []

    @pytest.mark.parametrize("name", ["evaluate", "inference"])
    def test_evaluation_and_inference_differ_in_the_network_alone(self, name):
        one, other = anonymous_config("polyp_resunetpp", name), anonymous_config("polyp_cris", name)
        assert [key for key in (one.keys() | other.keys()) - OWN if one[key] != other[key]] == []

    @pytest.mark.parametrize(
        ("overlays", "name"),
        [
            ((), "Kvasir-SEG_70-15-15"),
            (("clinicdb",), "CVC-ClinicDB_70-15-15"),
            (("clinicdb_sequences",), "CVC-ClinicDB_sequences_70-15-15"),
        ],
    )
    def test_the_committed_splits_are_the_default(self, overlays, name):
        knob = train_json(*overlays)
        split = read_split(knob("split_file"))
        assert Path(knob("split_file")).stem == name
        total = sum(split.count(part) for part in PARTS)
        assert split.seed == knob("split_seed")
        assert [part for part in ("val", "test") if split.count(part) != round(knob(f"{part}_cases") * total)] == []

    def test_a_picture_is_seen_as_it_is(self, pictures):
        """256 x 256, values in [0, 1], and nothing at random."""
        data = train_json(**pictures, num_workers=0)("train#dataset")
        one, two = data[0], data[0]
        assert one["image"].shape == (3, 256, 256)
        assert 0 <= one["image"].min() < one["image"].max() <= 1
        assert torch.equal(one["image"], two["image"])

    def test_the_papers_numbers_are_the_default(self):
        knob = train_json()
        assert (knob("batch_size"), knob("refinement_dropout"), knob("interleave")) == (4, 0.01, "epoch")
        assert (knob("test_cases"), knob("val_cases")) == (0.15, 0.15)


class TestRefinedResUNetPlusPlus:
    """The strategy behind a network of another bundle."""

    def test_it_is_trained_in_turns_and_evaluated(self, pictures, tmp_path):
        knobs = {
            "picture_size": [32, 32],
            "features": [8, 8, 8, 16],
            "learning_rate": 0.01,
        }
        train_and_evaluate("polyp_resunetpp", tmp_path, ("refined",), **knobs, **LENGTH, **pictures)
        assert turns(tmp_path) == [0, 0, 1, 1]
        assert len(SCORES_CSV.read(tmp_path / "evaluation_test" / "scores.csv")) == 1

    def test_the_refined_map_has_the_bundles_own_loss(self):
        own, refined = (anonymous_config("polyp_resunetpp", name)["loss"] for name in ("train", "refined"))
        assert [each["loss"] for each in refined["objectives"]] == [
            {"_target_": "medseg3d.training.ProbabilityError"},
            {"_target_": "medseg3d.training.FinalLoss", "loss": own},
        ]

    @pytest.mark.parametrize(("interleave", "by_epoch"), [("epoch", True), ("step", False)])
    def test_how_long_a_turn_is_can_be_chosen(self, interleave, by_epoch):
        assert parsed("polyp_resunetpp", "refined", interleave=interleave)("loss").by_epoch is by_epoch

    def test_it_has_the_parameters_of_both(self):
        network = parsed("polyp_resunetpp", "refined")("network_def")
        assert sum(parameter.numel() for parameter in network.parameters()) == 4_062_993 + 76_193


@pytest.mark.slow  # generated images are trained on above, real ones in test_polyps.py
@pytest.mark.parametrize(("overlays", "name"), [((), "kvasir-seg"), (("clinicdb", "crf"), "cvc-clinicdb")])
def test_real_pictures_are_trained_on_and_scored(overlays, name, real_data, tmp_path):
    run = trained(tmp_path / "run", split_knobs(linked_pictures(real_data / name, tmp_path)), overlays)
    (row,) = SCORES_CSV.read(run / "evaluation_test" / "scores.csv")
    assert row["tp"] + row["fn"] > 0
