"""The canvas of the phantoms: ellipsoids and tubes in millimetres, painted onto voxels in HU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import ArrayLike

_MAX_BEND = 9.0  # mm
_MAX_GROWTH = 6.0  # mm beyond its surface that a shape may be painted

Box = tuple[slice, slice, slice]


class Shape(NamedTuple):
    """A box of voxels and the signed distance in mm of each to a surface, negative inside."""

    box: Box
    field: np.ndarray


class Canvas:
    """A RAS+ grid to paint on. Shapes are given in mm from the body's centre and bent by one smooth field for all.

    Args:
        shape: voxels along x (left to right), y (back to front), z (feet to head).
        spacing: mm.
        texture: generator of the noise fields.
        anatomy: generator of the pose.
    """

    def __init__(
        self, shape: np.ndarray, spacing: np.ndarray, texture: np.random.Generator, anatomy: np.random.Generator
    ) -> None:
        self.spacing = spacing
        self.axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing, strict=True)]
        self.low, self.mid, self.fine = (self._noise(texture, tuple(shape), width) for width in (18.0, 6.0, 3.0))
        self.shift = anatomy.uniform((-7, -10, -22), (7, 26, 22))
        roll = np.deg2rad(anatomy.uniform(-5, 5))
        cos, sin = np.cos(roll), np.sin(roll)
        self.rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        flat = [(axis - offset).astype(np.float32) for axis, offset in zip(self.axes, self.shift, strict=True)]
        x, y, z = np.meshgrid(*flat, indexing="ij")
        bend = [np.clip(4 * self._noise(texture, tuple(shape), 40.0), -_MAX_BEND, _MAX_BEND) for _ in range(3)]
        cos, sin = np.float32(cos), np.float32(sin)
        self.unbent = cos * x + sin * y, cos * y - sin * x, z
        self.x, self.y, self.z = (straight + bent for straight, bent in zip(self.unbent, bend, strict=True))
        self.hu = np.full(tuple(shape), -1000, dtype=np.float32)
        self.label = np.zeros(tuple(shape), dtype=np.uint8)

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...], width_mm: float) -> np.ndarray:
        """Unit-variance Gaussian noise that is smooth over `width_mm` (standard deviation of its kernel)."""
        # drawn coarsely where it is smooth, then interpolated: the same look at a fraction of the cost
        step = [max(1, int(width_mm / (1.5 * spacing))) for spacing in self.spacing]
        coarse = [max(4, -(-n // k) + 3) for n, k in zip(shape, step, strict=True)]
        image = sitk.GetImageFromArray(rng.standard_normal(coarse[::-1]).astype(np.float32))  # array order z, y, x
        image.SetSpacing([float(k * s) for k, s in zip(step, self.spacing, strict=True)])
        image = sitk.SmoothingRecursiveGaussian(image, [width_mm] * 3)
        size = [int(n) for n in shape]
        fine = sitk.Resample(
            image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), [float(s) for s in self.spacing]
        )
        field = sitk.GetArrayFromImage(fine).transpose(2, 1, 0)
        return np.ascontiguousarray((field - field.mean()) / max(float(field.std()), 1e-6))

    def box(self, low: np.ndarray, high: np.ndarray) -> Box:
        """Index box that surely holds all voxels whose body coordinates lie between two points."""
        first, last = self._index_range((low + high)[None] / 2, (high - low) / 2)
        x, y, z = (slice(int(a), int(b)) for a, b in zip(first[0], last[0], strict=True))
        return x, y, z

    def _index_range(self, centres: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and end index (n, 3) of the boxes around n points of the body."""
        middle = centres @ self.rotation + self.shift
        reach = np.abs(self.rotation.T) @ half + _MAX_BEND
        first = [np.searchsorted(self.axes[axis], middle[:, axis] - reach[axis]) for axis in range(3)]
        last = [np.searchsorted(self.axes[axis], middle[:, axis] + reach[axis]) for axis in range(3)]
        return np.stack(first, axis=1), np.stack(last, axis=1)

    def ellipsoid(self, centre: ArrayLike, semi: ArrayLike, rough: float = 0.0) -> Shape:
        """Signed distance (mm, about) to an ellipsoid; `rough` mm of irregular border."""
        centre_, semi_ = np.asarray(centre, dtype=np.float32), np.asarray(semi, dtype=np.float32)
        reach = semi_ + 2 * rough + _MAX_GROWTH
        box = self.box(centre_ - reach, centre_ + reach)
        squares = sum(
            ((value[box] - c) / s) ** 2 for value, c, s in zip((self.x, self.y, self.z), centre_, semi_, strict=True)
        )
        return Shape(box, self._roughen(box, (np.sqrt(squares) - 1) * semi_.min(), rough))

    def tube(self, points: np.ndarray, radii: np.ndarray, rough: float = 0.0, flat: ArrayLike = (1, 1, 1)) -> Shape:
        """Signed distance (mm) to a tube along densely sampled points; distances are scaled by `flat` per axis."""
        scale = np.asarray(flat, dtype=np.float32)
        reach = (radii.max() + 2 * rough + _MAX_GROWTH) / scale
        box = self.box(points.min(axis=0) - reach, points.max(axis=0) + reach)
        field = np.full(self.x[box].shape, 99, dtype=np.float32)
        x, y, z = (value[box] for value in (self.x, self.y, self.z))
        start = np.array([part.start for part in box])
        first, last = (index - start for index in self._index_range(points, np.broadcast_to(reach, 3)))
        for point, radius, a, b in zip(points.astype(np.float32), radii, first.tolist(), last.tolist(), strict=True):
            near = slice(a[0], b[0]), slice(a[1], b[1]), slice(a[2], b[2])
            dx, dy, dz = ((value[near] - p) * k for value, p, k in zip((x, y, z), point, scale, strict=True))
            distance = np.sqrt(dx * dx + dy * dy + dz * dz) - np.float32(radius)
            np.minimum(field[near], distance, out=field[near])
        return Shape(box, self._roughen(box, field, rough))

    def _roughen(self, box: Box, field: np.ndarray, rough: float) -> np.ndarray:
        return field if rough == 0 else field + np.float32(rough) * (0.7 * self.mid[box] + 0.5 * self.fine[box])

    def paint(
        self,
        shape: Shape,
        hu: float | np.ndarray,
        grow: float = 0.0,
        label: int = 0,
        within: np.ndarray | None = None,
    ) -> None:
        """Set HU (and label) where the shape, grown by `grow` mm, is; `within` is a mask on the whole grid."""
        mask = shape.field < grow
        if within is not None:
            mask &= within[shape.box]
        self.hu[shape.box][mask] = hu[shape.box][mask] if isinstance(hu, np.ndarray) else hu
        self.label[shape.box][mask] = label

    def image(self, rng: np.random.Generator) -> np.ndarray:
        """int16 HU with partial volume and noise."""
        blurred = sitk.GetImageFromArray(np.ascontiguousarray(self.hu.transpose(2, 1, 0)))
        blurred = sitk.DiscreteGaussian(blurred, [0.45, 0.45, 0.3], 5, 0.01, False)  # variances in voxels
        noise = sitk.GetImageFromArray(rng.standard_normal(self.hu.shape[::-1]).astype(np.float32))
        noise = sitk.DiscreteGaussian(noise, [0.35, 0.35, 0.0], 5, 0.01, False)
        grain = sitk.GetArrayViewFromImage(noise)
        volume = sitk.GetArrayViewFromImage(blurred) + grain * np.float32(11.0 / grain.std())
        return np.clip(np.rint(volume), -1024, 3071).astype(np.int16).transpose(2, 1, 0)
