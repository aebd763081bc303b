from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from medseg3d.networks import SegResNetNL
from medseg3d.networks.memory_format import channels_last, contiguous_group_norms


class Layouts(torch.utils._python_dispatch.TorchDispatchMode):
    """Whether each GroupNorm and its backward met contiguous maps."""

    def __init__(self) -> None:
        super().__init__()
        self.contiguous: dict[str, list[bool]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "group_norm" in str(func):
            self.contiguous.setdefault(str(func), []).append(args[0].is_contiguous())
        return func(*args, **(kwargs or {}))


def layouts(network: nn.Module, x: torch.Tensor, training: bool) -> dict[str, list[bool]]:
    with Layouts() as seen, torch.set_grad_enabled(training):
        y = network(x)
        if training:
            y.sum().backward()
    return seen.contiguous


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return channels_last(SegResNetNL(2, init_filters=8, in_channels=3, nonlocal_blocks=0))


@pytest.fixture
def x() -> torch.Tensor:
    return channels_last(torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)))


def test_group_norms_meet_contiguous_maps_in_training_only(network, x):
    before = layouts(network, x, training=True)
    assert not any(before["aten.native_group_norm.default"])
    contiguous_group_norms(network)
    training = layouts(network, x, training=True)
    assert all(training["aten.native_group_norm.default"])
    assert all(training["aten.native_group_norm_backward.default"])
    assert not any(layouts(network, x, training=False)["aten.native_group_norm.default"])


def test_contiguous_group_norms_change_no_value_gradient_or_name(network, x):
    other = copy.deepcopy(network)
    contiguous_group_norms(other)
    assert list(other.state_dict()) == list(network.state_dict())
    outputs = [each(x) for each in (network, other)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
    assert outputs[1].is_contiguous(memory_format=torch.channels_last)
    for output in outputs:
        output.square().sum().backward()
    for (name, expected), found in zip(network.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-3, msg=name)
