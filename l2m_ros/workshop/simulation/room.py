"""A furnished living and work room, 6.0 x 5.0 x 2.7 m; the middle of the floor is free."""

from __future__ import annotations

import numpy as np

from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.lighting import Lamp, Lighting
from l2m_ros.workshop.simulation.scenery import Mover, Scenery
from l2m_ros.workshop.simulation.surfaces import (
    Surface,
    ball,
    box,
    curtain,
    cylinder,
    panel,
    pipe,
    quad,
)

X, Y, Z = 3.0, 2.5, 2.7  # half length, half width, height
LAMPS = ((-1.2, 0.0), (1.4, 0.0))


def build(rng: np.random.Generator) -> Scenery:
    surfaces = [*_shell(), *_walls(rng), *_furniture(rng)]
    lamps = [Lamp((x - 0.3, -0.3, Z - 0.06), (0.6, 0, 0), (0, 0.6, 0), 1.0) for x, _ in LAMPS]
    day = Lamp((0.4 + 0.8, Y - 0.03, 1.95), (-1.6, 0, 0), (0, 0, -1.1), 1.1, (0.9, 0.96, 1.05))
    lighting = Lighting(ambient=0.5, reach_m=1.2, lamps=[*lamps, day])
    free = ((-1.35, -0.95, 0.25), (1.45, 0.95, 1.9))
    return Scenery(surfaces, lighting, free, look_span_rad=1.9, movers=_movers())


def _shell() -> list[Surface]:
    """Floor, ceiling, four walls and their skirting."""
    cream, sage = (0.86, 0.82, 0.74), (0.62, 0.68, 0.6)
    parts: list[Surface] = [
        quad((-X, Y, 0), (2 * X, 0, 0), (0, -2 * Y, 0), m.planks((0.58, 0.42, 0.28))),
        quad(
            (-X, -Y, Z),
            (2 * X, 0, 0),
            (0, 2 * Y, 0),
            m.plaster((0.9, 0.9, 0.88)),
            texels_per_m=120.0,
        ),
        panel((X, 0, Z / 2), (-1, 0, 0), 2 * Y, Z, m.brick()),
        panel((-X, 0, Z / 2), (1, 0, 0), 2 * Y, Z, m.plaster(sage)),
        panel((0, Y, Z / 2), (0, -1, 0), 2 * X, Z, m.plaster(cream)),
        panel((0, -Y, Z / 2), (0, 1, 0), 2 * X, Z, m.wallpaper((0.8, 0.78, 0.7), (0.5, 0.58, 0.6))),
        quad(
            (-1.5, 1.05, 0.0015),
            (3.1, 0, 0),
            (0, -2.1, 0),
            m.rug([(0.45, 0.12, 0.12), (0.8, 0.7, 0.5), (0.15, 0.2, 0.35), (0.6, 0.35, 0.2)]),
        ),
    ]
    white = m.plaster((0.9, 0.89, 0.86))
    for x, y, sx, sy in ((0, Y, 2 * X, 0.03), (0, -Y, 2 * X, 0.03), (-X, 0, 0.03, 2 * Y)):
        parts += box((x, y, 0), (sx, sy, 0.09), white)
    for x, y in LAMPS:
        parts += box((x, y, Z - 0.05), (0.7, 0.7, 0.05), white, bottom=True, glow=0.9)
    return parts


