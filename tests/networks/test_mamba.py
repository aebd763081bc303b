from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from medseg3d.networks import mamba
from medseg3d.networks.mamba import Mamba
from medseg3d.networks.selective_scan import selective_scan


def test_parameters_are_those_of_mamba_ssm():
    # names and shapes as in the state dict of mamba_ssm 2's Mamba(d_model=32)
    shapes = {name: tuple(parameter.shape) for name, parameter in Mamba(32).state_dict().items()}
    assert shapes == {
        "A_log": (64, 16),
        "D": (64,),
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (34, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "out_proj.weight": (32, 64),
    }


def test_fresh_rates_and_step_sizes_are_those_of_the_paper():
    torch.manual_seed(0)
    block = Mamba(64, d_state=3)
    torch.testing.assert_close(block.A_log.exp(), torch.tensor([1.0, 2.0, 3.0]).expand(128, 3))
    assert torch.equal(block.D, torch.ones(128))
    steps = F.softplus(block.dt_proj.bias)
    assert 1e-3 <= steps.min() < 2e-3
    assert 5e-2 < steps.max() <= 1e-1
    assert steps.log10().mean().item() == pytest.approx(-2, abs=0.15)  # even in the logarithm
    assert block.dt_proj.weight.abs().max() <= 0.5


@torch.no_grad()
def test_two_tokens_by_hand():
    block = Mamba(d_model=1, d_state=1, d_conv=2, expand=1)
    for name, value in {
        "in_proj.weight": [[1.0], [2.0]],  # x, and twice x for the gate
        "conv1d.weight": [[[0.5, 1.0]]],  # half of the token before, and the token
        "conv1d.bias": [0.1],
        "x_proj.weight": [[1.0], [2.0], [3.0]],  # step size, b and c
        "dt_proj.weight": [[0.5]],
        "dt_proj.bias": [0.2],
        "A_log": [[0.0]],  # a = -1
        "D": [0.7],
        "out_proj.weight": [[4.0]],
    }.items():
        block.get_parameter(name).copy_(torch.tensor(value))
    x = F.silu(torch.tensor([1.0 + 0.1, 0.5 * 1.0 - 2.0 + 0.1]))
    delta = F.softplus(0.5 * x + 0.2)
    first = delta[0] * x[0] * 2 * x[0]
    second = torch.exp(-delta[1]) * first + delta[1] * x[1] * 2 * x[1]
    read = torch.stack([first, second]) * 3 * x + 0.7 * x
    expected = 4 * read * F.silu(torch.tensor([2.0, -4.0]))
    torch.testing.assert_close(block(torch.tensor([[[1.0], [-2.0]]])).flatten(), expected)


@torch.no_grad()
def test_a_token_sees_no_later_one():
    block = Mamba(6).eval()
    tokens = torch.randn(2, 40, 6)
    changed = tokens.clone()
    changed[:, 25:] += 1
    torch.testing.assert_close(block(tokens)[:, :25], block(changed)[:, :25])
    assert not torch.allclose(block(tokens)[:, 25:], block(changed)[:, 25:])


class Kernel:
    """Stands in for mamba_ssm's selective_scan_fn, whose layout it demands; computes by the definition."""

    def __init__(self):
        self.calls = 0

    def __call__(self, u, delta, *rates_and_projections, z, delta_softplus):
        self.calls += 1
        a, b, c, d = rates_and_projections  # A, B, C and D there, the fourth by default None
        batch, channels, length = u.shape
        assert delta.shape == z.shape == (batch, channels, length)
        assert a.shape == (channels, b.shape[1])
        assert b.shape == c.shape == (batch, a.shape[1], length)
        assert d.shape == (channels,)
        assert all(value.stride(-1) == 1 for value in (delta, b, c, z))
        assert all(value.dtype == torch.float32 for value in (u, delta, a, b, c, d, z))
        assert delta_softplus  # and no delta_bias: dt_proj has added it
        u, delta, b, c, z = (value.transpose(1, 2) for value in (u, delta, b, c, z))
        return ((selective_scan(u, F.softplus(delta), a, b, c) + d * u) * F.silu(z)).transpose(1, 2)


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    package, ops, interface = (types.ModuleType(name) for name in ("mamba_ssm", "ops", "interface"))
    interface.selective_scan_fn = kernel
    monkeypatch.setitem(sys.modules, "mamba_ssm", package)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", ops)
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", interface)
    mamba._fused_scan.cache_clear()
    yield kernel
    mamba._fused_scan.cache_clear()


def test_on_cuda_the_kernel_of_mamba_ssm_gets_what_it_wants(kernel, monkeypatch):
    block, tokens = Mamba(8, d_state=5), torch.randn(2, 9, 8)
    expected = block(tokens)
    assert kernel.calls == 0
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    torch.testing.assert_close(block(tokens), expected)
    assert kernel.calls == 1
    block(tokens).sum().backward()
    assert all(parameter.grad is not None for parameter in block.parameters())
    block.double()(tokens.double())  # the kernel has no float64
    assert kernel.calls == 2


def test_on_cuda_without_mamba_ssm_the_scan_is_ours(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    mamba._fused_scan.cache_clear()
    block, tokens = Mamba(8), torch.randn(2, 9, 8)
    expected = block(tokens)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    assert torch.equal(block(tokens), expected)
    mamba._fused_scan.cache_clear()


def test_the_state_dict_of_mamba_ssm_loads_strictly():
    source = nn.Module()  # built as mamba_ssm builds it, parameter by parameter
    source.A_log, source.D = nn.Parameter(torch.rand(16, 16)), nn.Parameter(torch.rand(16))
    source.in_proj, source.out_proj = nn.Linear(8, 32, bias=False), nn.Linear(16, 8, bias=False)
    source.conv1d = nn.Conv1d(16, 16, 4, groups=16, padding=3)
    source.x_proj, source.dt_proj = nn.Linear(16, 33, bias=False), nn.Linear(1, 16)
    Mamba(8).load_state_dict(source.state_dict(), strict=True)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="must be at least 1, got 0, 16, 4 and 2"):
        Mamba(0)
