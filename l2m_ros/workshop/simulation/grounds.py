"""Outdoor places of any size: courts and gardens with walls, fences, hedges, sheds, cars, trees."""

from __future__ import annotations

import numpy as np

from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints, street
from l2m_ros.workshop.simulation.canvas import Material, random_srgb
from l2m_ros.workshop.simulation.lighting import Lighting, Sun
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Surface, ball, box, cylinder, panel, quad

MARGIN_M = 1.3  # of things along the bounds


def build(rng: np.random.Generator) -> Scenery:
    x, y = rng.uniform((3.0, 2.8), (16.0, 12.0))
    surfaces: list[Surface] = [
        quad((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0), _ground(rng)),
        quad((-60, 60, -0.02), (120, 0, 0), (0, -120, 0), m.grass(), texels_per_m=15.0),
    ]
    for normal, half, away in (((-1, 0), y, x), ((1, 0), y, x), ((0, -1), x, y), ((0, 1), x, y)):
        surfaces += _bound(rng, np.array([*normal, 0.0]), half, away)
    for _ in range(int(rng.integers(2, 8))):
        surfaces += _thing(rng, _beside(rng, x, y))
    for angle in rng.uniform(0, 2 * np.pi, 5):
        place = ((x + 8) * np.cos(angle), (y + 8) * np.sin(angle), rng.uniform(2, 4))
        surfaces.append(ball(place, rng.uniform(1.5, 3), m.foliage(), squash=1.2))
    sun = Sun(towards=(rng.normal(), rng.normal(), rng.uniform(0.3, 0.9)),
              power=rng.uniform(0.2, 0.9))  # fmt: skip
    lighting = Lighting(rng.uniform(0.35, 0.6), 3.0, (0.88, 0.96, 1.1), suns=[sun])
    free = ((-x + MARGIN_M + 1, -y + MARGIN_M + 1, 0.2), (x - MARGIN_M - 1, y - MARGIN_M - 1, 2.0))
    return Scenery(surfaces, lighting, free, look_span_rad=np.pi, outdoors=True)


def _ground(rng: np.random.Generator) -> Material:
    kinds = (
        m.grass(),
        m.gravel(),
        m.concrete((0.6, 0.6, 0.58)),
        m.tiles(float(rng.choice([0.3, 0.4, 0.5])), (0.6, 0.58, 0.55), spread=0.1),
        m.brick((0.55, 0.36, 0.3)),
    )
    return kinds[rng.integers(len(kinds))]


def _bound(rng: np.random.Generator, facing: np.ndarray, half: float, away: float) -> list[Surface]:
    """A house front, a wall, a fence or a hedge on one side."""
    middle, along = -away * facing, np.array([-facing[1], facing[0], 0.0])
    kind = rng.integers(4)
    if kind == 0:
        return _front(rng, middle, facing, along, half)
    height = rng.uniform(0.8, 2.4)
    yaw = float(np.arctan2(-facing[1], -facing[0]))
    if kind == 1:
        boards = m.planks(random_srgb(rng, 0.3), width_m=rng.uniform(0.08, 0.18), length_m=1.8)
        return [*box(middle, (0.05, 2 * half, height), boards, yaw_rad=yaw)]
    if kind == 2:
        paint = m.brick(random_srgb(rng, 0.3)) if rng.random() < 0.5 else m.concrete((0.7,) * 3)
        return [*box(middle, (0.3, 2 * half, height), paint, yaw_rad=yaw)]
    bushes = np.arange(-half, half, 0.8 * height)
    return [
        ball(middle + a * along + (0, 0, 0.4 * height), 0.6 * height, m.foliage(), squash=0.9)
        for a in bushes
    ]


def _front(
    rng: np.random.Generator, middle: np.ndarray, facing: np.ndarray, along: np.ndarray, half: float
) -> list[Surface]:
    height = float(rng.choice([2.8, 5.5, 8.2]))
    paint = m.brick(random_srgb(rng)) if rng.random() < 0.5 else m.plaster(random_srgb(rng))
    parts: list[Surface] = [panel(middle + (0, 0, height / 2), facing, 2 * half, height, paint)]
    at = -half + rng.uniform(0.8, 2.0)
    while at < half - 0.8:
        spot = middle + at * along + 0.03 * facing
        if rng.random() < 0.25:
            door = prints.door(random_srgb(rng))
            parts.append(panel(spot + (0, 0, 1.03), facing, 0.95, 2.06, door))
        else:
            for z in np.arange(1.5, height - 0.8, 2.7):
                size = rng.uniform((0.8, 1.0), (1.6, 1.5))
                parts.append(panel(spot + (0, 0, z), facing, *size, prints.facade_window()))
        at += rng.uniform(1.6, 3.5)
    return parts


def _beside(rng: np.random.Generator, x: float, y: float) -> np.ndarray:
    """A place near the bounds."""
    side, along = rng.integers(4), rng.uniform(-0.85, 0.85)
    near = rng.uniform(0.5, MARGIN_M)
    if side < 2:
        return np.array([(1 - 2 * side) * (x - near), along * y, 0.0])
    return np.array([along * x, (2 * side - 5) * (y - near), 0.0])


def _thing(rng: np.random.Generator, at: np.ndarray) -> list[Surface]:
    kind = rng.integers(8)
    if kind == 0:
        return street.car(rng, (float(at[0]), float(at[1]), 0.0))
    if kind == 1:
        return f.tree(rng, at, height=rng.uniform(2.5, 6))
    if kind == 2:
        return [*box(at, (0.55, 0.6, 1.05), m.metal(random_srgb(rng)))]  # a dustbin
    if kind == 3:
        return f.carton_stack(rng, at, int(rng.integers(1, 4)))
    if kind == 4:
        return f.table(at, (0.8, rng.uniform(1.0, 1.8), 0.74), m.wood(random_srgb(rng, 0.3)))
    if kind == 5:
        return f.plant(rng, at, height=rng.uniform(0.6, 1.6))
    if kind == 6:
        return [*cylinder(at, 0.29, 0.88, m.metal(random_srgb(rng)), segments=18)]  # a drum
    return f.chair(at, yaw_rad=rng.uniform(0, 6.28), colour=random_srgb(rng, 0.3))
