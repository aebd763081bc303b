from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNetPlusPlus
from network_tester import NetworkTester
from torch import nn

from medseg3d.networks import AsymmetricNonLocalNet, DeepLabV3Plus, RefinedSegmenter, ResUNetPlusPlus, SegResNetNL
from medseg3d.networks.refinement import Refinement


def small() -> RefinedSegmenter:
    return RefinedSegmenter(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)), channels=4)


class FinalOutput(nn.Module):
    """The first of the pair that the network gives while training."""

    def __init__(self, network: RefinedSegmenter):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


class TestRefinedSegmenter(NetworkTester):
    input_shape = (3, 16, 24)
    other_spatial = (11, 7)

    def make(self):
        return small()

    def test_backward_reaches_every_parameter(self, network, x):
        super().test_backward_reaches_every_parameter(FinalOutput(network), x)


class TestRefinedVolumes(NetworkTester):
    input_shape = (1, 8, 8, 12)
    other_spatial = (7, 5, 6)

    def make(self):
        return RefinedSegmenter(nn.Conv3d(1, 3, 3, padding=1), channels=4, out_channels=3, spatial_dims=3)

    def test_backward_reaches_every_parameter(self, network, x):
        super().test_backward_reaches_every_parameter(FinalOutput(network), x)


@pytest.mark.parametrize(("channels", "parameters"), [(16, 19_153), (32, 76_193), (64, 303_937)])
def test_parameters_of_the_refinement(channels, parameters):
    assert sum(parameter.numel() for parameter in Refinement(channels).parameters()) == parameters


def test_a_pixel_of_the_refinement_sees_13_by_13():
    refinement = Refinement().eval()
    prob = torch.rand(1, 1, 31, 31, requires_grad=True)
    refinement(prob)[0, 0, 15, 15].backward()
    rows, columns = prob.grad[0, 0].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 21, 9, 21)


def test_dropout_stands_between_trainable_layers_and_not_at_the_end():
    kinds = [type(layer).__name__ for layer in Refinement().layers]
    assert kinds == ["Conv2d", "ReLU", "Dropout"] * 3 + ["Conv2d"]
    assert [layer.kernel_size[0] for layer in Refinement().layers if isinstance(layer, nn.Conv2d)] == [1, 7, 5, 3]
    assert {layer.p for layer in Refinement().layers if isinstance(layer, nn.Dropout)} == {0.01}


@torch.no_grad()
def test_the_refinement_sees_the_probability_and_nothing_else():
    network, x = small().eval(), torch.randn(2, 3, 8, 8)
    expected = network.refinement(1 / (1 + (-network.backbone(x)).exp()))
    torch.testing.assert_close(network(x), expected)


def test_training_gives_the_backbone_s_logits_too():
    network, x = small().train(), torch.randn(2, 3, 8, 8)
    final, of_backbone = network(x)
    assert final.shape == of_backbone.shape == (2, 1, 8, 8)
    assert torch.equal(of_backbone, network.backbone(x))
    assert isinstance(network.eval()(x), torch.Tensor)


def test_gradients_of_the_final_output_reach_the_backbone():
    network = small().train()
    network(torch.randn(2, 3, 8, 8))[0].sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.backbone.parameters())


def test_a_step_without_refinement_leaves_it_alone_whatever_the_optimizer_remembers():
    torch.manual_seed(0)
    network, x = small().train(), torch.randn(2, 3, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    network(x)[0].square().mean().backward()  # gives the optimizer momentum for every parameter
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    refinement = [parameter.clone() for parameter in network.refinement.parameters()]
    backbone = [parameter.clone() for parameter in network.backbone.parameters()]

    state = torch.get_rng_state()
    network(x, refine=False).square().mean().backward()
    assert torch.equal(torch.get_rng_state(), state)  # no dropout was drawn
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(network.refinement.parameters(), refinement, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(network.backbone.parameters(), backbone, strict=True))


@torch.no_grad()
def test_without_refinement_the_logits_are_the_backbone_s():
    network, x = small().eval(), torch.randn(2, 3, 8, 8)
    assert torch.equal(network(x, refine=False), network.backbone(x))


@torch.no_grad()
def test_a_list_of_one_is_its_element():
    backbone = BasicUNetPlusPlus(2, 3, 1, (4, 4, 4, 4, 4, 4), norm="batch", act="relu")
    network, x = RefinedSegmenter(backbone, channels=4).eval(), torch.randn(1, 3, 16, 16)
    assert torch.equal(network(x, refine=False), backbone(x)[0])


@pytest.mark.parametrize(
    ("backbone", "outputs"),
    [
        (AsymmetricNonLocalNet(), 2),
        (BasicUNetPlusPlus(2, 3, 1, (4, 4, 4, 4, 4, 4), deep_supervision=True), 4),
    ],
    ids=["auxiliary head", "deep supervision"],
)
def test_a_backbone_of_several_outputs_is_refused(backbone, outputs):
    network = RefinedSegmenter(backbone).train()
    with pytest.raises(ValueError, match=rf"gives {outputs} outputs, one is wanted: .*auxiliary_head=False"):
        network(torch.randn(2, 3, 32, 32))


@torch.no_grad()
def test_two_logits_are_refined_as_the_one_of_equal_probability():
    two = nn.Conv2d(3, 2, 1)
    network, x = RefinedSegmenter(two, channels=4).eval(), torch.randn(2, 3, 8, 8)
    prob = two(x).softmax(1)[:, 1:]
    torch.testing.assert_close(network(x, refine=False).sigmoid(), prob)
    torch.testing.assert_close(network(x), network.refinement(prob))


@torch.no_grad()
def test_several_classes_are_refined_from_all_their_maps():
    three = nn.Conv2d(3, 3, 1)
    network, x = RefinedSegmenter(three, channels=4, out_channels=3).eval(), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(x), network.refinement(three(x).softmax(1)))
    assert network(x).shape == (2, 3, 8, 8)
    with pytest.raises(ValueError, match="gives 3 channels of logits, out_channels is 1"):
        RefinedSegmenter(three)(x)


@pytest.mark.parametrize(
    ("backbone", "settings", "shape"),
    [
        (ResUNetPlusPlus(), {}, (3, 32, 32)),
        (DeepLabV3Plus(), {}, (3, 32, 32)),
        (AsymmetricNonLocalNet(auxiliary_head=False), {}, (3, 32, 32)),
        (SegResNetNL(init_filters=8), {"out_channels": 2, "spatial_dims": 3}, (1, 16, 16, 16)),
    ],
    ids=["polyp_resunetpp", "polyp_deeplabv3plus", "polyp_ann", "pancreas_nl"],
)
def test_it_wraps_the_networks_of_the_bundles(backbone, settings, shape):
    network = RefinedSegmenter(backbone, channels=4, **settings).train()
    final, of_backbone = network(torch.randn(2, *shape))
    assert final.shape == of_backbone.shape == (2, settings.get("out_channels", 1), *shape[1:])
    final.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_other_dimensions_are_refused():
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 1"):
        Refinement(spatial_dims=1)


def test_a_bundle_can_name_it_with_its_backbone():
    config = {
        "_target_": "medseg3d.networks.RefinedSegmenter",
        "backbone": {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1},
    }
    network = ConfigParser({"network": config}).get_parsed_content("network")
    assert sum(parameter.numel() for parameter in network.parameters()) == 76_193 + 4
