"""An office corridor, 14 x 2.4 x 2.6 m: doors, notice boards, pipes, long plain walls."""

from __future__ import annotations

import numpy as np

from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation import prints
from l2m_ros.workshop.simulation.lighting import Lamp, Lighting
from l2m_ros.workshop.simulation.scenery import Mover, Scenery
from l2m_ros.workshop.simulation.surfaces import Surface, box, cylinder, panel, pipe, quad

X, Y, Z = 7.0, 1.2, 2.6
LAMP_X = (-5.2, -2.6, 0.0, 2.6, 5.2)


def build(rng: np.random.Generator) -> Scenery:
    surfaces = [*_shell(), *_wall_things(rng), *_ends(), *_things(rng)]
    lamps = [Lamp((x - 0.5, -0.12, Z - 0.05), (1.0, 0, 0), (0, 0.24, 0), 0.75) for x in LAMP_X]
    free = ((-5.2, -0.6, 0.25), (4.7, 0.6, 1.9))
    lighting = Lighting(ambient=0.45, reach_m=0.9, lamps=lamps)
    return Scenery(surfaces, lighting, free, look_span_rad=0.6, movers=_movers())


def _shell() -> list[Surface]:
    upper, lower = m.plaster((0.87, 0.86, 0.8)), m.plaster((0.42, 0.55, 0.6), relief=0.04)
    parts: list[Surface] = [
        quad((-X, Y, 0), (2 * X, 0, 0), (0, -2 * Y, 0), m.tiles(0.4, (0.66, 0.63, 0.58))),
        quad(
            (-X, -Y, Z),
            (2 * X, 0, 0),
            (0, 2 * Y, 0),
            m.tiles(0.6, (0.86, 0.86, 0.84), spread=0.02, veins=0.05),
            texels_per_m=160.0,
        ),
    ]
    for side in (-1, 1):
        facing = (0, -side, 0)
        parts.append(panel((0, side * Y, 1.75), facing, 2 * X, 1.7, upper, texels_per_m=200.0))
        parts.append(panel((0, side * Y, 0.45), facing, 2 * X, 0.9, lower, texels_per_m=250.0))
        rail = m.wood((0.45, 0.3, 0.2))
        parts += box((0, side * (Y - 0.015), 0.87), (2 * X, 0.03, 0.1), rail, bottom=True)
        parts += box((0, side * (Y - 0.01), 0), (2 * X, 0.02, 0.08), m.plaster((0.25, 0.25, 0.27)))
    for x in LAMP_X:
        cover = m.plaster((0.92, 0.92, 0.9))
        parts += box((x, 0, Z - 0.04), (1.2, 0.3, 0.04), cover, bottom=True, glow=0.9)
    return parts


def _wall_things(rng: np.random.Generator) -> list[Surface]:
    """Doors with numbers, boards with notices, pictures, a stretch of bare brick."""
    parts: list[Surface] = [
        panel((3.6, -Y + 0.01, 1.3), (0, 1, 0), 2.2, 2.6, m.brick((0.7, 0.45, 0.33)))
    ]
    colours = ((0.62, 0.42, 0.26), (0.35, 0.45, 0.42), (0.7, 0.66, 0.58))
    doors = [(-4.6, 1), (-1.4, 1), (2.2, 1), (5.4, 1), (-5.4, -1), (-2.3, -1), (1.2, -1), (5.9, -1)]
    for number, (x, side) in enumerate(doors):
        colour = colours[number % 3]
        parts += box((x, side * (Y - 0.03), 0), (1.06, 0.05, 2.1), m.wood((0.3, 0.26, 0.22)))
        parts.append(
            panel(
                (x, side * (Y - 0.062), 1.02),
                (0, -side, 0),
                0.92,
                2.04,
                prints.door(colour, plate=True),
            )
        )
    for x, side in ((-3.0, 1), (0.45, 1), (-0.5, -1), (-3.9, -1)):
        parts += _notice_board(rng, x, side)
    for x, side in ((3.8, 1), (-6.1, 1), (4.0, -1), (-6.4, -1)):
        parts += f.framed_poster((x, side * (Y - 0.012), 1.55), (0, -side, 0), 0.6, 0.8)
    return parts


def _notice_board(rng: np.random.Generator, x: float, side: int) -> list[Surface]:
    cork = m.concrete((0.68, 0.5, 0.33))
    parts: list[Surface] = [*box((x, side * (Y - 0.015), 1.1), (1.5, 0.03, 0.9), cork, bottom=True)]
    for column in np.linspace(-0.58, 0.58, 5):
        for row in (1.32, 1.76):
            place = (
                x + column + rng.normal(0, 0.02),
                side * (Y - 0.034),
                row + rng.normal(0, 0.03),
            )
            kind = prints.poster() if rng.random() < 0.3 else prints.page()
            parts.append(panel(place, (0, -side, 0), 0.21, 0.297, kind, texels_per_m=420.0))
    return parts


