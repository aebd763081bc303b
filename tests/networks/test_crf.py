from __future__ import annotations

import math

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from network_tester import NetworkTester
from torch import nn

from medseg3d.inference import SlidingWindow
from medseg3d.networks import AsymmetricNonLocalNet, CRFasRNN, CRFRefined
from medseg3d.networks.crf import gaussian_average
from medseg3d.networks.permutohedral import PermutohedralLattice


def random_picture(batch: int = 1, height: int = 8, width: int = 8) -> torch.Tensor:
    """(batch, 3, height, width) of 0 to 255, smooth enough that pixels have neighbours."""
    coarse = torch.rand(batch, 3, 3, 3, generator=torch.Generator().manual_seed(2)) * 255
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255)


def random_logits(*shape: int) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))


class TestCRFRefined(NetworkTester):
    input_shape = (3, 16, 24)
    other_spatial = (11, 7)

    def make(self):
        torch.manual_seed(torch.initial_seed())
        network = CRFRefined(backbone(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), alpha=8.0, beta=40.0)
        nn.init.normal_(network.backbone[-1].weight)
        return network

    # the lattice's size depends on the image
    test_torchscript_gives_equal_outputs = None
    test_torch_export_gives_equal_outputs_at_any_size = None
    test_onnx_gives_equal_outputs_at_any_size = None


def test_twelve_numbers_are_trained():
    crf = CRFasRNN()
    assert {name: value.tolist() for name, value in crf.named_parameters()} == {
        "spatial": [[3, 0], [0, 3]],
        "bilateral": [[5, 0], [0, 5]],
        "compatibility": [[-1, 0], [0, -1]],
    }
    network = CRFRefined(backbone())
    ours = {id(parameter) for parameter in network.crf.parameters()}
    others = [parameter for parameter in network.parameters() if id(parameter) not in ours]
    assert len(others) == len(list(network.backbone.parameters()))
    assert network.state_dict().keys() == {
        *(f"backbone.{name}" for name in network.backbone.state_dict()),
        *(f"crf.{name}" for name in crf.state_dict()),
    }


@pytest.mark.parametrize("zeroed", [("spatial", "bilateral"), ("compatibility",)])
def test_with_weights_of_zero_it_is_the_identity(zeroed):
    crf, logits = CRFasRNN(), random_logits(2, 2, 8, 8)
    for name in zeroed:
        nn.init.zeros_(getattr(crf, name))
    assert torch.equal(crf(logits, random_picture(2)), logits)
    network, x = CRFRefined(backbone()), torch.rand(2, 3, 8, 8)
    for name in zeroed:
        nn.init.zeros_(getattr(network.crf, name))
    torch.testing.assert_close(network(x), network.backbone(x))


def test_without_steps_it_is_the_identity():
    crf, logits = CRFasRNN(iterations=0).eval(), random_logits(1, 2, 8, 8)
    assert torch.equal(crf(logits, random_picture()), logits)


def mean_field(
    unary: torch.Tensor, kernels: list[torch.Tensor], weights: list[torch.Tensor], penalty: torch.Tensor, steps: int
) -> torch.Tensor:
    """Zheng et al.'s algorithm 1, label by label, for one image of (L, N); kernels (N, N), not normalized."""
    labels = range(len(unary))
    logits = unary
    for _ in range(steps):
        prob = logits.exp() / logits.exp().sum(0)
        messages = []
        for kernel in kernels:
            messages.append(torch.stack([kernel @ prob[label] / kernel.sum(1) for label in labels]))
        weighted = sum(
            torch.stack([sum(weight[a, b] * message[b] for b in labels) for a in labels])
            for weight, message in zip(weights, messages, strict=True)
        )
        logits = torch.stack([unary[a] - sum(penalty[a, b] * weighted[b] for b in labels) for a in labels])
    return logits


