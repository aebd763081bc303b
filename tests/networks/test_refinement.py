from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNetPlusPlus
from network_tester import NetworkTester
from torch import nn

from medseg3d.networks import RefinedSegmenter
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
def test_a_backbone_that_gives_a_list_is_read_at_its_end():
    backbone = BasicUNetPlusPlus(2, 3, 1, (4, 4, 4, 4, 4, 4), deep_supervision=True, norm="batch", act="relu")
    network, x = RefinedSegmenter(backbone, channels=4).eval(), torch.randn(1, 3, 16, 16)
    assert torch.equal(network(x, refine=False), backbone(x)[-1])


def test_a_bundle_can_name_it_with_its_backbone():
    config = {
        "_target_": "medseg3d.networks.RefinedSegmenter",
        "backbone": {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1},
    }
    network = ConfigParser({"network": config}).get_parsed_content("network")
    assert sum(parameter.numel() for parameter in network.parameters()) == 76_193 + 4
