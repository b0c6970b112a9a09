"""Things that stand about in rooms and yards, each a list of surfaces.

Their base is the middle of the floor area they cover; before turning, their front looks
towards -x.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.canvas import Material, encoded, random_colours
from l2m_ros.workshop.simulation.surfaces import (
    Surface,
    _yaw_matrix,
    ball,
    box,
    cylinder,
    leaves,
    panel,
    pipe,
)

Place = Sequence[float]


def _at(base: Place, yaw_rad: float, offset: Sequence[float]) -> FloatArray:
    return np.asarray(base, float) + _yaw_matrix(yaw_rad) @ np.asarray(offset, float)


def framed_poster(centre: Place, facing: Place, width: float, height: float) -> list[Surface]:
    """A picture 2 cm in front of its wall, in a dark frame."""
    out = np.asarray(facing, float) / np.linalg.norm(facing)
    middle = np.asarray(centre, float)
    yaw = float(np.arctan2(out[1], out[0])) + np.pi
    frame = box(
        middle - [0, 0, height / 2] + 0.01 * out,
        (0.02, width, height),
        m.wood((0.25, 0.18, 0.13)),
        yaw_rad=yaw,
        bottom=True,
    )
    picture = panel(
        middle + 0.021 * out, out, width - 0.06, height - 0.06, prints.poster(), texels_per_m=420.0
    )
    return [*frame, picture]


def bookshelf(
    rng: np.random.Generator,
    base: Place,
    *,
    yaw_rad: float = 0.0,
    width: float = 1.0,
    height: float = 2.0,
    depth: float = 0.3,
) -> list[Surface]:
    """An open shelf filled with books, every one with its own size, colour and lettering."""
    timber = m.wood((0.55, 0.4, 0.26))
    parts: list[Surface] = []
    back = _at(base, yaw_rad, (depth / 2 - 0.01, 0, 0))
    parts += box(back, (0.02, width, height), timber, yaw_rad=yaw_rad)
    for side in (-1, 1):
        post = _at(base, yaw_rad, (0, side * (width / 2 - 0.01), 0))
        parts += box(post, (depth, 0.02, height), timber, yaw_rad=yaw_rad)
    for z in np.linspace(0.06, height - 0.02, 6):
        board = _at(base, yaw_rad, (0, 0, z))
        parts += box(board, (depth, width - 0.04, 0.02), timber, yaw_rad=yaw_rad, bottom=True)
        if z < height - 0.1:
            parts += _books(rng, base, yaw_rad, z + 0.02, width - 0.06, depth)
    return parts


def _books(
    rng: np.random.Generator, base: Place, yaw_rad: float, z: float, width: float, depth: float
) -> list[Surface]:
    parts: list[Surface] = []
    y, end = -width / 2, width / 2 - rng.uniform(0.0, 0.25)
    while y < end - 0.06:
        thick, tall = rng.uniform(0.02, 0.06), rng.uniform(0.2, 0.32)
        deep = rng.uniform(0.16, depth - 0.06)
        cover = m.fabric(encoded(random_colours(rng, 1)[0]) / 255)
        place = _at(base, yaw_rad, (depth / 2 - 0.03 - deep / 2, y + thick / 2, z))
        parts += box(
            place,
            (deep, thick - 0.002, tall),
            cover,
            yaw_rad=yaw_rad,
            front=prints.book_spine(),
            top=m.plaster((0.85, 0.82, 0.74)),
        )
        y += thick
    return parts


def table(
    base: Place, size: Sequence[float], material: Material, *, yaw_rad: float = 0.0
) -> list[Surface]:
    """Four legs and a top of 4 cm; size = depth, width, height."""
    depth, width, height = size
    parts: list[Surface] = []
    for x in (-1, 1):
        for y in (-1, 1):
            foot = _at(base, yaw_rad, (x * (depth / 2 - 0.05), y * (width / 2 - 0.05), 0))
            parts += box(foot, (0.05, 0.05, height - 0.04), material, yaw_rad=yaw_rad)
    top = _at(base, yaw_rad, (0, 0, height - 0.04))
    return parts + box(top, (depth, width, 0.04), material, yaw_rad=yaw_rad, bottom=True)


def desk(rng: np.random.Generator, base: Place, *, yaw_rad: float = 0.0) -> list[Surface]:
    """Table with monitor, keyboard, papers, mug, books and a lamp."""
    parts = table(base, (0.75, 1.5, 0.74), m.wood((0.66, 0.5, 0.34)), yaw_rad=yaw_rad)
    dark = m.metal((0.13, 0.13, 0.14))

    def put(x: float, y: float) -> FloatArray:
        return _at(base, yaw_rad, (x, y, 0.74))

    parts += box(put(0.2, 0.05), (0.16, 0.26, 0.015), dark, yaw_rad=yaw_rad)
    parts += box(put(0.22, 0.05), (0.03, 0.06, 0.2), dark, yaw_rad=yaw_rad)
    monitor = put(0.18, 0.05) + np.array([0, 0, 0.14])
    parts += box(
        monitor,
        (0.04, 0.6, 0.36),
        dark,
        yaw_rad=yaw_rad,
        front=prints.screen(),
        bottom=True,
        texels_per_m=500.0,
    )
    parts += box(put(-0.12, 0.05), (0.15, 0.44, 0.02), dark, yaw_rad=yaw_rad, top=prints.keyboard())
    for y, turn in ((-0.4, 0.2), (-0.48, -0.3), (0.55, 0.5)):
        parts += box(
            put(-0.1 + 0.1 * y, y),
            (0.21, 0.297, 0.004),
            prints.page(),
            yaw_rad=yaw_rad + turn + np.pi,
        )
    parts += cylinder(put(-0.05, 0.42), 0.04, 0.1, m.patchwork(), segments=16)
    for layer in range(4):
        parts += box(
            put(0.15, -0.5) + np.array([0, 0, 0.035 * layer]),
            (0.2, 0.26, 0.034),
            prints.book_spine(),
            yaw_rad=yaw_rad + rng.uniform(-0.4, 0.4),
        )
    parts += cylinder(put(0.2, 0.6), 0.015, 0.4, dark, segments=8)
    shade = put(0.2, 0.6) + np.array([0, 0, 0.34])
    parts += cylinder(shade, 0.13, 0.16, m.fabric((0.85, 0.75, 0.5)), top_radius=0.07)
    return parts


def chair(
    base: Place, *, yaw_rad: float = 0.0, colour: Sequence[float] = (0.3, 0.22, 0.15)
) -> list[Surface]:
    wood = m.wood(colour)
    parts = table(base, (0.42, 0.42, 0.46), wood, yaw_rad=yaw_rad)
    cushion = _at(base, yaw_rad, (0, 0, 0.46))
    parts += box(cushion, (0.36, 0.36, 0.04), m.fabric((0.55, 0.2, 0.18)), yaw_rad=yaw_rad)
    for y in (-0.17, 0.0, 0.17):
        post = _at(base, yaw_rad, (0.19, y, 0.46))
        parts += box(post, (0.03, 0.05, 0.45), wood, yaw_rad=yaw_rad)
    rail = _at(base, yaw_rad, (0.19, 0, 0.82))
    return parts + box(rail, (0.035, 0.42, 0.1), wood, yaw_rad=yaw_rad, bottom=True)


def sofa(base: Place, *, yaw_rad: float = 0.0, width: float = 1.9) -> list[Surface]:
    cloth = m.fabric((0.33, 0.42, 0.5), stripe=(0.45, 0.52, 0.58))
    parts: list[Surface] = []
    parts += box(base, (0.85, width, 0.4), cloth, yaw_rad=yaw_rad)
    parts += box(_at(base, yaw_rad, (0.32, 0, 0.4)), (0.2, width, 0.42), cloth, yaw_rad=yaw_rad)
    for side in (-1, 1):
        arm = _at(base, yaw_rad, (0, side * (width / 2 - 0.09), 0.4))
        parts += box(arm, (0.85, 0.18, 0.2), cloth, yaw_rad=yaw_rad)
    for y, vivid in ((-0.5, 0.9), (0.1, 0.5), (0.55, 0.8)):
        pillow = _at(base, yaw_rad, (0.12, y * width / 1.9, 0.55))
        parts.append(ball(pillow, 0.2, m.patchwork(vivid=vivid), squash=0.75))
    return parts


def cabinet(
    base: Place,
    *,
    yaw_rad: float = 0.0,
    width: float = 1.2,
    height: float = 0.85,
    colour: Sequence[float] = (0.8, 0.77, 0.7),
) -> list[Surface]:
    """A sideboard with two doors, a vase, a radio and a framed photograph on it."""
    parts: list[Surface] = []
    parts += box(
        base,
        (0.42, width, height),
        m.wood((0.6, 0.48, 0.36)),
        yaw_rad=yaw_rad,
        front=prints.door(colour),
    )

    def put(y: float) -> FloatArray:
        return _at(base, yaw_rad, (0, y * width, height))

    parts.append(ball(put(0.35) + np.array([0, 0, 0.14]), 0.11, m.patchwork(), squash=1.3))
    parts += box(
        put(-0.05),
        (0.14, 0.3, 0.18),
        m.wood((0.4, 0.2, 0.1)),
        yaw_rad=yaw_rad,
        front=prints.keyboard(),
    )
    parts += box(
        put(-0.36),
        (0.03, 0.18, 0.24),
        m.wood((0.2, 0.15, 0.1)),
        yaw_rad=yaw_rad + 0.2,
        front=prints.poster(),
    )
    return parts


def plant(rng: np.random.Generator, base: Place, *, height: float = 1.2) -> list[Surface]:
    """A pot, a stem and about 200 leaves."""
    pot = 0.22 * height
    foot = np.asarray(base, float)
    parts: list[Surface] = []
    parts += cylinder(
        foot,
        0.11 * height,
        pot,
        m.patchwork(vivid=0.4),
        top_radius=0.15 * height,
        top=m.gravel((0.3, 0.24, 0.2)),
    )
    parts += cylinder(foot + [0, 0, pot], 0.012, 0.6 * height, m.bark(), segments=6, capped=False)
    crown = rng.normal(size=(70, 3)) * np.array([0.16, 0.16, 0.17]) * height
    crown = foot + [0, 0, 0.68 * height] + np.clip(crown, -0.3 * height, 0.32 * height)
    for colour in ((0.22, 0.42, 0.15), (0.3, 0.5, 0.2), (0.42, 0.52, 0.22)):
        points = crown + rng.normal(size=crown.shape) * 0.03
        parts.append(leaves(rng, points, 0.13 * height, m.leaf(colour)))
    return parts


def carton_stack(rng: np.random.Generator, base: Place, count: int = 3) -> list[Surface]:
    parts: list[Surface] = []
    z, size = 0.0, 0.5
    for _ in range(count):
        shape = np.array([size, size * rng.uniform(0.8, 1.2), size * rng.uniform(0.6, 0.9)])
        parts += box(
            np.asarray(base, float) + [0, 0, z],
            shape,
            prints.carton(),
            yaw_rad=rng.uniform(-0.4, 0.4),
        )
        z, size = z + shape[2], size * 0.82
    return parts


def tree(rng: np.random.Generator, base: Place, *, height: float = 4.0) -> list[Surface]:
    """A trunk, branches, and about 3,000 leaves in clumps at their ends."""
    foot = np.asarray(base, float)
    fork = foot + [0, 0, 0.5 * height]
    parts: list[Surface] = []
    parts += cylinder(foot, 0.17, 0.5 * height, m.bark(), top_radius=0.11, capped=False)
    angle = np.linspace(0, 2 * np.pi, 8)[:-1] + rng.uniform(-0.3, 0.3, 7)
    spread = rng.uniform(0.35, 0.85, 7)[:, None]
    ends = fork + spread * np.stack([np.cos(angle), np.sin(angle), np.zeros(7)], -1)
    ends[:, 2] += rng.uniform(0.15, 0.4, 7) * height
    parts += [pipe(fork - [0, 0, 0.08], end, 0.045, m.bark()) for end in ends]
    for colour in ((0.26, 0.42, 0.14), (0.36, 0.52, 0.19), (0.48, 0.54, 0.22)):
        centre = ends[rng.integers(len(ends), size=1000)]
        shell = rng.normal(size=centre.shape)
        shell *= rng.uniform(0.3, 0.62, (len(shell), 1)) / np.linalg.norm(shell, axis=1)[:, None]
        parts.append(leaves(rng, centre + shell, 0.17, m.leaf(colour), droop=0.5))
    return parts


def shrub(
    rng: np.random.Generator, base: Place, size: Sequence[float], *, yaw_rad: float = 0.0
) -> list[Surface]:
    """A clipped hedge: a box of foliage with leaves that stand out of it."""
    parts: list[Surface] = [*box(base, size, m.foliage(), yaw_rad=yaw_rad)]
    count = int(250 * (size[0] * size[2] + size[1] * size[2] + size[0] * size[1]))
    inside = rng.uniform(-0.5, 0.5, (count, 3))
    face = rng.integers(3, size=count)
    inside[np.arange(count), face] = np.where(rng.random(count) < 0.5, -0.5, 0.5)
    inside[:, 2] = np.where(face == 2, 1.0, inside[:, 2] + 0.5)  # on the sides and the top
    local = inside * np.asarray(size)
    points = np.asarray(base, float) + local @ _yaw_matrix(yaw_rad).T
    parts.append(leaves(rng, points, 0.11, m.leaf((0.34, 0.48, 0.18)), droop=0.1))
    return parts