def _ends() -> list[Surface]:
    return [
        panel((X, 0, Z / 2), (-1, 0, 0), 2 * Y, Z, m.plaster((0.75, 0.6, 0.45))),
        panel((X - 0.02, 0, 1.5), (-1, 0, 0), 1.3, 1.5, prints.window_view(), glow=0.6),
        panel((-X, 0, Z / 2), (1, 0, 0), 2 * Y, Z, m.brick((0.5, 0.5, 0.5))),
        panel((-X + 0.02, 0, 1.05), (1, 0, 0), 1.5, 2.1, prints.door((0.2, 0.35, 0.3))),
    ]


def _things(rng: np.random.Generator) -> list[Surface]:
    """What stands and hangs along the walls, at most 30 cm deep."""
    parts: list[Surface] = []
    for y, radius, colour in ((0.95, 0.06, (0.6, 0.6, 0.62)), (-1.0, 0.04, (0.65, 0.3, 0.2))):
        parts.append(pipe((-X, y, 2.38), (X, y, 2.38), radius, m.metal(colour)))
    for x in np.arange(-6.0, 6.5, 1.5):
        parts += box((x, 0.95, 2.31), (0.05, 0.16, 0.3), m.metal((0.35, 0.35, 0.36)), bottom=True)
    for x, side in ((-2.95, 1), (4.1, 1)):
        parts += _radiator(x, side)
    for x, side in ((-0.2, 1), (4.9, -1)):
        parts += _extinguisher(x, side)
    parts += f.table((-0.9, -Y + 0.19, 0), (1.4, 0.28, 0.45), m.planks((0.5, 0.36, 0.24)))
    parts += f.plant(rng, (-6.4, 0.8, 0), height=0.9)
    parts += f.plant(rng, (6.5, -0.8, 0), height=1.1)
    parts += f.carton_stack(rng, (6.0, 0.75, 0), 3)
    parts += f.carton_stack(rng, (-6.5, -0.7, 0), 2)
    parts += cylinder((3.0, Y - 0.16, 0), 0.12, 0.6, m.metal((0.3, 0.32, 0.35)))
    parts += box((2.6, -Y + 0.12, 1.15), (0.5, 0.18, 0.35), m.metal((0.7, 0.7, 0.72)), bottom=True)
    return parts


def _extinguisher(x: float, side: int) -> list[Surface]:
    """A red bottle with a label, a black head, and its sign on the wall."""
    foot = np.array([x, side * (Y - 0.11), 0.45])
    parts: list[Surface] = []
    parts += cylinder(foot, 0.075, 0.42, m.metal((0.75, 0.1, 0.08)))
    parts += cylinder(foot + [0, 0, 0.42], 0.06, 0.06, m.metal((0.75, 0.1, 0.08)), top_radius=0.02)
    parts += cylinder(foot + [0, 0, 0.47], 0.03, 0.08, m.metal((0.12, 0.12, 0.12)), segments=10)
    parts += cylinder(foot + [0, 0, 0.15], 0.077, 0.15, prints.page(), capped=False)
    parts.append(panel((x, side * (Y - 0.01), 1.35), (0, -side, 0), 0.22, 0.22, prints.poster()))
    return parts


def _radiator(x: float, side: int) -> list[Surface]:
    white = m.plaster((0.88, 0.87, 0.83))
    parts: list[Surface] = []
    for rib in np.linspace(-0.4, 0.4, 10):
        parts += box((x + rib, side * (Y - 0.09), 0.15), (0.05, 0.1, 0.6), white, bottom=True)
    return parts


def _movers() -> list[Mover]:
    """A trolley that rolls before the far end, and a cleaning robot along the right wall."""
    trolley: list[Surface] = [
        *box((5.3, 0.0, 0.1), (0.4, 0.45, 0.8), m.patchwork(vivid=0.5), bottom=True)
    ]
    robot: list[Surface] = [*cylinder((2.4, -1.0, 0.0), 0.15, 0.1, m.patchwork())]
    return [
        Mover(trolley, np.array([5.3, 0.0, 0.5]), 0.6, (0.0, 0.5, 0.0), period_s=8.0),
        Mover(robot, np.array([2.4, -1.0, 0.05]), 0.2, (0.9, 0, 0), period_s=9.0),
    ]
