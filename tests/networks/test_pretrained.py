from __future__ import annotations

import pytest
import torch
from imagenet_weights import cadene_weights, torchvision_weights
from monai.networks.nets import SEResNext50

from medseg3d.errors import UserError
from medseg3d.networks.backbones import DilatedResNet50, DilatedSEResNeXt50
from medseg3d.networks.pretrained import load_pretrained


@pytest.fixture(scope="module")
def torchvision() -> dict[str, torch.Tensor]:
    return torchvision_weights()


@pytest.fixture(scope="module")
def cadene() -> dict[str, torch.Tensor]:
    return cadene_weights()


@pytest.fixture(scope="module")
def networks():
    return DilatedResNet50(), DilatedSEResNeXt50()


@pytest.fixture
def encoder(networks) -> DilatedResNet50:
    return emptied(networks[0])


@pytest.fixture
def se_encoder(networks) -> DilatedSEResNeXt50:
    return emptied(networks[1])


def emptied(network):
    """All zeros, so that what is there later was loaded: initialising anew takes seconds."""
    for tensor in network.state_dict().values():
        tensor.zero_()
    return network


def test_torchvision_has_320_tensors_with_the_published_names(torchvision):
    assert len(torchvision) == 320
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "layer3.5.bn3.running_var": (1024,),
        "layer4.0.downsample.0.weight": (2048, 1024, 1, 1),
        "fc.weight": (1000, 2048),
    }
    assert {key: tuple(torchvision[key].shape) for key in shapes} == shapes


def test_torchvision_fills_every_tensor_of_the_encoder(encoder, torchvision):
    report = load_pretrained(encoder, torchvision)
    assert report == (265, (), (), "torchvision")
    state = encoder.state_dict()
    assert len(state) == 318
    assert all(torch.equal(state[key], torchvision[key]) for key in state)


@pytest.mark.parametrize(
    ("wrap", "layout"),
    [
        (lambda w: {"meta": {"epoch": 9}, "state_dict": {f"backbone.{k}": t for k, t in w.items()}}, "backbone."),
        (lambda w: {f"module.encoder.{k}": t for k, t in w.items()}, "module.encoder."),
        (lambda w: {"model": w, "epoch": 3}, ""),
        (
            lambda w: {"state_dict": {**{f"backbone.{k}": t for k, t in w.items()}, "decode_head.w": torch.ones(1)}},
            "backbone.",
        ),
        (lambda w: {k: t for k, t in w.items() if "num_batches" not in k}, ""),
        (lambda w: {k: t.half() if t.is_floating_point() else t for k, t in w.items()}, ""),
    ],
    ids=["mmseg", "DDP", "timm checkpoint", "mmseg with head", "old PyTorch", "half precision"],
)
def test_checkpoints_of_other_projects_are_unwrapped(encoder, torchvision, wrap, layout):
    report = load_pretrained(encoder, wrap(torchvision))
    assert report == (265, (), (), f"torchvision, prefix {layout}" if layout else "torchvision")
    assert torch.allclose(
        encoder.state_dict()["layer4.2.conv3.weight"], torchvision["layer4.2.conv3.weight"], atol=1e-3
    )


def test_cadene_fills_every_tensor_of_the_encoder(se_encoder, cadene):
    assert tuple(cadene["layer1.0.se_module.fc1.weight"].shape) == (16, 256, 1, 1)
    assert "last_linear.bias" in cadene
    assert load_pretrained(se_encoder, cadene) == (329, (), (), "cadene")
    state = se_encoder.state_dict()
    assert torch.equal(state["layer2.3.conv2.adn.N.bias"], cadene["layer2.3.bn2.bias"])
    assert torch.equal(state["layer1.0.se_layer.fc.2.weight"], cadene["layer1.0.se_module.fc2.weight"][..., 0, 0])
    assert torch.equal(state["layer4.0.project.conv.weight"], cadene["layer4.0.downsample.0.weight"])


