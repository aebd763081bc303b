"""Random changes made to batches on the device, in place of the loader, by the bundles' own configs."""

from __future__ import annotations

from commands import knobs
from picture_runs import LENGTH, differing_weights, run_bundle, shallow_encoders

from medseg3d.cli import main
from medseg3d.files.tensors import read_tensors

SMALL_POLYPS = {**LENGTH, "picture_size": [32, 32], "features": [8, 8, 8, 16], "roi_size": [32, 32], "device": "cpu"}


def test_scans_are_trained_on(small_knobs, tmp_path):
    options = {name: str(value) if name.endswith(("dir", "file")) else value for name, value in small_knobs.items()}
    options |= {"flip_prob": 0.5, "noise_prob": 0.5, "augment_on": "device", "output_dir": str(tmp_path), "epochs": 1}
    run_bundle("pancreas_nl", "training", "train", **options)
    weights = read_tensors(tmp_path / "checkpoints/epoch_00001.pt")["network"]
    assert all(value.isfinite().all() for value in weights.values())


def test_pictures_are_trained_on_and_resumed_to_the_same_bits(pictures, tmp_path):
    def run(folder: str, **more: object) -> None:
        options = {**SMALL_POLYPS, **pictures, "augment_on": "device", "output_dir": str(tmp_path / folder), **more}
        run_bundle("polyp_resunetpp", "training", "train", **options)

    run("whole")
    run("cut", epochs=1)
    run("cut", resume=True)
    assert differing_weights(tmp_path / "cut", tmp_path / "whole", epoch=2) == []
    run("loader", augment_on="loader")
    assert differing_weights(tmp_path / "loader", tmp_path / "whole", epoch=2)


def test_pictures_that_are_padded_last_are_refused_before_the_training(pictures, capsys):
    words = knobs(**pictures, picture_size=[32, 64], augment_on="device", device="cpu")
    with shallow_encoders():
        assert main(["check", "bundles/polyp_ann", *words]) == 2
    assert "BAD_VALUE --augment_on: device, with SpatialPadd among" in capsys.readouterr().err


def test_the_check_says_where_the_random_changes_are_made(small_knobs, tmp_path, capsys):
    words = knobs(**small_knobs, output_dir=tmp_path, augment_on="device", device="cpu")
    assert main(["check", "bundles/pancreas_nl", *words]) == 0
    assert "random changes are made on the device, to a batch at a time" in capsys.readouterr().out
