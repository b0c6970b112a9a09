"""The neighbourhood of a desk, 0.3 to 3 m: screens, keyboards, mugs, books, cables, a shelf above.

The desk stands at the origin, its sitter at -x. Things have the sizes that they have in offices;
where they lie, how many there are and what the room behind is like change with the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.canvas import Material, random_srgb
from l2m_ros.workshop.simulation.surfaces import Surface, ball, box, cylinder, panel, pipe

DARK = m.metal((0.12, 0.12, 0.13))
INCH_M = 0.0254
Thing = Callable[[np.random.Generator, FloatArray, float], list[Surface]]


def desk(rng: np.random.Generator, base: FloatArray, size: tuple[float, float, float],
         top: Material) -> list[Surface]:  # fmt: skip
    """size = depth, width, height; screens at the back, small things anywhere."""
    depth, width, height = size
    parts = f.table(base, size, top)
    at = np.add(base, (0.0, 0.0, height))
    parts += _screens(rng, at, depth, width)
    count = int(rng.integers(4, 8 + 8 * width))
    for _ in range(count):
        x, y = rng.uniform(-0.5, 0.5, 2) * (depth - 0.15, width - 0.2)
        thing = THINGS[rng.choice(len(THINGS), p=SHARES)]
        parts += thing(rng, at + (x, y, 0.0), float(rng.normal(0, 0.5)))
    if rng.random() < 0.6:
        parts += _drawers(rng, np.add(base, (0.05, rng.choice([-1, 1]) * (width / 2 - 0.28), 0)))
    if rng.random() < 0.4:
        tower = np.add(base, (0.05, rng.uniform(-0.3, 0.3) * width, 0))
        parts += box(tower, (0.45, 0.19, 0.42), DARK, front=prints.door((0.2, 0.2, 0.2)))
    return parts


def above(rng: np.random.Generator, wall_x: float, width: float, height: float) -> list[Surface]:
    """What hangs on the wall or partition behind: shelf with binders, notes, a board."""
    parts: list[Surface] = []
    out = np.array([-1.0, 0.0, 0.0])
    if rng.random() < 0.5:
        z, deep, wide = height + rng.uniform(0.45, 0.8), 0.26, rng.uniform(0.6, 1.0) * width
        board = (wall_x - deep / 2, 0.0, z)
        parts += box(board, (deep, wide, 0.025), m.wood(colour(rng, 0.3)), bottom=True)
        parts += standing_books(rng, np.add(board, (0, 0, 0.025)), wide, (0.2, 0.33))
    for _ in range(int(rng.integers(1, 6))):
        y, z = rng.uniform(-0.6, 0.6) * width, height + rng.uniform(0.2, 1.0)
        place = np.array([wall_x - rng.uniform(0.005, 0.02), y, z])
        kind = rng.integers(3)
        if kind == 0:
            parts.append(panel(place, out, 0.21, 0.297, prints.page(), texels_per_m=600))
        elif kind == 1:
            parts.append(panel(place, out, 0.076, 0.076, m.plaster(colour(rng, 0.9))))
        else:
            parts += f.framed_poster(place, out, rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.6))
    return parts


def colour(rng: np.random.Generator, vivid: float = 0.5) -> list[float]:
    return random_srgb(rng, vivid)


def standing_books(
    rng: np.random.Generator, place: FloatArray, width: float, heights: tuple[float, float]
) -> list[Surface]:
    """Books or binders in a row along y, with gaps."""
    parts: list[Surface] = []
    y = -width / 2 + 0.03
    while y < width / 2 - 0.08:
        thick = rng.uniform(0.015, 0.08)
        if rng.random() < 0.85:
            size = (rng.uniform(0.13, 0.22), thick, rng.uniform(*heights))
            spot = np.add(place, (0.0, y + thick / 2, 0.0))
            parts += box(spot, size, m.plaster(colour(rng)), front=prints.book_spine())
        y += thick + 0.002
    return parts


# --- on the desk ------------------------------------------------------------------------------


def _screens(rng: np.random.Generator, at: FloatArray, depth: float, width: float) -> list[Surface]:
    count = int(rng.choice([0, 1, 2, 3], p=[0.3, 0.37, 0.26, 0.07]))
    parts: list[Surface] = []
    for k in range(count):
        diagonal = rng.uniform(17, 32) * INCH_M
        wide, high = 0.87 * diagonal, 0.49 * diagonal
        y = (k - (count - 1) / 2) * (wide + 0.02) + rng.normal(0, 0.05)
        if abs(y) + wide / 2 > width / 2 + 0.15:
            continue
        turn = -0.35 * np.sign(y) * (count > 1) * rng.random() + rng.normal(0, 0.1)
        spot, lift = at + (depth / 2 - rng.uniform(0.1, 0.3), y, 0), rng.uniform(0.06, 0.2)
        parts += box(spot, (0.18, 0.24, 0.012), DARK, yaw_rad=turn)
        parts += box(spot + (0.03, 0, 0), (0.03, 0.06, lift + 0.15), DARK, yaw_rad=turn)
        front = _shown(rng)
        case = DARK if rng.random() < 0.7 else m.plaster((0.75, 0.75, 0.74))
        parts += box(spot + (0, 0, lift), (0.04, wide, high), case, yaw_rad=turn, front=front,
                     bottom=True, texels_per_m=500)  # fmt: skip
    if rng.random() < 0.75:
        spot = at + (-depth / 2 + rng.uniform(0.12, 0.3), rng.normal(0, 0.15), 0)
        parts += keyboard(rng, spot, float(rng.normal(0, 0.12)))
        parts += _mouse(rng, spot + (0.0, -0.32, 0), 0.0)
    return parts


def _shown(rng: np.random.Generator) -> Material:
    """On a screen: code, a bright document, a picture, or nothing."""
    shown = (prints.screen, prints.page, prints.poster, lambda: m.plaster((0.06, 0.06, 0.07)))
    return shown[rng.choice(4, p=[0.3, 0.35, 0.15, 0.2])]()


def keyboard(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    wide = rng.choice([0.29, 0.36, 0.44])
    case = DARK if rng.random() < 0.6 else m.plaster((0.8, 0.8, 0.78))
    return [*box(at, (0.14, wide, 0.02), case, yaw_rad=yaw, top=prints.keyboard(),
                 texels_per_m=900)]  # fmt: skip


def _mouse(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    return [ball(at + (0, 0, 0.012), 0.036, m.metal(colour(rng, 0.2)), squash=0.6)]


def _laptop(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    wide = rng.uniform(0.29, 0.38)
    deep = 0.68 * wide
    shell = m.metal(colour(rng, 0.1))
    parts: list[Surface] = [*box(at, (deep, wide, 0.018), shell, yaw_rad=yaw,
                                 top=prints.keyboard(), texels_per_m=700)]  # fmt: skip
    back = f._at(at, yaw, (deep / 2 + 0.03, 0, 0.015))
    return parts + box(back, (0.008, wide, deep), shell, yaw_rad=yaw, front=prints.screen())


def _mug(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    paint = m.patchwork() if rng.random() < 0.3 else m.plaster(colour(rng, 0.7))
    radius, high = rng.uniform(0.033, 0.046), rng.uniform(0.08, 0.12)
    handle = f._at(at, yaw, (0, radius + 0.018, high / 2))
    return [
        *cylinder(at, radius, high, paint, segments=16, top=m.plaster((0.1, 0.07, 0.05))),
        pipe(handle - (0, 0, 0.025), handle + (0, 0, 0.025), 0.006, paint),
    ]


def _bottle(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    radius, high, paint = rng.uniform(0.03, 0.045), rng.uniform(0.15, 0.24), m.metal(colour(rng))
    neck = at + (0, 0, high)
    return [
        *cylinder(at, radius, high, paint, segments=14, top_radius=0.9 * radius),
        *cylinder(neck, 0.5 * radius, 0.05, m.plaster(colour(rng)), segments=10),
        *cylinder(at + (0, 0, 0.3 * high), radius + 0.001, 0.4 * high, prints.poster(),
                  segments=14, capped=False),
    ]  # fmt: skip


def _papers(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    parts: list[Surface] = []
    for layer in range(int(rng.integers(1, 5))):
        spot = at + (*rng.normal(0, 0.03, 2), 0.004 * layer)
        parts += box(spot, (0.297, 0.21, 0.003), prints.page(), yaw_rad=yaw + rng.normal(0, 0.2),
                     texels_per_m=600)  # fmt: skip
    return parts


def _pile(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 6))):
        thick = rng.uniform(0.008, 0.05)
        size = (rng.uniform(0.13, 0.22), rng.uniform(0.19, 0.29), thick)
        parts += box(at + (0, 0, z), size, prints.book_spine(), yaw_rad=yaw + rng.normal(0, 0.15),
                     top=prints.poster())  # fmt: skip
        z += thick
    return parts


def _row(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    return standing_books(rng, at, rng.uniform(0.15, 0.5), (0.18, 0.31))


def _carton(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    size = rng.uniform((0.08, 0.1, 0.05), (0.25, 0.35, 0.25))
    return [*box(at, size, prints.carton(), yaw_rad=yaw)]


def _lamp(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    paint, high = m.metal(colour(rng, 0.6)), rng.uniform(0.3, 0.5)
    tip = f._at(at, yaw, (-rng.uniform(0.05, 0.25), 0, high))
    return [
        *cylinder(at, 0.08, 0.02, paint, segments=16),
        pipe(at, f._at(at, yaw, (0.08, 0, 0.6 * high)), 0.009, paint),
        pipe(f._at(at, yaw, (0.08, 0, 0.6 * high)), tip, 0.009, paint),
        *cylinder(tip - (0, 0, 0.08), 0.08, 0.1, paint, segments=16, top_radius=0.03),
    ]


def _phone(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    if rng.random() < 0.5:
        return [*box(at, (0.15, 0.072, 0.008), DARK, yaw_rad=yaw, top=prints.screen())]
    body = [*box(at, (0.2, 0.17, 0.05), DARK, yaw_rad=yaw, top=prints.keyboard())]
    receiver = f._at(at, yaw, (0, 0.06, 0.05))
    return body + [*box(receiver, (0.2, 0.045, 0.035), DARK, yaw_rad=yaw)]


def _cable(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    points = at + np.cumsum(rng.normal(0, 0.07, (5, 3)), axis=0) * (1, 1, 0) + (0, 0, 0.005)
    return [pipe(a, b, 0.0035, DARK) for a, b in pairwise(points)]


def _pens(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    parts: list[Surface] = [*cylinder(at, 0.038, 0.1, m.plaster(colour(rng)), segments=14)]
    for _ in range(int(rng.integers(2, 6))):
        lean = np.append(rng.uniform(-0.04, 0.04, 2), 0.15)
        parts.append(pipe(at + (0, 0, 0.03), at + lean, 0.004, m.plaster(colour(rng, 0.9))))
    return parts


def _small_plant(rng: np.random.Generator, at: FloatArray, yaw: float) -> list[Surface]:
    return f.plant(rng, at, height=rng.uniform(0.2, 0.4))


def _drawers(rng: np.random.Generator, base: FloatArray) -> list[Surface]:
    paint = m.plaster(colour(rng, 0.2))
    parts: list[Surface] = [*box(base, (0.5, 0.42, 0.58), paint)]
    for z in (0.05, 0.23, 0.41):
        front = np.add(base, (-0.255, 0.0, z))
        parts += box(front, (0.012, 0.4, 0.16), paint)
        parts += box(front + (-0.012, 0.0, 0.07), (0.012, 0.12, 0.012), DARK)
    return parts


THINGS: tuple[Thing, ...] = (
    _papers, _pile, _row, _mug, _bottle, _carton, _laptop, _lamp, _phone, _cable, _pens,
    _small_plant, keyboard,
)  # fmt: skip
SHARES = np.array([4, 3, 1, 2, 1.5, 2, 1, 0.7, 1.5, 2, 1, 0.6, 0.5])
SHARES /= SHARES.sum()
