"""MONAI's `--tracking mlflow`."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_runs import FEATURES, LENGTH, parsed, run_bundle, scalars
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytest.importorskip("mlflow")
pytest.importorskip("sqlalchemy")

from mlflow import MlflowClient


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory) -> Path:
    """The folder of a run that was trained and evaluated with MLflow looking on."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    knobs = {**pictures, **LENGTH, "picture_size": [32, 32], "features": FEATURES, "output_dir": str(folder)}
    torch.save(parsed("polyp_resunetpp", features=FEATURES)("network_def").state_dict(), folder.with_name("first.pt"))
    fine = {"init_from": str(folder.with_name("first.pt")), "lr_factors": {"stem": 0.5}}
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"epochs": 2, "labels": [0, 1], "network": {"_target_": "x"}, "lr_step": "$1"}'
    )
    run_bundle("polyp_resunetpp", "training", "train", **knobs, **fine, tracking="mlflow")
    run_bundle("polyp_resunetpp", "evaluating", "evaluate", **knobs, tracking="mlflow")
    return folder


@pytest.fixture(scope="module")
def client(folder) -> MlflowClient:
    return MlflowClient(f"sqlite:///{folder / 'mlruns.db'}")


@pytest.fixture(scope="module")
def runs(client) -> list[str]:
    """The runs of the training and of the evaluation."""
    experiment = client.get_experiment_by_name("monai_experiment")
    runs = client.search_runs(experiment.experiment_id, order_by=["start_time ASC"])
    return [run.info.run_id for run in runs]


def artifacts(client: MlflowClient, run: str, path: str | None = None) -> set[str]:
    return {each.path for each in client.list_artifacts(run, path)}


def pixels(file: Any) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_mlflow_holds_the_curves_that_tensorboard_holds(folder, client, runs):
    curves = {
        key: [(each.step, pytest.approx(each.value)) for each in client.get_metric_history(runs[0], key)]
        for key in client.get_run(runs[0]).data.metrics
    }
    assert {"train_loss", "gradient_norm", "learning_rate_group_1", "val_dice_mean"} <= curves.keys()
    assert scalars(folder) == curves


def test_mlflow_and_tensorboard_hold_the_knobs(folder, client, runs):
    logged = client.get_run(runs[0]).data.params
    assert {name: logged[name] for name in logged if name not in ("max_epochs", "epoch_length")} == {
        "epochs": "2",
        "labels": "[0, 1]",
    }
    (event,) = EventAccumulator(str(folder)).Reload().Tensors("knobs/text_summary")
    assert event.tensor_proto.string_val[0].decode().splitlines()[2:] == ["| epochs | `2` |", "| labels | `[0, 1]` |"]


def test_mlflow_holds_the_pictures_that_tensorboard_holds(folder, client, runs, tmp_path):
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    (tag,) = events.Tags()["images"]
    theirs = {event.step: pixels(io.BytesIO(event.encoded_image_string)) for event in events.Images(tag)}
    names = [name for name in artifacts(client, runs[0], "images") if name.endswith(".png")]
    assert {re.split(r"\Wstep\W", Path(name).name)[0] for name in names} == {tag.replace("/", "~")}
    ours = {
        int(re.search(r"\Wstep\W(\d+)", name)[1]): pixels(client.download_artifacts(runs[0], name, tmp_path))
        for name in names
    }
    assert ours.keys() == theirs.keys() == {2, 4}
    np.testing.assert_array_equal([ours[step] for step in (2, 4)], [theirs[step] for step in (2, 4)])


def test_mlflow_keeps_the_weights_what_they_began_with_and_the_scores(client, runs):
    assert {"model.pt", "config.json", "initial_weights.json"} <= artifacts(client, runs[0])
    assert {"summary.json", "scores.csv"} <= artifacts(client, runs[1])
