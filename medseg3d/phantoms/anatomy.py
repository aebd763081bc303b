"""The anatomy of the phantoms: which organ lies where, how it varies from case to case, and its HU.

Coordinates: x to the patient's right, y to the front, z to the head, in mm from the middle of a body of 158 x 108 mm
half axes at the height of the pancreas; `_Body.at` scales them to the body at hand. HU are those of the portal-venous
phase. What is painted later covers what was painted before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medseg3d.phantoms.canvas import Canvas, Shape


def draw_abdomen(canvas: Canvas, rng: np.random.Generator, tumour: bool) -> None:
    """Paint a body with all its organs; the pancreas gets label 1, its tumour label 2."""
    body = _Body(canvas, rng)
    middle = _jitter(rng, (9, 4, 9))  # the organs around the pancreas move together
    _draw_wall(canvas, body)
    _draw_chest(canvas, rng, body)
    _draw_liver_and_spleen(canvas, rng, body)
    _draw_kidneys(canvas, rng, body)
    _draw_bowel(canvas, rng, body)
    _draw_stomach_and_duodenum(canvas, rng, body, middle)
    _draw_pancreas(canvas, rng, body, middle, tumour)
    _draw_great_vessels(canvas, rng, body)
    _draw_spine(canvas, rng, body)
    _draw_ribs(canvas, rng, body)
    _draw_table(canvas, body)


class _Body:
    """Size of the body, depth of every voxel below the skin, and the masks that follow from it."""

    def __init__(self, canvas: Canvas, rng: np.random.Generator) -> None:
        self.half_width, self.half_depth = rng.uniform(146, 164), rng.uniform(98, 114)
        self.scale = np.array([self.half_width / 158, self.half_depth / 108, 1.0])
        rho = (np.abs(canvas.x / self.half_width) ** 2.3 + np.abs(canvas.y / self.half_depth) ** 2.3) ** (1 / 2.3)
        rho = np.maximum(rho, np.float32(1e-3))
        self.depth = ((1 - rho) / rho * np.hypot(canvas.x, canvas.y)).astype(np.float32)
        self.fat_mm = rng.uniform(8, 20)
        self.below_fat = self.depth - self._fat(canvas.y) - 1.5 * canvas.low
        self.cavity = self.below_fat > 9
        self.inside = self.below_fat > 12  # where organs may lie
        self.fat_hu = -100 + 7 * canvas.mid
        self.dome = np.zeros_like(canvas.z)  # height of the diaphragm over every point, set by _draw_chest

    def at(self, *points: ArrayLike) -> np.ndarray:
        """Points of the standard body in this one, (n, 3)."""
        return np.asarray(points, dtype=float) * self.scale

    def on_wall(self, angle: float, below_fat_mm: float) -> tuple[float, float]:
        """A point (x, y) of the wall, `below_fat_mm` under the fat; angle 0 is the right side, pi / 2 the front."""
        cos, sin = np.cos(angle), np.sin(angle)
        stretch = (abs(cos) ** 2.3 + abs(sin) ** 2.3) ** (-1 / 2.3)
        skin = np.array([self.half_width * cos, self.half_depth * sin]) * stretch
        x, y = skin * (1 - (self._fat(skin[1]) + below_fat_mm) / np.linalg.norm(skin))
        return float(x), float(y)

    def _fat(self, y: np.ndarray) -> np.ndarray:
        """Thickness of the fat under the skin (mm): less at the back."""
        return (self.fat_mm * (1 + 0.35 * y / self.half_depth)).astype(np.float32)


def _jitter(rng: np.random.Generator, deviation: ArrayLike) -> np.ndarray:
    """Normal numbers without their tails: a pancreas is never inside the spine."""
    return np.clip(rng.normal(0, 1, np.shape(deviation)), -1.6, 1.6) * np.asarray(deviation)


def _tube(
    canvas: Canvas,
    points: np.ndarray,
    radii: ArrayLike,
    rough: float = 0.0,
    flat: ArrayLike = (1, 1, 1),
) -> Shape:
    """A tube along a polyline, rounded at its corners; the radius runs linearly through `radii`."""
    curve = _curve(points)
    values = np.atleast_1d(np.asarray(radii, dtype=float))
    along = np.interp(np.linspace(0, 1, len(curve)), np.linspace(0, 1, len(values)), values)
    return canvas.tube(curve, along, rough, flat)


def _curve(points: np.ndarray, step_mm: float = 2.5, smooth_mm: float = 18.0) -> np.ndarray:
    """A smooth curve near a polyline, a point about every `step_mm`; it starts and ends where the polyline does."""
    lengths = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    position = np.linspace(0, lengths[-1], max(4, int(lengths[-1] / step_mm)))
    dense = np.stack([np.interp(position, lengths, column) for column in points.T], axis=1)
    half = min(int(smooth_mm / step_mm / 2), len(dense) - 1)
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(dense, ((half, half), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T], axis=1)


def _hollow(
    canvas: Canvas,
    shape: Shape,
    wall_mm: float,
    wall_hu: float | np.ndarray,
    content_hu: float | np.ndarray,
    within: np.ndarray,
    gas_above_y: float | None = None,
) -> None:
    """A stomach or bowel: wall, content, and gas where the content does not reach (the patient lies on the back)."""
    canvas.paint(shape, wall_hu, within=within)
    canvas.paint(shape, content_hu, grow=-wall_mm, within=within)
    if gas_above_y is not None:
        canvas.paint(shape, -950.0, grow=-wall_mm - 0.5, within=within & (canvas.unbent[1] > gas_above_y))


def _draw_wall(canvas: Canvas, body: _Body) -> None:
    """Skin, the fat under it, the muscles of the wall and of the back, the fat of the cavity."""
    muscle = 58 + 6 * canvas.mid
    marbled = np.where(canvas.fine + canvas.mid > 2.4, -50, muscle)
    layers = [body.depth <= 0, body.depth < 2.2, body.below_fat < 0, ~body.cavity]
    canvas.hu[:] = np.select(layers, [canvas.hu, 15.0, -106 + 5 * canvas.mid, marbled], body.fat_hu)
    for side in (-1, 1):
        spinal, psoas_top, psoas, psoas_low = body.at(
            (side * 36, -77, 0), (side * 24, -42, 10), (side * 36, -44, -60), (side * 46, -38, -140)
        )
        canvas.paint(canvas.ellipsoid(spinal, (37, 24, 600)), marbled, within=body.below_fat > -3)
        canvas.paint(_tube(canvas, np.stack([psoas_top, psoas, psoas_low]), (5, 15, 22)), muscle, within=body.cavity)
        # linea alba aside, a thicker muscle runs down the front
        rectus = canvas.ellipsoid(body.at((side * 38, 0, 0))[0], (30, 400, 600))
        canvas.paint(rectus, muscle, within=(body.below_fat > 0) & (body.below_fat < 11) & (canvas.y > 0))


def _draw_chest(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    """The bases of both lungs over the domes of the diaphragm, its crura, and the heart."""
    top = rng.uniform(84, 104)
    air = -865 + 20 * canvas.low + np.where(canvas.fine + 0.6 * canvas.mid > 1.9, 450, 0)
    for side in (-1, 1):
        x, y, _ = body.at((side * 66, 6, 0))[0]
        radius = np.hypot((canvas.x - x) / (84 * body.scale[0]), (canvas.y - y) / (88 * body.scale[1]))
        dome = top + 4 * side - 62 * radius**2.4
        half = (canvas.x * side >= 0) & body.cavity
        body.dome = np.where(half, dome, body.dome)
        canvas.hu[half & (canvas.z > dome - 4)] = 60
        lung = half & (canvas.z > dome) & (np.abs(canvas.x) > 24) & (body.below_fat > 11)
        canvas.hu[lung] = air[lung]
        crus = body.at((side * 26, -30, 90), (side * 20, -22, 50), (side * 12, -22, 0))
        canvas.paint(_tube(canvas, crus, (4, 5, 3)), 62.0, within=body.cavity)
    heart = canvas.ellipsoid(body.at((-14, 28, top + 26))[0], (56, 46, 36), rough=1.5)
    canvas.paint(heart, body.fat_hu, grow=4, within=body.inside & (canvas.z > top - 8))
    canvas.paint(heart, 140 + 5 * canvas.mid, within=body.inside & (canvas.z > top - 6))


def _draw_liver_and_spleen(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    below_dome = body.inside & (canvas.z < body.dome - 3)
    hu = rng.normal(112, 5) + 3.5 * canvas.low + 3 * canvas.mid
    veins = hu + rng.uniform(25, 45)
    right_centre, left_centre = body.at((82, 8, 36), (14, 58, 58)) + rng.normal(0, 4, (2, 3))
    right = canvas.ellipsoid(right_centre, rng.normal((74, 84, 82), 4), rough=2.0)
    left = canvas.ellipsoid(left_centre, rng.normal((74, 34, 36), 4), rough=2.0)
    medial = canvas.x > -2 * canvas.y - 10  # keeps the right lobe off spine, stomach and pancreas
    liver = np.zeros(canvas.hu.shape, dtype=bool)
    for lobe, room in ((right, below_dome & medial & (canvas.x > 12)), (left, below_dome)):
        canvas.paint(lobe, hu, within=room)
        liver[lobe.box] |= (lobe.field < -3) & room[lobe.box]
    origin = body.at((26, 0, 92))[0]
    tips = body.at((120, -20, 40), (112, 40, 50), (70, 60, 40), (30, 70, 55), (-30, 60, 60), (90, -40, 20))
    for tip in tips:
        bent = (origin + tip) / 2 + rng.normal(0, 10, 3)
        canvas.paint(_tube(canvas, np.stack([origin, bent, tip]), (6, 4, 2.2)), veins, within=liver)
    porta = body.at((40, 14, 38))[0]
    for tip in body.at((110, 10, 15), (105, 0, 62), (80, -45, 40), (15, 62, 48)):
        bent = (porta + tip) / 2 + rng.normal(0, 8, 3)
        canvas.paint(_tube(canvas, np.stack([porta, bent, tip]), (6, 4.5, 2.2)), veins, within=liver)
    gallbladder = body.at((62, 52, 4), (54, 44, -14), (48, 30, -6)) + rng.normal(0, 4, 3)
    sac = _tube(canvas, gallbladder, (10, 13, 5))
    canvas.paint(sac, 90.0, grow=2, within=body.inside)
    canvas.paint(sac, 8.0, within=body.inside)

    centre = body.at((-108, -34, 46))[0] + rng.normal(0, 4, 3)
    spleen = canvas.ellipsoid(centre, rng.normal((34, 46, 50), 3), rough=1.5)
    hollow = canvas.ellipsoid(centre + np.array((36, 12, -6)), (30, 38, 44))
    notch = np.zeros(canvas.hu.shape, dtype=bool)
    notch[hollow.box] = hollow.field < 0
    tissue = rng.normal(122, 6) + 4 * canvas.mid
    canvas.paint(spleen, body.fat_hu, grow=3, within=below_dome & (canvas.x < -70) & (canvas.hu < 150))
    canvas.paint(spleen, tissue, within=below_dome & ~notch)


def _draw_kidneys(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    for side, height in ((-1, -2), (1, -20)):
        centre = body.at((side * 62, -42, height))[0] + rng.normal(0, (3, 3, 6))
        axis = np.array([[side * -9, -7, 28], [0, 0, 0], [side * 9, 7, -28]]) + centre
        kidney = _tube(canvas, axis, (24, 26, 24), flat=(1, 1.08, 0.9))
        canvas.paint(kidney, body.fat_hu, grow=6, within=body.cavity & (canvas.z < body.dome - 4))
        # portal-venous phase: cortex and medulla nearly alike
        canvas.paint(kidney, rng.normal(188, 8) + 4 * canvas.mid, within=body.cavity)
        canvas.paint(kidney, 160 + 12 * canvas.fine, grow=-9, within=body.cavity)
        sinus = canvas.ellipsoid(centre + np.array((side * -12, 6, 0)), (13, 9, 22), rough=2)
        canvas.paint(sinus, -60 + 60 * np.clip(canvas.fine, -1, 1.5), within=body.cavity)
        adrenal = body.at((side * 30, -24, 34), (side * 36, -30, 46), (side * 44, -38, 34)) + rng.normal(0, 2, 3)
        canvas.paint(_tube(canvas, adrenal, 3.0), 85.0, within=body.cavity)


def _draw_bowel(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    """Loops of small bowel, many of them collapsed and then as bright as the pancreas, and the colon."""
    room = body.inside & (canvas.z < body.dome - 5)
    for number in range(20):
        # the first loops lie around the body and tail of the pancreas
        corner, opposite = ((-95, -10, -35), (0, 50, 25)) if number < 5 else ((-95, -5, -150), (75, 60, -5))
        points = [body.at(rng.uniform(corner, opposite))[0]]
        heading = rng.normal(0, 1, 3)
        while len(points) < 7:
            heading = 0.5 * heading / np.linalg.norm(heading) + rng.normal(0, 0.6, 3)
            step = points[-1] + 34 * heading / np.linalg.norm(heading)
            low, high = body.at((-105, -15, -160), (90, 70, 25))
            points.append(np.clip(step, low, high))
            heading = points[-1] - points[-2] + 1e-3
        radius = rng.uniform(9, 13)
        loop = _tube(canvas, np.stack(points), radius, rough=1.0)
        canvas.paint(loop, body.fat_hu, grow=2.5, within=room)
        wall = rng.normal(100, 8) + 5 * canvas.mid
        kind = rng.random()
        if kind < 0.45:  # collapsed: folds, a little fluid
            canvas.paint(loop, wall + 5 * canvas.fine, within=room)
        else:
            content = rng.uniform(10, 45) + 10 * canvas.fine
            gas = float(np.median([point[1] for point in points])) + 3 if kind > 0.85 else None
            _hollow(canvas, loop, 3.0, wall, content, room, gas)
    stool = np.where(canvas.fine + 0.5 * canvas.mid > 0.7, -300, 25 + 20 * canvas.mid)
    courses = (
        ((98, -12, -130), (104, -10, -70), (94, 8, -36)),
        ((94, 10, -36), (60, 58, -40), (0, 66, -48 + rng.normal(0, 10)), (-60, 58, -22), (-100, 18, 8)),
        ((-100, 14, 8), (-112, -14, -40), (-108, -16, -130)),
    )
    for course in courses:
        line = body.at(*course) + rng.normal(0, 3, 3)
        colon = _tube(canvas, line, rng.uniform((15, 12), (21, 19)), rough=1.8)
        canvas.paint(colon, body.fat_hu, grow=3, within=room)
        gas = float(line[:, 1].mean() + rng.uniform(0, 8)) if rng.random() < 0.6 else None
        _hollow(canvas, colon, 2.6, 75.0, stool, room, gas)


def _draw_stomach_and_duodenum(canvas: Canvas, rng: np.random.Generator, body: _Body, middle: np.ndarray) -> None:
    room = body.inside & (canvas.z < body.dome - 4)
    course = body.at((-58, -12, 78), (-70, 20, 56), (-58, 46, 22), (-22, 58, 4), (14, 48, 2), (34, 36, 8))
    points = course + middle * 0.6 + rng.normal(0, 4, (6, 3))
    full = rng.uniform(0.75, 1.1)
    stomach = _tube(canvas, points, np.array((28, 32, 26, 19, 14, 9)) * full, rough=1.5)
    canvas.paint(stomach, body.fat_hu, grow=3, within=room)
    level = float(points[1:4, 1].mean() + rng.uniform(-4, 16))
    food = rng.uniform(15, 40) + 12 * canvas.fine
    _hollow(canvas, stomach, 4.5, rng.normal(92, 8) + 4 * canvas.mid, food, room, level)

    loop = body.at((38, 34, 8), (58, 18, 0), (62, 6, -24), (56, 0, -52), (24, -2, -62), (-18, 4, -54), (-34, 20, -44))
    points = loop + middle + rng.normal(0, 3, (7, 3))
    duodenum = _tube(canvas, points, rng.uniform(9, 13), rough=1.0)
    canvas.paint(duodenum, body.fat_hu, grow=2, within=room)
    wall = rng.normal(98, 8) + 5 * canvas.mid
    content = np.where(canvas.low > 0, rng.uniform(10, 40), wall + 4 * canvas.fine)  # fluid here, collapsed there
    _hollow(canvas, duodenum, 3.2, wall, content, room)


def _draw_pancreas(canvas: Canvas, rng: np.random.Generator, body: _Body, middle: np.ndarray, tumour: bool) -> None:
    """The pancreas (head in the loop of the duodenum, tail to the spleen), tumour, duct, and the veins behind it."""
    rise, bow = _jitter(rng, (12, 4))  # course of the tail: oblique, horizontal, hanging
    course = body.at(
        (32, 6, -44),
        (38, 12, -22),
        (22, 20, -4),
        (4, 28 + bow, 4),
        (-28, 24 + bow, 10 + 0.5 * rise),
        (-60, 4, 22 + rise),
        (-84, -16, 30 + rise),
    )
    points = course + middle + _jitter(rng, np.full((7, 3), 3.0))
    size = rng.uniform(0.85, 1.2)
    radii = size * rng.normal((9, 15, 12, 9, 11, 11, 8), 0.8)
    curve = _curve(points)
    pancreas = _tube(canvas, points, radii, rough=1.6, flat=(1, 1.15, 0.85))
    room = body.inside & (canvas.z < body.dome - 6)
    # fat around it, but not everywhere: in places bowel and stomach touch
    canvas.paint(pancreas, body.fat_hu, grow=3, within=room & (canvas.low > -0.3))
    mean_hu = rng.normal(107, 6)
    clefts = -rng.uniform(8, 28) * np.clip(canvas.fine - 0.9, 0, 2)  # fat between the lobules
    tissue = mean_hu + 4 * canvas.mid + clefts
    canvas.paint(pancreas, tissue, label=1, within=room)

    if tumour:
        place = int(len(curve) * rng.choice((0.22, 0.5, 0.75)) + rng.integers(-4, 5))
        radius = rng.uniform(9, 16)
        duct = canvas.tube(curve[place:], np.linspace(2.6, 1.4, len(curve) - place))  # backed up behind the tumour
        canvas.paint(duct, 20.0, label=1, within=room & (canvas.label == 1))
        centre = curve[place] + rng.normal(0, 3, 3)
        mass = canvas.ellipsoid(centre, radius * rng.uniform(0.85, 1.15, 3), rough=1.4)
        canvas.paint(mass, rng.uniform(58, 72) + 4 * canvas.mid, label=2, within=room)

    splenic = curve[int(0.42 * len(curve)) :] + body.at((0, -11, 2))
    hilum = body.at((-92, -26, 40))
    splenic = np.concatenate([splenic[::8], hilum])
    confluence = splenic[0]
    porta, low = body.at((42, 14, 38), (8, 22, -130))
    mesenteric = np.stack([confluence, confluence + np.array((2, 2, -30)), (confluence + low) / 2, low])
    portal = np.stack([confluence, (confluence + porta) / 2 + (0, -4, 0), porta])
    blood = rng.normal(168, 8)
    for vessel in (
        _tube(canvas, splenic, 4.2),
        _tube(canvas, mesenteric, (6, 5.5, 4.5)),
        _tube(canvas, portal, (7, 6.5)),
    ):
        canvas.paint(vessel, blood, within=body.inside)
    artery = body.at((-8, -14, 12), (-6, 0, -4), (-8, 12, -40), (-6, 18, -130))
    canvas.paint(_tube(canvas, artery, 3.8), blood - 8, within=body.inside)
    for _ in range(10):  # branches in the mesentery
        start = artery[2] + rng.normal(0, 8, 3)
        end = body.at((rng.uniform(-70, 60), rng.uniform(15, 50), rng.uniform(-120, -30)))[0]
        canvas.paint(_tube(canvas, np.stack([start, (start + end) / 2, end]), (2.2, 1.2)), blood, within=body.inside)


def _draw_great_vessels(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    blood = rng.normal(160, 8)
    aorta = body.at((-12, -32, 140), (-10, -24, 40), (-8, -20, -50), (-6, -22, -140)) + rng.normal(0, 2, 3)
    cava = body.at((28, 4, 140), (28, -10, 60), (22, -22, 0), (22, -24, -140)) + rng.normal(0, 2, 3)
    left_renal = body.at((-50, -36, -6), (-24, -16, -2), (0, -8, 0), (18, -20, -2))
    right_renal = body.at((52, -40, -20), (24, -22, -8))
    coeliac = body.at((-10, -20, 22), (-8, -4, 24), (20, 2, 26), (36, 10, 34))
    for vessel, hu in (
        (_tube(canvas, left_renal, 4.0), blood),
        (_tube(canvas, right_renal, 4.0), blood),
        (_tube(canvas, coeliac, (3.5, 2.5)), blood),
        (_tube(canvas, cava, (13, 12, 11)), blood - rng.uniform(5, 40)),
        (_tube(canvas, aorta, (11.5, 10, 9)), blood),
    ):
        canvas.paint(vessel, hu, within=body.cavity)
    plaque = _tube(canvas, aorta[1:] + np.array((4, -8, 0)), 1.6)
    canvas.paint(plaque, 420.0, within=body.cavity & (canvas.fine > 0.8))


def _draw_spine(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    """Vertebrae of dense shell and softer marrow, discs, canal, processes."""
    _, y, _ = body.at((0, -46, 0))[0]
    phase = (canvas.z + rng.uniform(0, 36)) % 36
    disc = phase < 8
    marrow = rng.normal(190, 25) + 25 * canvas.fine
    anywhere = body.depth > 4
    vertebra = canvas.ellipsoid((0, y, 0), (23, 17, 900))
    canvas.paint(vertebra, 430 + 50 * canvas.fine, within=anywhere)
    canvas.paint(vertebra, marrow, grow=-2.6, within=anywhere)
    end_plate = (phase < 10.5) | (phase > 33.5)
    canvas.paint(vertebra, 380.0, grow=-2.6, within=end_plate)
    canvas.paint(vertebra, 88.0, grow=1.0, within=disc)
    arch = canvas.ellipsoid((0, y - 24, 0), (16, 14, 900))
    processes = [canvas.ellipsoid((0, y - 39, 0), (4, 14, 900))]
    for side in (-1, 1):
        processes.append(canvas.ellipsoid((side * 30, y - 22, 0), (22, 5, 900)))
        processes.append(canvas.ellipsoid((side * 17, y - 30, 0), (9, 9, 900)))  # facet joints
    level = (phase > 11) & (phase < 29)
    for process in processes:
        canvas.paint(process, 330 + 60 * canvas.fine, within=level & anywhere)
    canvas.paint(arch, 400.0, within=(phase > 8) & (phase < 31) & anywhere)
    canal = canvas.ellipsoid((0, y - 24, 0), (10, 8.5, 900))
    canvas.paint(canal, 15.0, within=anywhere)
    canvas.paint(canal, 40.0, grow=-3.5, within=anywhere)


def _draw_ribs(canvas: Canvas, rng: np.random.Generator, body: _Body) -> None:
    """Ribs in the muscle wall, from the spine forwards and down; the lowest end at the side."""
    marrow = 160 + 30 * canvas.fine
    lowest = rng.uniform(-30, -4)
    for number in range(9):
        height = lowest + 26 * number
        angles = np.deg2rad(np.linspace(-80, min(-20 + 18 * number, 55), 20))
        course = [(*body.on_wall(angle, 5.0), height - 36 * (angle - angles[0])) for angle in angles]
        for side in (-1, 1):
            rib = _tube(canvas, np.array(course) * (side, 1, 1), 4.4)
            canvas.paint(rib, 340.0, within=body.depth > 3)
            canvas.paint(rib, marrow, grow=-2.0, within=body.depth > 3)


def _draw_table(canvas: Canvas, body: _Body) -> None:
    """A curved table top of two thin shells with foam between them, and the mattress."""
    x, y, _ = canvas.unbent
    surface = y + body.half_depth + 9 - x**2 / 900
    outside = (body.depth <= 0) & (np.abs(x) < 190)
    canvas.hu[outside & (surface < 6) & (surface > -4)] = -930  # mattress
    canvas.hu[outside & (surface < -4) & (surface > -30)] = -960
    for depth in (-4, -28):
        # a shell thinner than a voxel, spread over those that it touches
        share = np.clip(1.5 - np.abs(surface - depth) / canvas.spacing[1], 0, 1)
        canvas.hu[outside] += (1100 * share)[outside]