def _walls(rng: np.random.Generator) -> list[Surface]:
    """Window and curtains on the left, door behind, pictures all round."""
    frame = m.plaster((0.92, 0.91, 0.88))
    parts: list[Surface] = [
        *box((0.4, Y - 0.01, 0.82), (1.75, 0.05, 1.25), frame, bottom=True),
        panel((0.4, Y - 0.04, 1.44), (0, -1, 0), 1.6, 1.1, prints.window_view(), glow=0.75),
        pipe((-0.8, Y - 0.1, 2.2), (1.6, Y - 0.1, 2.2), 0.015, m.metal((0.4, 0.35, 0.3))),
        curtain((-0.75, Y - 0.12, 2.18), (0.5, 0, 0), (0, 0, -2.1), m.fabric((0.62, 0.3, 0.22))),
        curtain((1.1, Y - 0.12, 2.18), (0.5, 0, 0), (0, 0, -2.1), m.fabric((0.62, 0.3, 0.22))),
        panel((-X + 0.012, 1.2, 1.02), (1, 0, 0), 0.92, 2.04, prints.door((0.85, 0.82, 0.75))),
    ]
    for z in (1.05, 1.44, 1.83):
        parts += box((0.4, Y - 0.05, z), (1.6, 0.03, 0.03), frame, bottom=True)
    pictures = [
        ((X, -1.75, 1.75), (-1, 0, 0), 0.5, 0.7),
        ((X, 0.62, 1.65), (-1, 0, 0), 0.9, 0.65),
        ((-X, -0.3, 1.6), (1, 0, 0), 0.8, 1.1),
        ((-X, -1.65, 1.75), (1, 0, 0), 0.5, 0.5),
        ((-1.2, -Y, 1.7), (0, 1, 0), 1.1, 0.75),
        ((0.35, -Y, 1.75), (0, 1, 0), 0.5, 0.7),
        ((1.6, -Y, 1.62), (0, 1, 0), 0.8, 0.55),
        ((-1.9, Y, 1.6), (0, -1, 0), 0.7, 0.9),
    ]
    for place, facing, width, height in pictures:
        parts += f.framed_poster(place, facing, width, height)
    for x, z in ((2.35, 1.6), (2.6, 1.35), (2.3, 1.2)):
        turned = panel((x, Y - 0.008, z), (0, -1, 0), 0.21, 0.297, prints.page())
        parts.append(turned)
    return parts


def _furniture(rng: np.random.Generator) -> list[Surface]:
    parts: list[Surface] = []
    parts += f.bookshelf(rng, (X - 0.2, -0.55, 0), width=1.3)
    parts += f.bookshelf(rng, (X - 0.2, 1.85, 0), width=0.9, height=1.5)
    parts += f.cabinet((X - 0.25, 0.7, 0), width=1.0)
    parts += f.desk(rng, (0.45, Y - 0.5, 0), yaw_rad=np.pi / 2)
    parts += f.chair((-0.75, Y - 0.75, 0), yaw_rad=2.1)
    parts += f.sofa((-0.35, -Y + 0.5, 0), yaw_rad=-np.pi / 2)
    parts += f.cabinet(
        (-X + 0.27, -0.45, 0), yaw_rad=np.pi, width=1.1, height=0.7, colour=(0.45, 0.53, 0.58)
    )
    parts += f.plant(rng, (2.45, -2.0, 0), height=1.3)
    parts += f.plant(rng, (-2.55, 2.1, 0), height=1.0)
    parts += f.carton_stack(rng, (-2.5, -1.95, 0), 3)
    parts += f.carton_stack(rng, (1.35, -2.05, 0), 2)
    parts.append(ball((-2.05, 0.55, 0.16), 0.16, m.patchwork()))
    parts += cylinder((1.55, 2.1, 0), 0.15, 0.32, m.metal((0.5, 0.52, 0.55)), top_radius=0.18)
    parts += f.table((2.05, 0.05, 0), (0.5, 0.8, 0.42), m.wood((0.35, 0.22, 0.14)))
    for k, (x, y) in enumerate(((2.0, -0.15), (2.1, 0.2))):
        parts += box((x, y, 0.42), (0.22, 0.3, 0.02), prints.poster(), yaw_rad=0.4 * k)
    parts += cylinder((1.92, 0.3, 0.42), 0.04, 0.1, m.patchwork(), segments=16)
    return parts


def _movers() -> list[Mover]:
    """A toy car between rug and door, and a ball that rolls before the sofa."""
    car: list[Surface] = [*box((-1.85, 0.9, 0.02), (0.3, 0.2, 0.16), m.patchwork())]
    toy: list[Surface] = [ball((0.4, -1.4, 0.14), 0.14, m.patchwork())]
    return [
        Mover(car, np.array([-1.85, 0.9, 0.1]), 0.25, (0, 0.6, 0), period_s=7.0),
        Mover(toy, np.array([0.4, -1.4, 0.14]), 0.15, (0.5, 0, 0), period_s=5.0, phase_rad=1.0),
    ]
