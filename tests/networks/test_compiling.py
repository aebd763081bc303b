from __future__ import annotations

import pytest
import torch
from torch import nn

from medseg3d.errors import UserError
from medseg3d.networks import NonLocalBlock
from medseg3d.networks.compiling import compile_network
from medseg3d.networks.memory_format import channels_last


def fails(logits: torch.Tensor) -> torch.Tensor:
    raise UnboundLocalError("buf110")


class Twice(torch.autograd.Function):
    """The identity, with a gradient that is twice too large."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))


def compiled_as(code, monkeypatch) -> nn.Module:
    """A network, of which the compiler makes `code(network, x)`."""

    def compile_(module: nn.Module, **options) -> None:
        module._compiled_call_impl = lambda x: code(module, x)

    monkeypatch.setattr(nn.Module, "compile", compile_)
    own = network()
    compile_network(own)
    return own


def compiled_to(change, monkeypatch) -> nn.Module:
    """A network, with what a compiler would make of it: itself and a change of its logits."""
    return compiled_as(lambda module, x: change(module._call_impl(x)), monkeypatch)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda logits: logits + 1, "outputs that differ"),
        (
            lambda logits: logits * float("nan"),
            "outputs that differ from its own by nan of their norm, expected 0.01 at most",
        ),
        (fails, "UnboundLocalError: buf110, expected its outputs and gradients"),
        (Twice.apply, "gradients that differ from its own by 1 "),
    ],
)
def test_compiled_code_that_is_wrong_is_refused(change, what, monkeypatch):
    own = compiled_to(change, monkeypatch)
    with pytest.raises(UserError, match=f"ENGINE --compile: Sequential: {what}.*--compile false"):
        own(torch.rand(2, 1, 8, 8))


def test_code_that_is_wrong_for_another_shape_is_refused_there(monkeypatch):
    own = compiled_to(lambda logits: logits + (logits.shape[-1] == 6), monkeypatch)
    own(torch.rand(2, 1, 8, 8))
    with pytest.raises(UserError, match="ENGINE"):
        own(torch.rand(2, 1, 6, 6))


def test_dropout_may_be_drawn_in_another_order(monkeypatch):
    def code(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return module._call_impl(x)

    own = compiled_as(code, monkeypatch)
    assert own(torch.rand(2, 1, 8, 8)).shape == (2, 2, 8, 8)
    assert own[2].p == 0.5


def test_code_that_fails_with_dropout_alone_is_refused(monkeypatch):
    own = compiled_as(lambda module, x: (fails if module[2].p else module._call_impl)(x), monkeypatch)
    with pytest.raises(UserError, match="ENGINE --compile: Sequential: UnboundLocalError: buf110"):
        own(torch.rand(2, 1, 8, 8))


def test_the_comparison_leaves_no_trace(monkeypatch):
    x, plain, own = torch.rand(2, 1, 8, 8), network(), compiled_to(lambda logits: logits, monkeypatch)
    torch.manual_seed(1)
    wanted = plain(x)
    torch.manual_seed(1)
    assert torch.equal(own(x), wanted)
    torch.testing.assert_close(own.state_dict(), plain.state_dict(), atol=0, rtol=0)
    assert {each.grad for each in own.parameters()} == {None}


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_a_block_compiled_in_bfloat16_is_the_block(training):
    torch.manual_seed(0)
    block, x = NonLocalBlock(3, 128).train(training), channels_last(torch.randn(2, 128, 8, 8, 8))
    nn.init.normal_(block.out.weight)
    with torch.set_grad_enabled(training), torch.autocast("cpu", torch.bfloat16):
        wanted = block(x).float()
        compile_network(block)
        found = block(x).float()
    assert (found - wanted).norm() < 0.02 * wanted.norm()
