"""A room with little to see: plain painted walls, sun through a window, a few things about.

Every seed is another room: its size, its paint, its floor, its light, what stands and hangs there.
Matchers fail in such rooms first, so they are for training and for testing.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.canvas import Material
from l2m_ros.workshop.simulation.lighting import Lamp, Lighting, Sun
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Surface, ball, box, curtain, cylinder, panel, quad

DEPTH_M = 0.95  # what stands along the walls reaches this far into the room
OUTSIDE_M = 7.0  # to what is seen through the window


def build(rng: np.random.Generator) -> Scenery:
    half = np.array([rng.uniform(1.9, 3.4), rng.uniform(1.8, 2.8)])
    height = rng.uniform(2.35, 3.1)
    walls = [_Wall(side, half, height) for side in range(4)]
    first = int(rng.integers(4))
    surfaces = [*_floor_and_ceiling(rng, half, height), *_window(rng, walls[first])]
    paint = _paint(rng)
    for wall in (walls[(first + turn) % 4] for turn in (1, 2, 3)):
        paint = _paint(rng) if rng.random() < 0.3 else paint
        surfaces.append(panel(wall.at(0, height / 2), wall.facing, wall.width, height, paint))
        surfaces += _on_the_wall(rng, wall)
        surfaces += _along_the_wall(rng, wall)
    free = np.array([[*(-half + DEPTH_M + 0.1), 0.5], [*(half - DEPTH_M - 0.1), 1.9]])
    light = _light(rng, walls[first], half, height)
    return Scenery(surfaces, light, free, look_span_rad=np.pi, outdoors=True)


class _Wall:
    """One of four walls: places on it by the way along it and the height, both in metres."""

    def __init__(self, side: int, half: FloatArray, height: float) -> None:
        yaw = side * np.pi / 2
        self.facing = -np.round([np.cos(yaw), np.sin(yaw), 0.0])
        self.along = np.round([-np.sin(yaw), np.cos(yaw), 0.0])
        self.distance, other = float(half[side % 2]), float(half[(side + 1) % 2])
        self.width, self.height = 2 * other, height
        self.yaw_rad = float(np.arctan2(-self.facing[1], -self.facing[0]))  # of what backs onto it

    def at(self, along_m: float, height_m: float, out_m: float = 0.0) -> FloatArray:
        place: FloatArray = (out_m - self.distance) * self.facing + along_m * self.along
        return place + [0.0, 0.0, height_m]


def _paint(rng: np.random.Generator) -> Material:
    """Mostly near white, sometimes a pale colour, hardly any relief."""
    tint = rng.uniform(0.02, 0.12) if rng.random() < 0.7 else rng.uniform(0.1, 0.35)
    colour = np.clip(rng.uniform(0.72, 0.93) - tint * rng.random(3), 0.2, 0.95)
    return m.plaster(colour.tolist(), relief=float(0.02 * rng.random() ** 2))


def _floor_and_ceiling(rng: np.random.Generator, half: FloatArray, height: float) -> list[Surface]:
    x, y = half
    shade = rng.uniform(0.35, 0.9) * np.array([1.0, rng.uniform(0.65, 1.0), rng.uniform(0.45, 1.0)])
    floors = [
        m.planks(shade.tolist(), width_m=rng.uniform(0.06, 0.2)),
        m.tiles(rng.uniform(0.3, 0.8), shade.tolist(), spread=0.03, veins=0.03),
        m.plaster(shade.tolist(), relief=0.03),
        m.fabric(shade.tolist()),
    ]
    floor = floors[int(rng.choice(4, p=[0.4, 0.2, 0.25, 0.15]))]
    parts: list[Surface] = [
        quad((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0), floor),
        quad((-x, -y, height), (2 * x, 0, 0), (0, 2 * y, 0), _paint(rng), texels_per_m=120.0),
    ]
    if rng.random() < 0.3:
        colours = rng.uniform(0.15, 0.8, (3, 3)).tolist()
        wide, long = rng.uniform(0.6, 1.0, 2) * half
        parts.append(
            quad((-wide, long, 0.002), (2 * wide, 0, 0), (0, -2 * long, 0), m.rug(colours))
        )
    return parts


def _window(rng: np.random.Generator, wall: _Wall) -> list[Surface]:
    """The wall about a window or a glass door, its bars, its curtains, and what is outside."""
    wide = rng.uniform(0.35, 0.6) * wall.width
    low = 0.02 if rng.random() < 0.4 else rng.uniform(0.7, 1.0)
    high = rng.uniform(2.0, wall.height - 0.15)
    centre = rng.uniform(-0.4, 0.4) * (wall.width - wide)
    left, right = wall.width / 2 + centre - wide / 2, wall.width / 2 - centre - wide / 2
    paint, parts = _paint(rng), []
    for along, width, bottom, top in (
        (-wall.width / 2 + left / 2, left, 0.0, wall.height),
        (wall.width / 2 - right / 2, right, 0.0, wall.height),
        (centre, wide, 0.0, low),
        (centre, wide, high, wall.height),
    ):
        middle = wall.at(along, (bottom + top) / 2)
        parts.append(panel(middle, wall.facing, width, top - bottom, paint))
    frame = m.plaster(rng.uniform(0.3, 0.95) * np.ones(3))
    for along in np.linspace(-wide / 2, wide / 2, int(rng.integers(2, 5))):
        bar = wall.at(centre + along, low, -0.03)
        parts += box(bar, (0.05, 0.05, high - low), frame, yaw_rad=wall.yaw_rad)
    if rng.random() < 0.7:
        cloth = m.fabric(
            np.clip(rng.uniform(0.6, 0.95) - 0.3 * rng.random(3) ** 2, 0.2, 1).tolist()
        )
        for end in (-1, 1):
            width = rng.uniform(0.2, 0.5)
            start = centre + end * wide / 2 + (0 if end > 0 else -width)
            corner = wall.at(start - 0.5 * end * width, high + 0.1, 0.12)
            parts.append(curtain(corner, width * wall.along, (0, 0, -high - 0.05), cloth))
    outside = [m.foliage(), m.brick(), prints.window_view(), m.concrete((0.7, 0.68, 0.64))]
    view = outside[int(rng.integers(4))]
    parts.append(
        panel(wall.at(0, 0.4, -OUTSIDE_M), wall.facing, 16.0, 3.2, view, texels_per_m=60.0)
    )
    corner, away = wall.at(-8.0, -0.15) - 0.05 * wall.facing, -OUTSIDE_M * wall.facing
    parts.append(quad(corner, 16.0 * wall.along, away, m.grass(), texels_per_m=50.0))
    return parts


def _light(rng: np.random.Generator, window: _Wall, half: FloatArray, height: float) -> Lighting:
    """Sun through the window (or none), and a lamp under the ceiling (or two)."""
    suns, lamps = [], []
    if rng.random() < 0.7:
        aside = rng.uniform(-1.0, 1.0) * window.along
        towards = -window.facing + aside + [0.0, 0.0, rng.uniform(0.4, 1.1)]
        suns.append(Sun(towards.tolist(), power=rng.uniform(0.6, 1.6)))
    for x in rng.uniform(-0.5, 0.5, int(rng.integers(0, 3))) * half[0]:
        lamp = (x - 0.3, -0.3, height - 0.04)
        lamps.append(Lamp(lamp, (0.6, 0, 0), (0, 0.6, 0), rng.uniform(0.5, 1.3)))
    return Lighting(rng.uniform(0.4, 0.75), reach_m=1.2, lamps=lamps, suns=suns)


def _on_the_wall(rng: np.random.Generator, wall: _Wall) -> list[Surface]:
    """Skirting, a door, pictures: or nothing of that."""
    parts: list[Surface] = []
    white = m.plaster((0.9, 0.89, 0.86), relief=0.005)
    if rng.random() < 0.7:
        size = (0.02, wall.width, rng.uniform(0.06, 0.15))
        parts += box(wall.at(0, 0, 0.01), size, white, yaw_rad=wall.yaw_rad)
    spots = list(rng.permutation(np.linspace(-0.38, 0.38, 4) * wall.width))
    if rng.random() < 0.35:
        door = prints.door(rng.uniform(0.4, 0.95, 3).tolist())
        parts.append(panel(wall.at(spots.pop(), 1.02, 0.012), wall.facing, 0.9, 2.04, door))
    for along in spots[: int(rng.choice(3, p=[0.55, 0.35, 0.1]))]:
        place = wall.at(along, rng.uniform(1.4, 1.8), 0.012)
        parts += f.framed_poster(place, wall.facing, *rng.uniform(0.3, 0.9, 2))
    return parts


def _along_the_wall(rng: np.random.Generator, wall: _Wall) -> list[Surface]:
    """Up to two pieces of furniture with their backs to the wall."""
    parts: list[Surface] = []
    reach = wall.width / 2 - DEPTH_M
    for along in (-reach / 2, reach / 2)[: int(rng.choice(3, p=[0.3, 0.4, 0.3]))]:
        place = wall.at(along + rng.uniform(-0.2, 0.2), 0.0, 0.48)
        parts += _piece(rng, place, wall.yaw_rad)
    return parts


def _piece(rng: np.random.Generator, place: FloatArray, yaw_rad: float) -> list[Surface]:
    shade = (
        rng.uniform(0.15, 0.95) * np.array([1, rng.uniform(0.6, 1), rng.uniform(0.4, 1)])
    ).tolist()
    kind = int(rng.integers(9))
    if kind == 0:
        return f.cabinet(place, yaw_rad=yaw_rad, width=rng.uniform(0.8, 1.3), colour=shade)
    if kind == 1:
        return f.sofa(place, yaw_rad=yaw_rad, width=rng.uniform(1.0, 1.6))
    if kind == 2:
        return f.chair(place, yaw_rad=yaw_rad + rng.uniform(-0.8, 0.8), colour=shade)
    if kind == 3:
        return f.table(place, (0.6, 1.1, rng.uniform(0.4, 0.75)), m.wood(shade), yaw_rad=yaw_rad)
    if kind == 4:
        return f.plant(rng, place, height=rng.uniform(0.6, 1.4))
    if kind == 5:  # a plain wardrobe, chest or bed
        size = (0.6, rng.uniform(0.5, 1.4), rng.uniform(0.3, 2.0))
        return list(box(place, size, m.plaster(shade, relief=0.01), yaw_rad=yaw_rad))
    if kind == 6:
        return cylinder(place, 0.2, rng.uniform(0.3, 0.9), m.metal(shade))
    if kind == 7:
        return [ball(place + [0, 0, 0.25], 0.25, m.fabric(shade))]
    return f.bookshelf(rng, place, yaw_rad=yaw_rad, width=0.8, height=rng.uniform(1.0, 1.9))
