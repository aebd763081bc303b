from __future__ import annotations

from functools import partial

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNetPlusPlus
from network_tester import NetworkTester
from picture_runs import shallow_encoders
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
    bf16_error = 0.06  # of logits near 0: what the channels give cancels out

    def make(self):
        return small()

    def test_backward_reaches_every_parameter(self, network, x):
        super().test_backward_reaches_every_parameter(FinalOutput(network), x)


class TestRefinedVolumes(NetworkTester):
    input_shape = (1, 8, 8, 12)
    other_spatial = (7, 5, 6)
    bf16_error = 0.06  # of logits near 0: what the channels give cancels out

    def make(self):
        return RefinedSegmenter(nn.Conv3d(1, 3, 3, padding=1), channels=4, out_channels=3, spatial_dims=3)

    def test_backward_reaches_every_parameter(self, network, x):
        super().test_backward_reaches_every_parameter(FinalOutput(network), x)


@pytest.mark.parametrize(("channels", "parameters"), [(16, 19_153), (32, 76_193), (64, 303_937)])
def test_parameters_of_the_refinement(channels, parameters):
    assert sum(parameter.numel() for parameter in Refinement(channels).parameters()) == parameters


def test_a_pixel_of_the_refinement_sees_13_by_13():
    refinement = Refinement(init="default").eval()
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
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_refined_map_begins_as_the_backbone_s(spatial_dims):
    refinement = Refinement(spatial_dims=spatial_dims).eval()
    prob = torch.rand(1, 1, *[9] * spatial_dims, generator=torch.Generator().manual_seed(0))
    logits = refinement(prob)
    torch.testing.assert_close(logits, 5 * (prob - 0.5), rtol=0, atol=1e-5)
    assert torch.equal(logits > 0, prob > 0.5)
    assert (logits.sigmoid() - prob).abs().max() < 0.076
    inner = (prob > 0.08) & (prob < 0.92)
    assert (logits.sigmoid() - prob)[inner].abs().max() < 0.032


@torch.no_grad()
def test_a_new_network_finds_the_polyps_that_its_backbone_finds():
    network = RefinedSegmenter(nn.Conv2d(3, 1, 1)).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(network(x) > 0, network(x, refine=False) > 0)


@torch.no_grad()
@pytest.mark.parametrize(("init", "least", "most"), [("identity", 3.49, 3.51), ("default", 0.0, 0.1)])
@pytest.mark.parametrize("seed", range(5))
def test_a_gap_of_probability_arrives_in_the_logits(init, least, most, seed):
    prob = torch.full((1, 1, 41, 41), 0.15)
    prob[..., 10:31, 10:31] = 0.85
    torch.manual_seed(seed)
    logits = Refinement(init=init).eval()(prob)
    gap = logits[..., 20, 20] - logits[..., 2, 20]
    assert least <= gap.abs().item() <= most


@torch.no_grad()
@pytest.mark.parametrize("maps", [2, 3, 4])
def test_the_classes_begin_in_the_order_of_the_backbone_s(maps):
    prob = torch.randn(2, maps, 9, 9, generator=torch.Generator().manual_seed(0)).softmax(1)
    logits = Refinement(channels=5, maps=maps).eval()(prob)
    assert torch.equal(logits.argsort(1), prob.argsort(1))


@pytest.mark.parametrize("level", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_no_relu_is_shut_and_no_two_channels_are_alike_at_the_start(level):
    refinement = Refinement()
    logits = refinement(torch.full((1, 1, 15, 15), level))
    logits.sum().backward()
    still = {name for name, parameter in refinement.named_parameters() if not parameter.grad.all()}
    assert still == (set() if level > 0 else {"layers.0.weight"})  # a map of zeros has nothing to scale
    rows = refinement.layers[3].weight.grad.flatten(1)
    assert torch.unique(rows, dim=0).shape[0] == 32


def test_the_first_steps_of_adam_do_not_throw_the_refined_map_away():
    torch.manual_seed(0)
    prob = torch.full((1, 1, 41, 41), 0.2)
    prob[..., 14:27, 14:27] = 0.3
    label = (prob > 0.25).float()
    refinement = Refinement()
    optimizer = torch.optim.Adam(refinement.parameters(), lr=3e-4)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(refinement(prob), label)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) < 1.1 * losses[0]
    assert losses[-1] < 0.9 * losses[0]
    activations = [prob]
    for layer in refinement.eval().layers:
        activations.append(layer(activations[-1]))
    relus = [index for index, layer in enumerate(refinement.layers, start=1) if isinstance(layer, nn.ReLU)]
    assert min(activations[index].amax((0, 2, 3)).min() for index in relus) > 0


def test_a_state_dict_of_either_start_loads_into_the_other():
    network, other = RefinedSegmenter(nn.Conv2d(3, 1, 1)), RefinedSegmenter(nn.Conv2d(3, 1, 1), init="default")
    assert list(network.state_dict()) == list(other.state_dict())
    network.load_state_dict(other.state_dict())


def test_it_is_built_without_memory_too():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in Refinement().parameters()) == 76_193


def test_another_start_and_too_few_channels_are_refused():
    with pytest.raises(ValueError, match="init must be identity or default, got dirac"):
        Refinement(init="dirac")
    with pytest.raises(ValueError, match="channels must be at least the 3 maps, got 2"):
        Refinement(channels=2, maps=3)


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
    ("make", "settings", "shape"),
    [
        (ResUNetPlusPlus, {}, (3, 32, 32)),
        (DeepLabV3Plus, {}, (3, 32, 32)),
        (partial(AsymmetricNonLocalNet, auxiliary_head=False), {}, (3, 32, 32)),
        (partial(SegResNetNL, init_filters=8), {"out_channels": 2, "spatial_dims": 3}, (1, 16, 16, 16)),
    ],
    ids=["polyp_resunetpp", "polyp_deeplabv3plus", "polyp_ann", "pancreas_nl"],
)
def test_it_wraps_the_networks_of_the_bundles(make, settings, shape):
    with shallow_encoders():
        network = RefinedSegmenter(make(), channels=4, **settings).train()
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