def kernels_of(picture: torch.Tensor, crf: CRFasRNN) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, N) each: the spatial Gaussian, the bilateral one, and the lattice's in place of the latter."""
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in picture.shape[2:]), indexing="ij")
    places = torch.stack([columns, rows], -1).reshape(-1, 2).double()
    colours = picture[0].flatten(1).t().double()
    features = torch.cat([places / crf.alpha, colours / crf.beta], 1)
    spatial = (-(torch.cdist(places, places) ** 2) / (2 * crf.gamma**2)).exp()
    bilateral = (-(torch.cdist(features, features) ** 2) / 2).exp()
    lattice = PermutohedralLattice(features[None]).filter(torch.eye(len(features), dtype=torch.float64)[None])[0].t()
    return spatial, bilateral, lattice


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("training", [True, False])
def test_it_is_the_algorithm_step_by_step(num_classes, training):
    crf = CRFasRNN(num_classes, alpha=6.0, beta=30.0).double().train(training)
    for parameter in crf.parameters():
        parameter.data += torch.randn(num_classes, num_classes) / 4
    logits, picture = random_logits(1, num_classes, 8, 8).double(), random_picture()
    spatial, _, lattice = kernels_of(picture, crf)
    steps = 5 if training else 10
    weights = [crf.spatial, crf.bilateral]
    expected = mean_field(logits[0].flatten(1), [spatial, lattice], weights, crf.compatibility, steps)
    torch.testing.assert_close(crf(logits, picture)[0].flatten(1), expected)


@torch.no_grad()
def test_potts_penalty_and_both_gaussians_give_nearly_the_same_probabilities():
    crf = CRFasRNN(alpha=6.0, beta=60.0).double().train()
    logits, picture = random_logits(1, 2, 8, 8).double(), random_picture()
    spatial, bilateral, _ = kernels_of(picture, crf)
    penalty = 1 - torch.eye(2)
    exact = mean_field(logits[0].flatten(1), [spatial, bilateral], [crf.spatial, crf.bilateral], penalty, 5)
    difference = (crf(logits, picture).softmax(1)[0].flatten(1) - exact.softmax(0)).abs()
    assert difference.mean() < 0.01
    assert difference.max() < 0.1


@torch.no_grad()
def test_probabilities_are_those_of_pydensecrf():
    # DenseCRF2D(8, 6, 2) of pydensecrf2 1.1: addPairwiseBilateral(4, 12, image, compat=5, NORMALIZE_AFTER), 5 steps
    expected = torch.tensor(
        [
            [0.00089, 0.03958, 0.0108, 0.64732, 0.97257, 0.99893, 0.98656, 0.99937],
            [0.0063, 0.00475, 0.71512, 0.74901, 0.98677, 0.95343, 0.99939, 0.99712],
            [0.04048, 0.16076, 0.51739, 0.72059, 0.9937, 0.99316, 0.99194, 0.98768],
            [0.25057, 0.0245, 0.15177, 0.74637, 0.99688, 0.99895, 0.86957, 0.93371],
            [0.00962, 0.50418, 0.97158, 0.63331, 0.99843, 0.95156, 0.99327, 0.71131],
            [0.06922, 0.96986, 0.92372, 0.66723, 0.99921, 0.99144, 0.90908, 0.99672],
        ]
    )
    y, x = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    picture = torch.stack([40 * (x > 3) + 7 * y % 11 + 60, 9 * x + 5 * y, 200 - 3 * x * y % 17]).float()
    logit = ((13 * x + 29 * y + 5 * x * y) % 23 - 11) / 4
    crf = CRFasRNN(alpha=4.0, beta=12.0)
    nn.init.zeros_(crf.spatial)
    refined = crf(torch.stack([torch.zeros_like(logit), logit])[None], picture[None])
    torch.testing.assert_close(refined.softmax(1)[0, 1], expected, rtol=0, atol=2e-5)


def test_the_spatial_average_is_a_gaussian_s():
    weights = [math.exp(-((place - 1) ** 2) / (2 * 3.0**2)) for place in range(5)]
    row = gaussian_average(5, 3.0, torch.zeros(1, dtype=torch.float64))[1]
    assert row.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_gradients_are_those_of_finite_differences():
    crf = CRFasRNN(training_iterations=2, alpha=6.0, beta=30.0).double()
    logits, picture = random_logits(2, 2, 3, 4).double().requires_grad_(), random_picture(2, 3, 4)
    numbers = [parameter.detach().clone().requires_grad_() for parameter in crf.parameters()]

    def call(logits, *numbers):
        values = dict(zip([name for name, _ in crf.named_parameters()], numbers, strict=True))
        return torch.func.functional_call(crf, values, (logits, picture))

    assert sum(number.numel() for number in numbers) == 12
    assert torch.autograd.gradcheck(call, (logits, *numbers))


