from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from medseg3d.networks import CRFRefined, SegResNetNL, UMambaEnc, crf, mamba
from medseg3d.networks.costs import forward_bytes, network_costs


class Chain(nn.Module):
    """(3, 8, 8) -> 5 channels -> ReLU -> skip added -> 2 channels; every count by hand below."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, kernel_size=3, padding=1, bias=False)
        self.layers = nn.ModuleList([nn.Conv2d(5, 5, kernel_size=1), nn.BatchNorm2d(5)])
        self.head = nn.Conv2d(5, 2, kernel_size=1)
        self.head.bias.requires_grad_(False)

    def forward(self, x):
        skip = self.stem(x)
        x = self.layers[1](self.layers[0](skip))
        return self.head(F.relu(x) + skip)


MAP = 8 * 8 * 4  # bytes of one channel


def test_counts_agree_with_those_by_hand():
    costs = network_costs(Chain(), (3, 8, 8))
    assert costs.parameters == 3 * 5 * 9 + (25 + 5) + 10 + (10 + 2)
    assert costs.trainable == costs.parameters - 2
    assert costs.checkpoint_bytes == 4 * (costs.parameters + 10) + 8  # running mean and variance, batches as int64
    assert costs.macs == 64 * (3 * 5 * 9 + 25 + 10)
    # at the addition: skip, the normalized features, their ReLU and the sum
    assert costs.activation_bytes == 4 * 5 * MAP
    # the outputs of stem (input of the 1×1), of the 1×1 (input of the norm), of the ReLU, the sum (input of the head),
    # and mean and deviation of each of the 5 channels, which a batch of two shares
    assert costs.backward_bytes == 4 * 5 * MAP + 2 * 5 * 4 // 2


def test_modules_hold_their_children():
    modules = {module.path: module for module in network_costs(Chain(), (3, 8, 8)).modules}
    assert list(modules) == ["stem", "layers", "layers.0", "layers.1", "head"]
    assert modules["layers"].macs == modules["layers.0"].macs == 64 * 25  # a list, which is never called itself
    assert (modules["layers"].parameters, modules["layers"].depth, modules["layers.1"].depth) == (40, 1, 2)
    assert modules["layers.1"].kind == "BatchNorm2d"


def test_the_modules_of_a_network_sum_to_it():
    costs = network_costs(SegResNetNL(2, in_channels=3), (3, 32, 48))
    top = [module for module in costs.modules if module.depth == 1]
    assert sum(module.macs for module in top) == costs.macs
    assert sum(module.parameters for module in top) == costs.parameters


class Perceptron(nn.Module):
    """Kernels that take no working space of their own, so that the allocator sees tensors alone."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 640), nn.Linear(640, 64)

    def forward(self, x):
        hidden = F.gelu(self.first(x))
        hidden = hidden * hidden.sigmoid()
        return self.second(hidden) + x


def allocated(events) -> tuple[int, int]:
    """Peak and end of the bytes allocated, from the profiler's record of every allocation and release."""
    now = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak, now


def test_memory_is_what_torch_s_allocator_hands_out():
    network = Perceptron()
    costs = network_costs(network, (16, 64))
    one, two = torch.rand(1, 16, 64), torch.rand(2, 16, 64)
    with torch.no_grad():
        network(one)  # threads and kernels are set up
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as inference:
            network(one)
    assert allocated(inference.profiler.kineto_results.events())[0] == costs.activation_bytes

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as training:
        output = network(two)
    kept = allocated(training.profiler.kineto_results.events())[1]
    assert kept - output.numel() * 4 == costs.backward_bytes * 2


def test_memory_agrees_with_torch_s_tracker():
    from torch.distributed._tools.mem_tracker import MemTracker

    network, x = SegResNetNL(2, init_filters=8, in_channels=3).eval(), torch.rand(1, 3, 32, 48)
    tracker = MemTracker()
    tracker.track_external(network, x)
    with torch.no_grad(), tracker:
        network(x)
    by_kind = {str(kind): size for kind, size in tracker.get_tracker_snapshot("peak")[x.device].items()}
    assert by_kind["_MemRefType.ACT"] == network_costs(network, (3, 32, 48)).activation_bytes


class Attention(nn.Module):
    """64 tokens of 8 channels look at each other."""

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x)


def test_attention_counts_and_its_map_is_not_stored():
    costs = network_costs(Attention(), (1, 64, 8))
    assert costs.macs == 2 * 64 * 64 * 8
    assert costs.activation_bytes < 64 * 64 * 4


def test_a_network_stays_as_it_was():
    network = Chain().train()
    network.layers.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network_costs(network, (3, 8, 8))
    assert (network.training, network.layers.training, network.layers[1].training) == (True, False, False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_module_and_a_weight_in_two_places_stay_what_they_were_and_count_once():
    convolution, other = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)
    other.weight = convolution.weight
    network = nn.Sequential(convolution, nn.BatchNorm2d(2), convolution, other).eval()
    x = torch.rand(1, 2, 3, 3)
    expected = network(x)
    assert network_costs(network, (2, 3, 3)).parameters == 4 + 2 + 2 + 4  # one weight, its two biases, the norm
    forward_bytes(network, (1, 2, 3, 3))
    assert type(network(x)) is torch.Tensor
    assert torch.equal(network(x), expected)


def test_a_size_the_network_refuses_is_refused_in_its_words():
    with pytest.raises(ValueError, match="must be divisible by 8"):
        network_costs(SegResNetNL(), (1, 16, 20, 16))


def test_a_selective_scan_counts_as_one_kernel_and_works_afterwards():
    network, scan = UMambaEnc(img_size=(32, 64), features=(8, 16, 32)), mamba.selective_scan
    costs = network_costs(network, (3, 32, 64))
    assert mamba.selective_scan is scan
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.rand(1, 3, 32, 64))
    assert costs.macs == counter.get_total_flops() // 2


def test_a_lattice_counts_as_one_kernel_and_works_afterwards():
    backbone = torch.nn.Conv2d(3, 1, 1)
    network, lattice = CRFRefined(backbone), crf.PermutohedralLattice
    costs = network_costs(network, (3, 16, 24))
    assert crf.PermutohedralLattice is lattice
    assert costs.parameters == 4 + 12
    # in each of 10 steps the spatial average of one map by two matrices, and 2 labels from 2 averages
    pixels = 16 * 24
    assert costs.macs == pixels * 3 + 10 * pixels * (16 + 24 + 4) + 2 * 2**3
    assert network.eval()(torch.zeros(1, 3, 16, 24)).shape == (1, 1, 16, 24)


def test_a_selective_scan_keeps_all_but_its_states():
    layer, x = mamba.Mamba(16, d_state=4), torch.rand(2, 40, 16)
    given = {tensor.untyped_storage().data_ptr() for tensor in [x, *layer.parameters()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(x)
    assert output.requires_grad
    states = 2 * 4 * 32 * 4  # of two sequences where the scan begins, 4 for each of 32 channels
    bytes_kept = sum(size for place, size in kept.items() if place not in given)
    assert network_costs(layer, (40, 16)).backward_bytes * 2 == bytes_kept - states
