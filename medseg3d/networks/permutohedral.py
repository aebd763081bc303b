"""Gaussian filters of high dimension, as the bilateral one of images, on the permutohedral lattice.

Adams, Baek and Davis, *Fast High-Dimensional Filtering Using the Permutohedral Lattice*, Eurographics 2010. In plain
torch, because no library at hand has it with gradients: MONAI's needs an extension that its wheels lack and refuses
the backward pass, and what PyPI has is without gradients (pydensecrf) or of another kernel (crfseg).
"""

from __future__ import annotations

import math
from typing import Any

import torch


class PermutohedralLattice:
    """The Gaussian filter `y_i = sum_j exp(-|f_i - f_j|² / 2) x_j` of values x at points f, near enough in linear time.

    The points are laid on the vertices of the simplices around them, the vertices are blurred along the d + 1
    directions of the lattice, and the points read them again: 2 (d + 1) N additions and as many for each vertex, of
    which images have one to six for a pixel. Made once for a batch of images, it filters as many values as wanted.

    As in the paper the blur goes only over vertices that some point has touched. So the sum is lower where points are
    sparse, the result is not quite symmetric, and only `average` is near the Gaussian's: correlation above 0.99 on
    colour images, single pixels 0.2 off. A lattice needs no gradients of its points and has none; it computes in the
    points' dtype and is deterministic, on CUDA under `torch.use_deterministic_algorithms`.

    The vertices are numbered by their integer coordinates in the basis of d of the d + 1 directions, in which the
    simplices are those of Kuhn's triangulation of cubes: the simplex of a point is where its coordinates round down to
    and the order of what is left over, and a step to a neighbour adds a constant to the number.

    Args:
        features: (B, N, d) floating point, N points of each of B images, every axis in the Gaussian's standard
            deviations.

    Raises:
        ValueError: features of another shape, or so wide apart (or not finite) that the vertices cannot be numbered
            in 63 bits.

    Example:
        >>> lattice = PermutohedralLattice(torch.tensor([[[0.0], [0.5], [9.0]]]))
        >>> lattice.average(torch.tensor([[[1.0, 2.0, 5.0]]]))
        tensor([[[1.4..., 1.5..., 5.0...]]])
    """

    def __init__(self, features: torch.Tensor) -> None:
        if features.dim() != 3 or not features.is_floating_point():
            raise ValueError(
                f"features must be (batch, points, axes) in floating point, got {list(features.shape)} {features.dtype}"
            )
        features = features.detach()
        batch, points, axes = features.shape
        coordinates = features.reshape(batch * points, axes) @ _basis(axes).to(features).t()
        corner = coordinates.floor()
        rest, order = (coordinates - corner).sort(dim=1, descending=True)
        ends = torch.nn.functional.pad(rest, (1, 1))
        ends[:, 0] = 1
        self._weights = ends[:, :-1] - ends[:, 1:]  # (B N, d + 1), each row sums to 1

        # the simplices reach one beyond the corners; another one stays free, so that no step leads into the next row of
        # vertices or the next image
        lowest = corner.amin(0)
        extents = (corner.amax(0) + 3 - lowest).tolist()
        if not batch * math.prod(extents) < 2**63:
            raise ValueError(
                f"features span {[f'{extent:g}' for extent in extents]} lattice steps in {batch} images, too many to "
                "number; they must be finite and in standard deviations"
            )
        strides = [math.prod(int(extent) for extent in extents[axis + 1 :]) for axis in range(axes)]
        whole = math.prod(int(extent) for extent in extents)
        stride = torch.tensor(strides, device=features.device)
        first = ((corner - lowest).long() * stride).sum(1).view(batch, points)
        first = (first + whole * torch.arange(batch, device=features.device)[:, None]).view(-1, 1)
        numbers = torch.cat([first, first + stride[order].cumsum(1)], 1)
        vertices, self._places = torch.unique(numbers, return_inverse=True)  # places: (B N, d + 1)
        self._vertices = len(vertices)
        self._neighbours = [_neighbours(vertices, step) for step in [*strides, sum(strides)]]
        self._shape = (batch, points)
        self._mass = self.filter(features.new_ones(batch, 1, points))

    def filter(self, values: torch.Tensor) -> torch.Tensor:
        """The sums (B, C, N), up to a constant factor, of values (B, C, N); differentiable any number of times."""
        if values.dim() != 3 or (values.shape[0], values.shape[2]) != self._shape:
            raise ValueError(f"values must be (batch, channels, points) of {self._shape}, got {list(values.shape)}")
        return _Filter.apply(values, self, False)

    def average(self, values: torch.Tensor) -> torch.Tensor:
        """The weighted means (B, C, N) of values (B, C, N): `filter`, divided by what it makes of ones."""
        return self.filter(values) / self._mass

    def _run(self, values: torch.Tensor, transposed: bool) -> torch.Tensor:
        batch, points = self._shape
        channels = values.shape[1]
        rows = values.transpose(0, 1).reshape(channels, batch * points, 1)
        # the last vertex stands for those that no point has touched and stays zero
        at_vertices = values.new_zeros(channels, self._vertices + 1)
        at_vertices.index_add_(1, self._places.flatten(), (rows * self._weights).flatten(1))
        for above, below in reversed(self._neighbours) if transposed else self._neighbours:
            blurred = at_vertices.index_select(1, above).add_(at_vertices.index_select(1, below)).mul_(0.25)
            at_vertices = blurred.add_(at_vertices, alpha=0.5)
        read = at_vertices.index_select(1, self._places.flatten()).view(channels, *self._places.shape)
        return (read * self._weights).sum(2).view(channels, batch, points).transpose(0, 1)


class _Filter(torch.autograd.Function):
    """Keeps nothing for its backward pass, which is the transposed filter: the symmetric steps in reversed order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, lattice: PermutohedralLattice, transposed: bool) -> torch.Tensor:
        ctx.lattice, ctx.transposed = lattice, transposed
        return lattice._run(values, transposed)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _Filter.apply(gradient, ctx.lattice, not ctx.transposed), None, None


def _basis(axes: int) -> torch.Tensor:
    """(d, d) float64: coordinates of a point along d of the d + 1 directions, from its position in deviations.

    The paper's embedding into the plane of d + 1 numbers with the sum 0, scaled so that splatting, blurring by
    (1, 2, 1) / 4 along every direction and slicing have unit variance together; less the last of the numbers, and in
    steps of the lattice instead of d + 1.
    """
    scale = [(axes + 1) * math.sqrt(2 / 3) / math.sqrt((axis + 1) * (axis + 2)) for axis in range(axes)]
    embedding = torch.zeros(axes + 1, axes, dtype=torch.float64)
    for axis in range(axes):
        embedding[: axis + 1, axis] = scale[axis]
        embedding[axis + 1, axis] = -(axis + 1) * scale[axis]
    return (embedding[:axes] - embedding[axes:]) / (axes + 1)


def _neighbours(vertices: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For each sorted number of a vertex, and one more for none, where `number + step` and `number - step` stand."""
    count = len(vertices)
    wanted = vertices + step
    above = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
    above = torch.where(vertices[above] == wanted, above, count)
    above = torch.nn.functional.pad(above, (0, 1), value=count)
    below = torch.full_like(above, count)
    below[above] = torch.arange(count + 1, device=above.device)
    below[count] = count  # all that have none above have written there, on CUDA in any order
    return above, below
