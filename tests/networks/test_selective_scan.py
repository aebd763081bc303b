from __future__ import annotations

import pytest
import torch

from medseg3d.networks.selective_scan import selective_scan

CHUNK = 8
PARTS = ("x", "delta", "a", "b", "c")


def recurrence(x, delta, a, b, c):
    """The definition, position by position."""
    state = x.new_zeros(x.shape[0], *a.shape)
    read = []
    for x_t, delta_t, b_t, c_t in zip(x.unbind(1), delta.unbind(1), b.unbind(1), c.unbind(1), strict=True):
        state = torch.exp(delta_t[..., None] * a) * state + (delta_t * x_t)[..., None] * b_t[:, None]
        read.append((state * c_t[:, None]).sum(-1))
    return torch.stack(read, dim=1)


def arguments(length, batch=2, channels=3, states=4, dtype=torch.float64, fast=False):
    """Random arguments; `fast` ones decay to nothing within one position."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    delta = normal(batch, length, channels).exp() * (100 if fast else 0.1)
    values = (normal(batch, length, channels), delta, -normal(channels, states).exp())
    values += (normal(batch, length, states), normal(batch, length, states))
    return [value.requires_grad_() for value in values]


def test_three_positions_by_hand():
    # h: 0 -> 2*3*1 = 6 -> 6/2 + 1*4*2 = 11 -> 11/4 + 2*(-1)*3 = -3.25; with a = -ln 2 a step of 1 halves
    y = selective_scan(
        torch.tensor([3.0, 4.0, -1.0]).view(1, 3, 1),
        torch.tensor([2.0, 1.0, 2.0]).view(1, 3, 1),
        -torch.tensor([[2.0]]).log(),
        torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1),
        torch.tensor([1.0, 10.0, 2.0]).view(1, 3, 1),
    )
    torch.testing.assert_close(y.flatten(), torch.tensor([6.0, 110.0, -6.5]))


# one chunk at a time, a few, and all of them
@pytest.mark.parametrize("slab", [1, 100, 1 << 16])
@pytest.mark.parametrize("length", [1, CHUNK - 1, CHUNK, CHUNK + 1, 1000])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_values_and_gradients_are_those_of_the_recurrence(length, slab, dtype, tolerance):
    values = arguments(length, dtype=dtype)
    y, expected = selective_scan(*values, chunk=CHUNK, slab=slab), recurrence(*values)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
    grads = torch.autograd.grad((y * weights).sum(), values)
    for name, grad, judge in zip(PARTS, grads, torch.autograd.grad((expected * weights).sum(), values), strict=True):
        scale = judge.abs().max() + 1
        torch.testing.assert_close(
            grad, judge, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("slab", [1, 1 << 16])
def test_gradients_are_those_of_finite_differences(slab):
    values = arguments(11, channels=2, states=2)
    assert torch.autograd.gradcheck(lambda *values: selective_scan(*values, chunk=4, slab=slab), values)


@pytest.mark.parametrize("length", [5, 300])
@torch.no_grad()
def test_defaults_give_the_recurrence(length):
    values = arguments(length, channels=40, dtype=torch.float32)
    torch.testing.assert_close(selective_scan(*values), recurrence(*values), rtol=1e-5, atol=1e-5)


def test_states_that_fade_at_once_stay_finite():
    values = arguments(200, dtype=torch.float32, fast=True)
    y = selective_scan(*values)
    torch.testing.assert_close(y, recurrence(*values), rtol=1e-5, atol=1e-4)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), values))


@torch.no_grad()
def test_an_output_depends_on_no_later_position():
    values = arguments(50)
    before = selective_scan(*values, chunk=CHUNK)
    for index in (0, 1, 3, 4):
        values[index][:, 30:] += 1
    after = selective_scan(*values, chunk=CHUNK)
    assert torch.equal(before[:, :30], after[:, :30])
    assert (before[:, 30:] != after[:, 30:]).all()


@pytest.mark.parametrize("backward_too", [False, True])
def test_autocast_leaves_the_scan_in_float32(backward_too):
    values = arguments(70, dtype=torch.float32)
    expected = selective_scan(*values)
    expected_grads = torch.autograd.grad(expected.sum(), values)
    with torch.autocast("cpu", torch.bfloat16):
        y = selective_scan(*values)
        if backward_too:
            grads = torch.autograd.grad(y.sum(), values)
    if not backward_too:
        grads = torch.autograd.grad(y.sum(), values)
    assert torch.equal(y, expected)
    assert all(torch.equal(grad, judge) for grad, judge in zip(grads, expected_grads, strict=True))


@torch.no_grad()
def test_half_precision_is_scanned_in_float32():
    values = [value.bfloat16() for value in arguments(70, dtype=torch.float32)]
    assert torch.equal(selective_scan(*values), selective_scan(*[value.float() for value in values]))


def test_torchscript_gives_equal_outputs_and_trains():
    values = arguments(100, dtype=torch.float32)
    scripted = torch.jit.script(selective_scan)
    y = scripted(*values, chunk=CHUNK, slab=100)
    assert torch.equal(y, selective_scan(*values, chunk=CHUNK, slab=100))
    for grad, judge in zip(
        torch.autograd.grad(y.sum(), values), torch.autograd.grad(recurrence(*values).sum(), values), strict=True
    ):
        torch.testing.assert_close(grad, judge, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # to trace a free length takes seconds; a graph of one length is in test_umamba_enc.py
def test_a_graph_of_free_length_gives_the_recurrence():
    class Scan(torch.nn.Module):
        def forward(self, x, delta, a, b, c):
            return selective_scan(x, delta, a, b, c, chunk=CHUNK)

    free = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    values = [value.detach() for value in arguments(50)]
    program = torch.export.export(Scan(), tuple(values), dynamic_shapes=(free, free, None, free, free)).module()
    for length in (9, 50, 301):
        values = [value.detach() for value in arguments(length, batch=3)]
        torch.testing.assert_close(program(*values), recurrence(*values), rtol=1e-10, atol=1e-10)


def test_the_backward_pass_keeps_less_than_the_states():
    saved = 0

    def count(tensor):
        nonlocal saved
        saved += tensor.numel()
        return tensor

    values = arguments(4096, channels=16, states=16, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        selective_scan(*values)
    states = 2 * 4096 * 16 * 16
    assert saved < states / 3
