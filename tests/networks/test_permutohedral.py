from __future__ import annotations

import math

import pytest
import torch

from medseg3d.networks.permutohedral import PermutohedralLattice
from medseg3d.phantoms.polyps import make_polyp_phantom


def picture_features(picture: torch.Tensor, place: float, colour: float) -> torch.Tensor:
    """(1, H W, 5) of an image (H, W, 3)."""
    rows, columns = torch.meshgrid(*(torch.arange(size) for size in picture.shape[:2]), indexing="ij")
    places = torch.stack([columns, rows], -1) / place
    return torch.cat([places, picture / colour], -1).reshape(1, -1, 5).double()


def gaussian_average(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Every pair of points, one after the other."""
    distance = (features[:, :, None] - features[:, None]).square().sum(-1)
    kernel = torch.exp(-distance / 2)
    return values @ kernel / kernel.sum(1)[:, None]


def small(batch: int = 2, points: int = 12, axes: int = 3, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(batch, points, axes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_two_points_on_a_line_by_hand():
    # in steps of sqrt(3) / 2 deviations, of which (1, 4, 6, 4, 1) / 16 has the variance that splatting leaves; the
    # vertices are 0, 1 and 2, and of the second point half is at 1 and half at 2
    step = math.sqrt(3) / 2
    lattice = PermutohedralLattice(torch.tensor([[[0.0], [1.5 * step]]], dtype=torch.float64))
    first, ones = (lattice.filter(torch.tensor([[each]], dtype=torch.float64)) for each in ([1.0, 0.0], [1.0, 1.0]))
    torch.testing.assert_close(first, torch.tensor([[[0.3125, 0.15625]]], dtype=torch.float64))
    torch.testing.assert_close(ones, torch.tensor([[[0.46875, 0.453125]]], dtype=torch.float64))
    average = lattice.average(torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))
    torch.testing.assert_close(average, torch.tensor([[[2 / 3, 10 / 29]]], dtype=torch.float64))


@pytest.mark.parametrize(("place", "colour"), [(160.0, 3.0), (5.0, 13.0)])
def test_averages_in_a_picture_are_near_those_of_every_pair(place, colour):
    picture = torch.from_numpy(make_polyp_phantom(0, size=(40, 40)).picture.copy())
    features = picture_features(picture, place, colour)
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    prob = torch.sigmoid((10 - torch.hypot(rows - 20, columns - 20)) / 2).reshape(1, 1, -1).double()
    ours, exact = PermutohedralLattice(features).average(prob), gaussian_average(prob, features)
    assert torch.corrcoef(torch.stack([ours.flatten(), exact.flatten()]))[0, 1] > 0.995
    assert (ours - exact).abs().mean() < 0.01
    assert (ours - exact).abs().max() < 0.25


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_where_points_are_dense_averages_are_the_gaussian_s(axes):
    points = torch.rand(1, 2000, axes, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 8
    values = torch.sin(points[..., -1])[:, None]
    ours, exact = PermutohedralLattice(points).average(values), gaussian_average(values, points)
    inside = ((points > 2) & (points < 6)).all(-1)[:, None]
    difference = (ours - exact)[inside].abs()
    assert difference.mean() < 0.04 * exact[inside].std()
    assert difference.max() < 0.15 * exact[inside].std()


def test_what_is_constant_stays_constant():
    lattice = PermutohedralLattice(small())
    constant = torch.tensor([3.0, -7.0], dtype=torch.float64)[:, None, None].expand(2, 4, 12)
    torch.testing.assert_close(lattice.average(constant), constant)


def test_the_filter_is_linear_and_its_gradient_the_transposed_filter():
    lattice = PermutohedralLattice(small(batch=1))
    matrix = lattice.filter(torch.eye(12, dtype=torch.float64)[None])[0]  # row i: what a one at point i becomes
    x, y = torch.randn(2, 1, 3, 12, dtype=torch.float64)
    x.requires_grad_()
    torch.testing.assert_close(lattice.filter(x), x @ matrix)
    (gradient,) = torch.autograd.grad((lattice.filter(x) * y).sum(), x)  # of <K x, y>, which is K^T y
    torch.testing.assert_close(gradient, y @ matrix.t())
    assert not torch.allclose(matrix, matrix.t())  # else the transposed filter might as well be the filter


def test_gradients_are_those_of_finite_differences():
    lattice = PermutohedralLattice(small())
    values = torch.randn(2, 2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, values)
    assert torch.autograd.gradcheck(lattice.average, values)
    assert torch.autograd.gradgradcheck(lattice.average, values)


def test_a_batch_gives_what_its_pictures_give_alone():
    features, values = small(batch=3), torch.randn(3, 2, 12, dtype=torch.float64)
    alone = [
        PermutohedralLattice(each[None]).average(value[None]) for each, value in zip(features, values, strict=True)
    ]
    torch.testing.assert_close(PermutohedralLattice(features).average(values), torch.cat(alone))


@pytest.mark.parametrize("axes", [1, 3])
def test_equal_pictures_of_a_batch_do_not_mix(axes):
    lattice = PermutohedralLattice(small(batch=1, axes=axes).expand(2, -1, -1))
    values = torch.stack([torch.zeros(1, 12), torch.ones(1, 12)]).double()
    torch.testing.assert_close(lattice.average(values), values)


def test_the_order_of_points_does_not_matter():
    features, values = small(batch=1), torch.randn(1, 2, 12, dtype=torch.float64)
    order = torch.randperm(12)
    shuffled = PermutohedralLattice(features[:, order]).average(values[..., order])
    torch.testing.assert_close(shuffled, PermutohedralLattice(features).average(values)[..., order])


def test_it_runs_in_torch_s_deterministic_mode():
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        values = torch.randn(2, 2, 12, dtype=torch.float64, requires_grad=True)
        PermutohedralLattice(small()).average(values).sum().backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert values.grad is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e15])
def test_points_that_cannot_be_numbered_are_refused(value):
    features = small()
    features[1, 3] = value
    with pytest.raises(ValueError, match="too many to number; they must be finite and in standard deviations"):
        PermutohedralLattice(features)


def test_tensors_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, points, axes\) in floating point, got \[2, 12\] torch.float64"):
        PermutohedralLattice(small()[..., 0])
    with pytest.raises(ValueError, match=r"\(batch, channels, points\) of \(2, 12\), got \[2, 12, 1\]"):
        PermutohedralLattice(small()).average(torch.zeros(2, 12, 1, dtype=torch.float64))