def test_monais_own_loader_gives_the_same_encoder(se_encoder, cadene, monkeypatch):
    """MONAI downloads; with the download replaced, its renaming is the judge of ours."""
    from monai.networks.nets import senet

    monkeypatch.setattr(senet, "download_url", lambda *args, **kwargs: None)
    monkeypatch.setattr(senet, "load_state_dict_from_url", lambda *args, **kwargs: dict(cadene))
    monkeypatch.setattr(senet.torch, "load", lambda *args, **kwargs: dict(cadene))
    theirs = SEResNext50(spatial_dims=2, in_channels=3, pretrained=True).state_dict()
    load_pretrained(se_encoder, cadene)
    ours = {key: value for key, value in se_encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])] == []
    assert ours


def test_other_input_channels_leave_the_stem_and_say_so(torchvision):
    encoder = DilatedResNet50(in_channels=4)
    before = encoder.conv1.weight.clone()
    assert load_pretrained(encoder, torchvision) == (264, ("conv1.weight",), (), "torchvision")
    assert torch.equal(encoder.conv1.weight, before)


def test_what_the_encoder_has_no_place_for_is_reported(encoder, torchvision):
    report = load_pretrained(encoder, {**torchvision, "layer5.0.conv1.weight": torch.ones(1)})
    assert report.unexpected == ("layer5.0.conv1.weight",)


def without(weights: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """The weights without `count` tensors of their deepest stage."""
    gone = [key for key in weights if key.startswith("layer4") and "num_batches" not in key][-count:]
    return {key: tensor for key, tensor in weights.items() if key not in gone}


def test_95_per_cent_are_the_limit(encoder, torchvision):
    # 5 % of 265 are 13.25
    assert load_pretrained(encoder, without(torchvision, 13)).matched == 252
    with pytest.raises(UserError, match=r"PRETRAINED r50\.pth: 251 of 265 tensors .*expected at least 95%"):
        load_pretrained(encoder, without(torchvision, 14), "r50.pth")


def test_a_deep_stem_is_refused_with_the_reason(encoder, torchvision):
    deep = {f"backbone.{key}": tensor for key, tensor in torchvision.items() if key != "conv1.weight"}
    for stem in ("stem.0.weight", "conv1.0.weight"):
        with pytest.raises(UserError, match=r"PRETRAINED .*deep stem of three 3x3 convolutions .*V1c"):
            load_pretrained(encoder, {"state_dict": {**deep, f"backbone.{stem}": torch.ones(32, 3, 3, 3)}})


def test_weights_of_the_other_encoder_are_refused(encoder, se_encoder, torchvision, cadene):
    with pytest.raises(UserError, match=r"PRETRAINED .*the layout of cadene, expected that of torchvision"):
        load_pretrained(encoder, cadene)
    with pytest.raises(UserError, match=r"PRETRAINED .*the layout of torchvision, expected that of cadene"):
        load_pretrained(se_encoder, torchvision)


def test_a_smaller_resnet_is_refused_and_nothing_is_loaded(encoder, torchvision):
    shallow = {key: tensor[..., :1, :1] if tensor.ndim == 4 else tensor for key, tensor in torchvision.items()}
    del shallow["layer1.0.conv2.weight"]
    with pytest.raises(UserError, match=r"PRETRAINED"):
        load_pretrained(encoder, {**shallow, **{k: t[:5] for k, t in torchvision.items() if ".bn" in k and t.ndim}})
    assert not any(tensor.any() for tensor in encoder.state_dict().values())


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "0 tensors, none of them called layer1.0.conv1.weight"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "0 tensors"),
        ({"blocks.0.attn.qkv.weight": torch.ones(2, 2)}, "1 tensors"),
        ({"prelayer1.0.conv1.weight": torch.ones(1)}, "1 tensors"),
        (
            {"student.layer1.0.conv1.weight": torch.ones(1), "teacher.layer1.0.conv1.weight": torch.ones(1)},
            r"2 encoders \(student\., teacher\.\)",
        ),
    ],
)
def test_what_is_no_encoder_is_refused(encoder, weights, words):
    with pytest.raises(UserError, match=f"PRETRAINED .*{words}"):
        load_pretrained(encoder, weights)
