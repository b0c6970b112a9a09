"""A street of any width under the sky: houses, fences and hedges, cars at the kerb, trees."""

from __future__ import annotations

import numpy as np

from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.canvas import encoded, random_colours
from l2m_ros.workshop.simulation.lighting import Lighting, Sun
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Surface, box, cylinder, panel, pipe, quad

HALF_LENGTH_M = 34.0
COARSE = {"texels_per_m": 45.0}
PAVEMENT_M = 2.2


def build(rng: np.random.Generator) -> Scenery:
    road = rng.uniform(2.4, 7.0)  # half its width
    surfaces = [*_ground(rng, road)]
    for side in (-1, 1):
        surfaces += _houses(rng, side, road + PAVEMENT_M + rng.uniform(0.0, 6.0))
        surfaces += _kerb(rng, side, road)
    height = rng.uniform(0.3, 0.8)
    sun = Sun(towards=(rng.normal(), rng.normal(), height), power=rng.uniform(0.3, 0.9))
    lighting = Lighting(
        ambient=rng.uniform(0.35, 0.6), reach_m=4.0, ambient_colour=(0.88, 0.96, 1.1), suns=[sun]
    )
    free = ((-25.0, -0.9, 0.3), (15.0, 0.9, 1.9))
    return Scenery(surfaces, lighting, free, look_span_rad=0.7, outdoors=True)


def _colour(rng: np.random.Generator, vivid: float = 0.4) -> list[float]:
    return (encoded(random_colours(rng, 1, vivid=vivid)[0]) / 255.0).tolist()


def _ground(rng: np.random.Generator, road: float) -> list[Surface]:
    x, wide = HALF_LENGTH_M, road + PAVEMENT_M
    asphalt = m.concrete((0.42, 0.42, 0.43)) if rng.random() < 0.7 else m.gravel()
    beside = m.grass() if rng.random() < 0.6 else m.tiles(0.5, (0.62, 0.6, 0.56))
    slabs = m.tiles(float(rng.choice([0.3, 0.4, 0.5])), (0.6, 0.59, 0.57))
    parts: list[Surface] = [
        quad((-x, wide, 0), (2 * x, 0, 0), (0, -2 * wide, 0), asphalt, **COARSE),
        quad((-x, 40, -0.02), (2 * x, 0, 0), (0, -80, 0), beside, texels_per_m=25.0),
    ]
    for side in (-1, 1):
        middle = (0, side * (road + PAVEMENT_M / 2), 0)
        parts += box(middle, (2 * x, PAVEMENT_M, 0.12), m.concrete((0.6, 0.6, 0.6)), top=slabs,
                     **COARSE)  # fmt: skip
    if rng.random() < 0.7:
        white = m.plaster((0.85, 0.85, 0.83))
        for at in np.arange(-x, x, 6.0):
            parts.append(quad((at, 0.07, 0.0015), (3, 0, 0), (0, -0.14, 0), white, **COARSE))
    return parts


def _houses(rng: np.random.Generator, side: int, away: float) -> list[Surface]:
    parts: list[Surface] = []
    at = -HALF_LENGTH_M
    while at < HALF_LENGTH_M:
        width, height = rng.uniform(7, 15), float(rng.choice([3.2, 5.8, 8.4, 11.0]))
        facing, y = (0.0, -side, 0.0), side * away
        paint = m.brick(_colour(rng)) if rng.random() < 0.5 else m.plaster(_colour(rng))
        centre = (at + width / 2, y + side * 4, 0)
        parts += box(centre, (width, 8, height), paint, top=m.tiles(0.4, (0.45, 0.25, 0.2)),
                     **COARSE)  # fmt: skip
        for floor in np.arange(1.5, min(height, 6.5) - 0.8, 2.6):
            for x in np.arange(at + 1.2, at + width - 1, rng.uniform(2.2, 4.5)):
                place = (x, y - side * 0.03, floor)
                parts.append(panel(place, facing, 1.1, 1.3, prints.facade_window(),
                                   texels_per_m=60.0))  # fmt: skip
        door = (at + rng.uniform(1, width - 1), y - side * 0.05, 1.05)
        parts.append(panel(door, facing, 0.95, 2.1, prints.door(_colour(rng)), **COARSE))
        at += width + (rng.uniform(2, 12) if rng.random() < 0.5 else 0.0)
    return parts


def _kerb(rng: np.random.Generator, side: int, road: float) -> list[Surface]:
    """Cars, trees, lamp posts, bins and a stretch of fence or hedge, clear of the middle."""
    parts: list[Surface] = []
    if road > 3.4:
        for at in np.arange(-25, 30, 6.5):
            if rng.random() < 0.5:
                parts += car(rng, (at + rng.uniform(-0.5, 0.5), side * (road - 1.0), 0))
    for at in np.arange(-25, 30, rng.uniform(12, 20)):
        y = side * (road + 0.4)
        parts.append(pipe((at, y, 0), (at, y, rng.uniform(4, 7)), 0.06, m.metal((0.4, 0.42, 0.4))))
    for at in rng.uniform(-20, 25, 1):
        place = (float(at), side * (road + 1.3), 0.1)
        parts += f.tree(rng, place, height=rng.uniform(3, 6))
    fence = (rng.uniform(-20, 20), side * (road + PAVEMENT_M - 0.1), 0.1)
    boards = m.planks((0.55, 0.42, 0.3), width_m=0.14, length_m=1.8)
    parts += box(fence, (rng.uniform(5, 20), 0.08, rng.uniform(0.8, 1.9)), boards, **COARSE)
    for at in rng.uniform(-15, 20, 3):
        parts += box((float(at), side * (road + 0.7), 0.12), (0.55, 0.6, 1.05),
                     m.metal(_colour(rng)))  # fmt: skip
    return parts


def car(rng: np.random.Generator, base: tuple[float, float, float]) -> list[Surface]:
    """Body, cabin with windows and four wheels: 3.6 to 4.8 m long, 1.4 to 1.9 m high."""
    length, height = rng.uniform(3.6, 4.8), rng.uniform(1.4, 1.9)
    x, y, _ = base
    paint, dark = m.metal(_colour(rng, 0.8)), m.metal((0.1, 0.11, 0.13))
    coarse = {"texels_per_m": 90.0}
    parts: list[Surface] = [*box((x, y, 0.28), (length, 1.75, 0.62), paint, bottom=True, **coarse)]
    parts += box((x - 0.2, y, 0.9), (0.55 * length, 1.55, height - 0.9), dark, top=paint, **coarse)
    for dx in (-0.32 * length, 0.32 * length):
        for dy in (-0.8, 0.8):
            axle = np.array([x + dx, y + dy, 0.31])
            tyre = pipe(axle - [0, 0.1, 0], axle + [0, 0.1, 0], 0.31, dark, **coarse)
            parts.append(tyre)
    parts += cylinder((x + length / 2 - 0.02, y, 0.45), 0.1, 0.12, m.plaster((0.9, 0.9, 0.85)))
    return parts