@torch.no_grad()
def test_a_blurred_edge_goes_where_the_colours_change():
    picture = torch.zeros(1, 3, 16, 16)
    picture[..., 6:] = 200.0
    column = torch.arange(16.0).expand(1, 1, 16, 16)
    blurred = (column - 7.6) / 2  # the network puts the edge two pixels too far to the right
    network = CRFRefined(nn.Identity()).eval()
    refined = network.crf(torch.cat([torch.zeros_like(blurred), blurred], 1), picture)
    assert torch.equal(refined.argmax(1), (column >= 6)[:, 0].long())


@torch.no_grad()
def test_one_logit_stands_for_two_labels():
    network, x = CRFRefined(backbone()).eval(), torch.rand(2, 3, 8, 8)
    logit = network.backbone(x)
    prob = network.crf(torch.cat([torch.zeros_like(logit), logit], 1), 255 * x).softmax(1)[:, 1:]
    torch.testing.assert_close(network(x).sigmoid(), prob)
    two = CRFRefined(nn.Conv2d(3, 2, 1)).eval()
    assert torch.equal(two(x), two.crf(two.backbone(x), 255 * x))


@torch.no_grad()
def test_the_picture_is_had_back_from_the_network_s_input():
    mean, std = (0.4, 0.3, 0.2), (0.2, 0.1, 0.3)
    x = random_picture() / 255
    normalized = (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    logit = random_logits(1, 1, 8, 8)
    seen = [CRFRefined(Constant(logit), *scale, alpha=6.0, beta=30.0).eval() for scale in ((), (mean, std))]
    torch.testing.assert_close(seen[1](normalized), seen[0](x), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(seen[0](normalized), seen[0](x), rtol=1e-2)


class Constant(nn.Module):
    """A backbone that has made up its mind."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits


def test_autocast_leaves_it_in_float32():
    crf, picture = CRFasRNN(alpha=6.0, beta=30.0), random_picture()
    logits = random_logits(1, 2, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        refined = crf(logits, picture)
        refined.sum().backward()
    assert refined.dtype == torch.float32
    assert torch.equal(refined, crf(logits.float(), picture))


def test_a_training_step_runs_in_torch_s_deterministic_mode():
    network = CRFRefined(backbone())
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        network(torch.rand(2, 3, 8, 8)).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(parameter.grad is not None for parameter in network.parameters())


@torch.no_grad()
def test_sliding_windows_and_tensors_with_metadata_go_through_it():
    network, x = CRFRefined(backbone()).eval(), torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(SlidingWindow((8, 8))(x, network), network(x))
    torch.testing.assert_close(torch.as_tensor(network(MetaTensor(x))), network(x))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"alpha, beta and gamma must be above 0, got 160\.0, 0\.0 and 3\.0"):
        CRFasRNN(beta=0.0)
    with pytest.raises(ValueError, match=r"num_classes must be 2 or more, .*, got 1, 5 and 10"):
        CRFasRNN(1)
    with pytest.raises(ValueError, match=r"logits must be \(1, 2, 4, 8\) .* got \[1, 2, 8, 8\] and \[1, 3, 4, 8\]"):
        CRFasRNN()(torch.zeros(1, 2, 8, 8), torch.zeros(1, 3, 4, 8))
    with pytest.raises(ValueError, match="gives 2 outputs, one is wanted: make it without auxiliary heads"):
        CRFRefined(AsymmetricNonLocalNet())(torch.zeros(2, 3, 32, 32))


def test_a_bundle_can_name_it_with_its_backbone():
    config = {
        "_target_": "medseg3d.networks.CRFRefined",
        "backbone": {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 1, "kernel_size": 1},
        "channel_mean": [0.5, 0.5, 0.5],
        "channel_std": [0.2, 0.2, 0.2],
        "iterations": 3,
    }
    network = ConfigParser({"network": config}).get_parsed_content("network")
    assert sum(parameter.numel() for parameter in network.parameters()) == 12 + 4
    assert network.crf.iterations == 3
