"""The scene of the polyp phantoms: a wall of mucosa as heights and colours, lit by an endoscope.

Lengths are in units of the picture's shorter side, the origin is its centre, heights point to the camera. Every method
that draws takes what it varies from the generator it is given, so that one thing drawn more does not move the others.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

Array = np.ndarray
Generator = np.random.Generator


class Scene:
    """Heights, colours and distances of a wall, on which polyps and their look-alikes are drawn.

    Args:
        shape: rows and columns.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self.unit = min(shape)
        rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        self.y = (rows - (shape[0] - 1) / 2) / self.unit
        self.x = (columns - (shape[1] - 1) / 2) / self.unit
        self.height = np.zeros(shape, np.float32)
        self.distance = np.ones(shape, np.float32)
        self.colour = np.zeros((*shape, 3), np.float32)
        self.mask = np.zeros(shape, bool)

    def noise(self, rng: Generator, width: float) -> Array:
        """Gaussian noise of unit variance that is smooth over `width`."""
        step = max(width * self.unit / 1.5, 1.0)
        coarse = rng.standard_normal([int(np.ceil(n / step)) + 5 for n in self.shape]).astype(np.float32)
        coarse = ndimage.gaussian_filter(coarse, 1.0)
        axes = [np.arange(n, dtype=np.float32) / step + 1.5 for n in self.shape]
        field = ndimage.map_coordinates(coarse, np.meshgrid(*axes, indexing="ij"), order=3)
        return (field - field.mean()) / max(float(field.std()), 1e-6)

    def draw_wall(self, rng: Generator) -> None:
        """Mucosa with vessels, and a lumen with folds around it, somewhere in or next to the image."""
        base = np.array([0.80, 0.44, 0.36]) + rng.normal(0, (0.05, 0.05, 0.05))
        shades = self.noise(rng, 0.25)[..., None] * (0.02, 0.035, 0.03) + self.noise(rng, 0.06)[..., None] * 0.012
        self.colour += (base + shades).astype(np.float32)
        for width, strength in ((0.16, 0.16), (0.07, 0.10)):
            line = np.exp(-((self.noise(rng, width) / 0.07) ** 2)) * _step(self.noise(rng, 0.2), -0.4, 0.8)
            self.colour -= line[..., None] * np.float32(strength * rng.uniform(0, 1)) * _rgb(0.5, 1.0, 0.9)
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 0.75)
        bend = rng.uniform(0.03, 0.12)
        dx = self.x - away * np.cos(angle) + bend * self.noise(rng, 0.3)
        dy = (self.y - away * np.sin(angle)) * rng.uniform(0.8, 1.25) + bend * self.noise(rng, 0.3)
        radius = np.hypot(dx, dy)
        self.distance += rng.uniform(0.8, 4.0) * np.exp(-((radius / rng.uniform(0.12, 0.4)) ** 2))
        phase = np.log(radius + 0.12) * rng.uniform(2.2, 4.0) + rng.uniform(0, 1) + 0.12 * self.noise(rng, 0.25)
        saw = phase - np.floor(phase)  # a fold rises slowly and falls steeply to the lumen
        crescent = _step(self.noise(rng, 0.35), -0.8, 0.8)
        self.height += (rng.uniform(0.01, 0.06) * crescent * saw * _step(1 - saw, 0.0, 0.45)).astype(np.float32)
        self.height += (0.004 * self.noise(rng, 0.05) + 0.0007 * self.noise(rng, 0.015)).astype(np.float32)

    def draw_look_alikes(self, rng: Generator) -> None:
        """What shares height or colour with polyps: bulges without a border, inflamed and soiled patches, bubbles."""
        for _ in range(rng.integers(0, 4)):
            x, y, size = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.06, 0.25)
            stretched = self._ellipse(rng, x, y, size, rng.uniform(0.4, 1.0))
            self.height += (size * rng.uniform(0.1, 0.35) * np.exp(-(stretched**2))).astype(np.float32)
        for _ in range(rng.integers(0, 3)):
            patch = self._patch(rng, 0.2)
            shade = np.float32(rng.uniform(-1, 1)) * _rgb(0.05, 0.12, 0.11)
            self.colour += patch[..., None] * shade
        if rng.random() < 0.4:
            patch = self._patch(rng, 0.12) * _step(self.noise(rng, 0.03), -0.5, 0.3)
            stool = _rgb(0.66, 0.52, 0.14) + _rgb(*rng.normal(0, 0.05, 3))
            self.colour += patch[..., None] * (stool - self.colour) * np.float32(rng.uniform(0.5, 0.9))
            self.height += (patch * (0.006 + 0.003 * self.noise(rng, 0.02))).astype(np.float32)
        for _ in range(rng.integers(0, 12) if rng.random() < 0.4 else 0):
            x, y, size = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.008, 0.025)
            away = np.hypot(self.x - x, self.y - y) / size
            self.colour += (0.25 * np.exp(-(((away - 1) / 0.2) ** 2)))[..., None].astype(np.float32)

    def draw_polyp(self, rng: Generator, inside: Array) -> None:
        """A polyp somewhere `inside`: a dome with a lobed outline, its own colour and its own fine texture."""
        size = float(np.exp(rng.uniform(np.log(0.07), np.log(0.40))))
        deep = np.argwhere(ndimage.distance_transform_edt(inside) > 0.5 * size * self.unit)
        row, column = deep[rng.integers(len(deep))]
        x, y = float(self.x[row, column]), float(self.y[row, column])
        aspect = rng.uniform(0.6, 1.0)
        theta = np.arctan2(self.y - y, self.x - x)
        outline = sum(
            rng.normal(0, rng.choice((0.05, 0.14)) / k) * np.cos(k * theta + rng.uniform(0, 6.3)) for k in range(2, 7)
        )
        rho = self._ellipse(rng, x, y, size, aspect) / (1 + outline) + 0.02 * self.noise(rng, 0.03)
        within = rho < 1
        flat = rng.random() < 0.25
        tall = rng.uniform(0.10, 0.22) if flat else rng.uniform(0.3, 0.8)
        dome = np.clip(1 - np.clip(rho, 0, None) ** rng.uniform(2.0, 3.5), 0, None) ** rng.uniform(0.5, 0.8)
        lobes = 1 + rng.uniform(0, 0.18) * self.noise(rng, 0.3 * size)
        under = np.float32(ndimage.gaussian_filter(self.height, 0.5 * size * self.unit))
        edge = _step(1 - rho, -0.02, 0.05)
        self.height += edge * (under - self.height) + (tall * size * dome * lobes).astype(np.float32)
        self.height += edge * np.float32(rng.uniform(0.0003, 0.0014)) * self.noise(rng, 0.012).astype(np.float32)
        # a polyp looks towards the camera even where the wall next to it falls away
        near = min(float(self.distance[row, column]), 1.5)
        self.distance += edge * (near - self.distance) * np.float32(0.85)
        self.distance -= (0.5 * tall * size * dome).astype(np.float32)
        local = self.colour[within].mean(0) if within.any() else self.colour.mean((0, 1))
        tint = rng.normal(0, 1) * _rgb(0.03, 0.07, 0.06) + _rgb(*rng.normal(0, 0.02, 3))
        pits = self.noise(rng, 0.012)[..., None] * _rgb(0.012, 0.03, 0.025)
        blots = _step(self.noise(rng, 0.35 * size), 0.8, 1.6)[..., None] * np.float32(rng.normal(0, 0.08))
        self.colour += edge[..., None] * (local + tint + pits + blots - self.colour) * np.float32(0.9)
        rim = np.exp(-((np.clip(rho - 1, 0, None) / 0.12) ** 2)) * (1 - edge)
        self.colour *= (1 - rng.uniform(0.05, 0.35) * rim)[..., None].astype(np.float32)
        self.mask |= within & inside

    def lit(self, rng: Generator, direction: Array, gain: float, tint: Array) -> Array:
        """The wall as the camera sees it, (H, W, 3) in [0, 1]: shading, falling light and wet highlights.

        `direction` is the unit vector to the light, `gain` the exposure, `tint` the colour of the light, (3,).
        """
        slope_y, slope_x = np.gradient(self.height * self.unit)
        normal = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], -1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        facing = np.clip(normal @ direction, 0, 1)
        # walls face each other in a tube: what looks away from the light is dim, not black
        fading = gain * (0.25 + 0.75 * facing**1.3) / self.distance**1.4
        fading = fading * (1 - 0.55 * np.clip(np.hypot(self.x - direction[0], self.y - direction[1]), 0, 1))
        picture = np.clip(self.colour, 0.02, 1) * fading[..., None] * tint
        halfway = direction + np.array([0.0, 0.0, 1.0])
        mirror = normal @ (halfway / np.linalg.norm(halfway)) + 0.004 * self.noise(rng, 0.01) * _step(
            self.noise(rng, 0.1), 0.2, 1.0
        )
        mirror = mirror - 0.10 * np.clip(self.distance - 1, 0, 1)
        limit = np.quantile(mirror, 1 - rng.uniform(0.002, 0.012))
        glint = ndimage.gaussian_filter((mirror > limit).astype(np.float32), rng.uniform(0.5, 0.9))
        picture += np.clip(1.6 * glint, 0, 1)[..., None] * (1 - picture)
        return np.clip(picture, 0, 1)

    def _ellipse(self, rng: Generator, x: float, y: float, size: float, aspect: float) -> Array:
        """Distance from a point, 1 on a turned ellipse."""
        angle = rng.uniform(0, np.pi)
        along = (self.x - x) * np.cos(angle) + (self.y - y) * np.sin(angle)
        across = (self.y - y) * np.cos(angle) - (self.x - x) * np.sin(angle)
        return np.hypot(along, across / aspect) / size

    def _patch(self, rng: Generator, width: float) -> Array:
        """A soft, ragged patch, 0 to 1."""
        x, y, size = *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.1, 0.35)
        reach = 1 - self._ellipse(rng, x, y, size, rng.uniform(0.5, 1)) + 0.35 * self.noise(rng, width)
        return _step(reach, 0.0, rng.uniform(0.1, 0.5))


def _step(x: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


def _rgb(red: float, green: float, blue: float) -> Array:
    return np.array([red, green, blue], np.float32)
