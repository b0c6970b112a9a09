"""A back yard, 18 x 14 m under the sky: house, shed, fence, wall, trees, hedges, lawn."""

from __future__ import annotations

import numpy as np

from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.lighting import Lighting, Sun
from l2m_ros.workshop.simulation.scenery import Mover, Scenery
from l2m_ros.workshop.simulation.surfaces import Sheet, Surface, ball, box, cylinder, panel, quad

X, Y = 9.0, 7.0
GROUND_TEXELS_PER_M = 180.0
FLUSH_M = 0.0015  # below lighting.LIFT_M: the path lies on the lawn without shading it
WALL_COLOURS = ((0.85, 0.8, 0.68), (0.66, 0.5, 0.4), (0.75, 0.62, 0.5), (0.6, 0.42, 0.36))
NEIGHBOURS = (  # x, y, size of the houses around
    (-3, 17, (9, 5, 6.5)),
    (9, 18, (7, 6, 5)),
    (-16, 6, (5, 8, 6)),
    (4, -17, (11, 5, 6)),
    (-9, -16, (7, 5, 5)),
    (-17, -6, (5, 9, 4.5)),
)


def build(rng: np.random.Generator) -> Scenery:
    surfaces = [*_ground(rng), *_house(), *_bounds(), *_beyond(rng), *_garden(rng)]
    lighting = Lighting(
        ambient=0.42,
        reach_m=4.0,
        ambient_colour=(0.88, 0.96, 1.1),
        suns=[Sun(towards=(-0.6, -0.45, 0.62))],
    )
    free = ((-3.2, -2.2, 0.3), (3.2, 2.2, 1.9))
    return Scenery(surfaces, lighting, free, look_span_rad=1.7, movers=_movers(), outdoors=True)


def _ground(rng: np.random.Generator) -> list[Surface]:
    """Lawn, a paved terrace before the house, a winding gravel path, stones."""
    coarse = {"texels_per_m": GROUND_TEXELS_PER_M}
    slabs = m.tiles(0.5, (0.62, 0.6, 0.56), spread=0.1)
    parts: list[Surface] = [
        quad((-X, Y, 0), (2 * X, 0, 0), (0, -2 * Y, 0), m.grass(), **coarse),
        *box((5.9, 0, 0), (4.2, 9.0, 0.03), slabs, **coarse),
    ]
    winding = np.linspace(-X, 3.8, 40)
    middle = 0.8 * np.sin(winding / 2.1)
    edges = [np.stack([winding, middle + side, np.full(40, FLUSH_M)], -1) for side in (0.55, -0.55)]
    parts.append(Sheet(np.stack(edges), m.gravel(), texels_per_m=250.0))
    for _ in range(45):
        x, y = rng.uniform(-8, 3.5), rng.uniform(-6, 6)
        if abs(y - 0.8 * np.sin(x / 2.1)) > 0.6:
            stone = (0.03 + 0.07 * rng.random(2)).tolist()
            parts.append(
                ball((x, y, 0.0), stone[0], m.concrete((0.6, 0.58, 0.54)), squash=stone[1] / 0.1)
            )
    return parts


def _house() -> list[Surface]:
    """A brick front at +x with windows, a door, a drainpipe and a lamp."""
    parts: list[Surface] = [
        panel((8.0, 0, 2.6), (-1, 0, 0), 11.0, 5.2, m.brick()),
    ]
    for y, z, width, height in (
        (-3.6, 1.5, 1.5, 1.4),
        (3.4, 1.5, 1.8, 1.4),
        (-3.6, 3.9, 1.2, 1.3),
        (0.0, 3.9, 1.2, 1.3),
        (3.4, 3.9, 1.2, 1.3),
    ):
        sill = m.concrete((0.75, 0.74, 0.7))
        parts += box((7.94, y, z - height / 2 - 0.08), (0.2, width + 0.2, 0.08), sill, bottom=True)
        parts.append(panel((7.97, y, z), (-1, 0, 0), width, height, prints.facade_window()))
    parts += box(
        (7.9, 0, 0),
        (0.25, 1.3, 2.35),
        m.plaster((0.9, 0.89, 0.86)),
        front=prints.door((0.2, 0.36, 0.3), plate=True),
    )
    parts += cylinder((7.9, -5.0, 0), 0.06, 5.2, m.metal((0.4, 0.42, 0.4)), segments=12)
    parts += cylinder((7.9, 1.1, 2.0), 0.08, 0.3, m.plaster((0.9, 0.85, 0.7)), segments=12)
    return parts


def _bounds() -> list[Surface]:
    """Fence at +y, plastered wall at -y, a hedge with a gate at -x."""
    boards = m.planks((0.55, 0.42, 0.3), width_m=0.14, length_m=1.8)
    parts: list[Surface] = []
    for x in np.arange(-8.0, 8.0, 2.0):
        parts += box((x + 1.0, 6.3, 0.1), (1.9, 0.04, 1.6), boards)
        parts += box((x, 6.3, 0), (0.1, 0.1, 1.8), m.wood((0.45, 0.34, 0.24)))
    parts += box(
        (0, -6.4, 0),
        (17.0, 0.3, 2.0),
        m.concrete((0.78, 0.74, 0.66)),
        top=m.tiles(0.3, (0.6, 0.35, 0.25)),
    )
    parts.append(panel((-2.5, -6.24, 1.2), (0, 1, 0), 2.4, 1.5, prints.poster(), texels_per_m=250))
    return parts


