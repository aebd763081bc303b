"""Every bundle begins with weights of a file, freezes parts of its network and lets others learn slower."""

from __future__ import annotations

import json

import pytest
import torch
from commands import ROOT
from picture_runs import LENGTH, parsed, run_bundle, shallow_encoders, train_and_evaluate

from medseg3d.cli import main
from medseg3d.evaluation.files import read_summary
from medseg3d.files.tensors import read_tensors

SMALL = {
    "polyp_resunetpp": {"features": [8, 8, 8, 16]},
    "polyp_cris": {"unet_features": [8, 8, 8, 8, 8, 8]},
}
OTHER_CLASSES = {"pancreas_nl": {"num_classes": 3}, "pancreas_nl_2d": {"num_classes": 3}}


@pytest.mark.parametrize("bundle", sorted(path.parent.name for path in ROOT.glob("bundles/*/train.json")))
def test_every_bundle_takes_weights_of_other_classes_freezes_and_slows_by_pattern(bundle, tmp_path):
    knobs = {"device": "cpu", **SMALL.get(bundle, {})}
    with shallow_encoders():
        other = OTHER_CLASSES.get(bundle, {"out_channels": 3})
        torch.save(parsed(bundle, **knobs, **other)("network_def").state_dict(), tmp_path / "model.pt")
        content = parsed(
            bundle, **knobs, init_from=str(tmp_path / "model.pt"), freeze="*bias", lr_factors={"*weight": 0.5}
        )
        network, optimizer = content("network"), content("optimizer")
    source = torch.load(tmp_path / "model.pt")
    fresh = {name for name, value in network.state_dict().items() if not torch.equal(value, source[name])}
    assert fresh == {each.split()[0] for each in network.initial_weights["of_another_shape"]}
    assert 1 <= len(fresh) <= 4
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in network.named_parameters() if name.endswith("bias")}
    assert optimizer.param_groups[1]["lr"] == content("learning_rate") / 2


def test_a_fine_tuned_run_says_what_it_began_with_and_its_scores_do_too(pictures, tmp_path):
    knobs = {**SMALL["polyp_resunetpp"], **pictures, **LENGTH, "picture_size": [32, 32], "roi_size": [32, 32]}
    run_bundle("polyp_resunetpp", "training", "train", **knobs, output_dir=str(tmp_path / "first"))
    first = tmp_path / "first" / "model.pt"
    fine = {"init_from": str(first), "freeze": ["stem", "encoder"], "lr_factors": {"bridge": 0.1}}
    run = train_and_evaluate("polyp_resunetpp", tmp_path / "fine", **knobs, **fine, ema_decay=0.5)
    state, source = read_tensors(run / "model.pt"), read_tensors(first)
    same = {name for name in source if torch.equal(state[name], source[name])}
    assert {name for name in source if name.split(".")[0] in ("stem", "encoder")} <= same
    assert not [name for name in same if name.startswith(("bridge.0", "head"))]
    account = read_summary(run / "evaluation_test" / "summary.json").context["initial_weights"]
    assert (account["file"], account["fitting"], account["missing"]) == (str(first), len(source), 0)
    assert account["sha256"] == json.loads((run / "initial_weights.json").read_text())["sha256"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--init_from", "{}/other.pt"], "0 of the 55 kernels and matrices of this ResUNetPlusPlus in it; "),
        (["--freeze", "encodr*"], "BAD_VALUE --freeze: 'encodr*'"),
        (["--lr_factors", "{{'encodr*': 0.1}}"], "BAD_VALUE --lr_factors: 'encodr*'"),
        (["--lr_factors", "{{'encoder*': 0}}"], "BAD_VALUE --lr_factors: {{'encoder*': 0}}, expected patterns"),
        (["--freeze", "3"], "BAD_VALUE --freeze: 3, expected a pattern of parameters' names, or a list"),
    ],
)
def test_the_check_finds_a_start_that_does_not_fit(wrong, words, pictures, tmp_path, capsys):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "other.pt")
    data = [word for name, value in pictures.items() for word in (f"--{name}", str(value))]
    assert main(["check", "bundles/polyp_resunetpp", *data, *(word.format(tmp_path) for word in wrong)])
    assert words.format(tmp_path) in capsys.readouterr().err