def _beyond(rng: np.random.Generator) -> list[Surface]:
    """Neighbouring houses and a line of trees behind the bounds, coarse for they are far."""
    parts: list[Surface] = []
    coarse = {"texels_per_m": 60.0}
    for number, (x, y, size) in enumerate(NEIGHBOURS):
        material = m.brick if number % 2 else m.plaster
        roof = m.tiles(0.4, (0.45, 0.25, 0.2))
        parts += box((x, y, 0), size, material(WALL_COLOURS[number % 4]), top=roof, **coarse)
        parts += _far_windows(np.array([x, y]), size)
    for angle in np.arange(0.9, 5.5, 0.33):
        place = (21 * np.cos(angle), 19 * np.sin(angle), 0)
        parts.append(ball((*place[:2], 2.2), 2.6, m.foliage(), squash=1.2, texels_per_m=50.0))
    parts.append(quad((-30, 30, -0.02), (60, 0, 0), (0, -60, 0), m.grass(), texels_per_m=25.0))
    return parts


def _far_windows(centre: np.ndarray, size: tuple[float, ...]) -> list[Surface]:
    """Rows of windows on the two walls that look towards the yard."""
    parts: list[Surface] = []
    for axis in (0, 1):
        normal = np.zeros(3)
        normal[axis] = -np.sign(centre[axis])
        middle = np.array([*centre, 0.0]) + normal * (size[axis] / 2 + 0.03)
        along = np.cross((0.0, 0, 1), normal)
        for shift in np.arange(-size[1 - axis] / 2 + 1, size[1 - axis] / 2 - 0.5, 1.8):
            for z in np.arange(1.5, size[2] - 0.6, 2.3):
                parts.append(
                    panel(
                        middle + along * shift + [0, 0, z],
                        normal,
                        1.0,
                        1.2,
                        prints.facade_window(),
                        texels_per_m=60.0,
                    )
                )
    return parts


def _garden(rng: np.random.Generator) -> list[Surface]:
    parts: list[Surface] = []
    for x, y, height in ((-5.2, 3.9, 4.2), (1.5, -4.6, 3.6), (-6.6, -4.3, 4.6)):
        parts += f.tree(rng, (x, y, 0), height=height)
    for y in (-4.2, -1.6, 3.4):
        parts += f.shrub(rng, (-8.2, y, 0), (0.8, 2.4, 1.4))
    parts += f.shrub(rng, (4.4, 5.6, 0), (3.0, 0.7, 1.1))
    parts += _shed((-2.2, 5.0, 0))
    parts += f.table((4.9, -1.3, 0.03), (0.9, 1.5, 0.72), m.planks((0.6, 0.45, 0.3)))
    parts += f.chair((4.2, -1.6, 0.03), yaw_rad=3.3)
    parts += f.chair((5.5, -0.9, 0.03), yaw_rad=0.4, colour=(0.2, 0.3, 0.25))
    parts += cylinder((4.9, -1.3, 0.75), 0.1, 0.16, m.patchwork(), top_radius=0.13)
    for x, y, height in ((6.9, 1.6, 1.1), (6.9, -1.4, 1.3), (4.3, 4.3, 0.8), (0.2, 3.6, 0.7)):
        parts += f.plant(rng, (x, y, 0.03), height=height)
    for x, y, colour in ((7.2, 4.6, (0.15, 0.3, 0.2)), (7.2, 5.3, (0.2, 0.25, 0.45))):
        bin_ = m.metal(colour, scratches=0.1)
        parts += box((x, y, 0), (0.55, 0.6, 1.0), bin_, front=prints.carton())
    for x, y in ((2.6, 3.9), (3.4, -4.4), (-3.6, -4.9)):
        parts += f.carton_stack(rng, (x, y, 0), 3)
    parts += cylinder((-0.6, -4.9, 0), 0.35, 0.9, m.planks((0.5, 0.35, 0.22), width_m=0.1))
    parts.append(ball((-3.0, 3.1, 0.2), 0.2, m.patchwork()))
    parts += _bench((-4.9, 0.2, 0))
    return parts


def _shed(base: tuple[float, float, float]) -> list[Surface]:
    boards = m.planks((0.6, 0.35, 0.25), width_m=0.16, length_m=2.2)
    x, y, _ = base
    return [
        *box(base, (2.2, 1.7, 2.1), boards, top=m.tiles(0.25, (0.4, 0.4, 0.42))),
        panel((x - 0.3, y - 0.87, 0.95), (0, -1, 0), 0.85, 1.9, prints.door((0.75, 0.72, 0.6))),
        panel((x + 0.65, y - 0.87, 1.3), (0, -1, 0), 0.6, 0.7, prints.facade_window()),
    ]


def _bench(base: tuple[float, float, float]) -> list[Surface]:
    slats = m.planks((0.5, 0.38, 0.26))
    x, y, _ = base
    parts: list[Surface] = [*f.table(base, (0.45, 1.5, 0.45), slats)]
    for z in (0.55, 0.7, 0.85):
        parts += box((x - 0.22, y, z), (0.03, 1.5, 0.1), slats, bottom=True)
    return parts


def _movers() -> list[Mover]:
    """A mower before the shed and a ball on the other side of the lawn."""
    mower: list[Surface] = [
        *box((0.8, 2.9, 0.05), (0.6, 0.45, 0.3), m.patchwork(vivid=0.9), bottom=True)
    ]
    toy: list[Surface] = [ball((-1.0, -3.1, 0.2), 0.2, m.patchwork())]
    return [
        Mover(mower, np.array([0.8, 2.9, 0.2]), 0.5, (1.2, 0, 0), period_s=12.0),
        Mover(toy, np.array([-1.0, -3.1, 0.2]), 0.22, (1.2, 0, 0), period_s=9.0, phase_rad=2.0),
    ]
