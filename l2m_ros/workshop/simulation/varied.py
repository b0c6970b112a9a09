"""Worlds of many sizes and looks, drawn from the seed: rooms, halls, corridors, streets.

Made to learn from (`l2m train depth`): no two seeds share a size, a floor or the things along the
walls, while doors, chairs, bricks and cars keep the sizes that tell a viewer how far away they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation import desks, grounds, prints, street
from l2m_ros.workshop.simulation import furniture as f
from l2m_ros.workshop.simulation import materials as m
from l2m_ros.workshop.simulation.canvas import Material, random_srgb
from l2m_ros.workshop.simulation.lighting import Lamp, Lighting
from l2m_ros.workshop.simulation.scenery import Scenery
from l2m_ros.workshop.simulation.surfaces import Sheet, Surface, box, cylinder, panel, quad

ORIGIN = np.zeros(2)
CLEAR_M = 0.3  # between furniture and where a camera may be
GAPS_M = {"hall": 2.0, "kitchen": 0.3}  # at most, between things along a wall; else 0.9
DEEPEST_M = 0.9  # of what stands along a wall
SHARES = {"room": 0.5, "hall": 0.12, "corridor": 0.14, "street": 0.24}


def build(rng: np.random.Generator) -> Scenery:
    return build_kind(str(rng.choice(list(SHARES), p=list(SHARES.values()))), rng)


def build_kind(kind: str, rng: np.random.Generator) -> Scenery:
    """One of SHARES, or a desk, a kitchen or a yard (`draft.py`)."""
    if kind == "street":
        return street.build(rng)
    if kind == "yard":
        return grounds.build(rng)
    if kind == "desk":
        return _desk(rng)
    return _corridor(rng) if kind == "corridor" else _room(rng, kind)


def colour(rng: np.random.Generator, vivid: float = 0.5) -> list[float]:
    """sRGB in [0, 1]."""
    return random_srgb(rng, vivid)


def pale(rng: np.random.Generator) -> list[float]:
    return (1.0 - 0.45 * (1.0 - np.array(colour(rng)))).tolist()


def any_size(rng: np.random.Generator, material: Material) -> Material:
    """Of what has no size of its own: another one each time, so that it is not taken for one."""
    return m.scaled(material, float(np.exp(rng.normal(0, 0.5))))


# --- desks ------------------------------------------------------------------------------------


def _desk(rng: np.random.Generator) -> Scenery:
    """A desk at a wall, a partition or in the open, others beside and behind it."""
    depth, width, height = rng.uniform((0.55, 1.0, 0.68), (0.95, 2.4, 0.8))
    top = any_size(rng, m.wood(colour(rng, 0.3)) if rng.random() < 0.6 else m.plaster(pale(rng)))
    parts = desks.desk(rng, np.zeros(3), (depth, width, height), top)
    gap = 0.0 if rng.random() < 0.5 else rng.uniform(0.0, 3.0)
    x, y, z = depth / 2 + 0.02 + gap, rng.uniform(1.4, 3.5), rng.uniform(2.3, 3.2)
    back = rng.uniform(2.0, 4.0)  # of the room behind the sitter
    shell = _shell(rng, (x + back) / 2, y, z)
    parts += [moved(sheet, ((x - back) / 2, 0.0, 0.0)) for sheet in shell]
    if gap < 0.4:
        parts += desks.above(rng, x, width, height)
    elif rng.random() < 0.6:
        wall, high = depth / 2 + rng.uniform(0.02, 0.1), height + rng.uniform(0.2, 0.6)
        screen = any_size(rng, m.fabric(colour(rng, 0.4)))
        parts += box((wall + 0.02, 0, 0), (0.04, width, high), screen)
    for side in (-1, 1):
        middle = side * (width + rng.uniform(0.02, 0.4))
        if rng.random() < 0.5 and abs(middle) + width / 2 < y:
            parts += desks.desk(rng, np.array([0.0, middle, 0.0]), (depth, width, height), top)
    parts += _wall(rng, 0.0, y - 0.1, x, z, "room") if gap > 1.5 else []
    seat = (-depth / 2 - rng.uniform(0.2, 0.5), rng.uniform(-0.4, 0.4) * width, 0.0)
    if rng.random() < 0.4:
        parts += f.chair(seat, yaw_rad=np.pi + rng.normal(0, 0.5), colour=colour(rng))
    centre = np.array([(x - back) / 2, 0.0])
    lighting = _lighting(rng, (x + back) / 2, y, z, centre)
    side = min(0.6 * width, y - 0.3)
    free = ((-depth / 2 - rng.uniform(0.5, 1.3), -side, height + 0.15), (-0.15, side, 1.7))
    return Scenery(parts, lighting, free, look_span_rad=1.0)


def moved(sheet: Surface, by: tuple[float, float, float]) -> Surface:
    assert isinstance(sheet, Sheet)
    return replace(sheet, vertices=sheet.vertices + np.asarray(by))


# --- rooms ------------------------------------------------------------------------------------


def _room(rng: np.random.Generator, kind: str) -> Scenery:
    """A room, a hall or a kitchen: things along its walls, often a table in it."""
    hall = kind == "hall"
    half = rng.uniform((4, 3), (11, 8)) if hall else rng.uniform((1.9, 1.7), (4.2, 3.2))
    x, y = half
    z = rng.uniform(3.0, 6.5) if hall else rng.uniform(2.25, 3.1)
    surfaces = [*_shell(rng, x, y, z)]
    for yaw, along, away in ((0.0, y, x), (np.pi, y, x), (np.pi / 2, x, y), (-np.pi / 2, x, y)):
        corner = 0.1 if yaw in (0.0, np.pi) else DEEPEST_M + 0.1
        surfaces += _wall(rng, yaw, along - corner, away, z, kind)
    end = x - DEEPEST_M - CLEAR_M
    if x > 2.6 and (kind == "kitchen" or rng.random() < 0.6):
        surfaces += _dining(rng, (x - 2.0, rng.uniform(-0.3, 0.3), 0))
        end = x - 2.0 - 1.2 - CLEAR_M
    side = y - DEEPEST_M - CLEAR_M
    free = ((-x + DEEPEST_M + CLEAR_M, -side, 0.25), (end, side, 1.9))
    return Scenery(surfaces, _lighting(rng, x, y, z), free, look_span_rad=1.9)


def _lighting(
    rng: np.random.Generator, x: float, y: float, z: float, centre: FloatArray = ORIGIN
) -> Lighting:
    count = max(round(x * y / 5), 1) if x * y < 20 else 4
    places = rng.uniform((-0.7 * x, -0.7 * y), (0.7 * x, 0.7 * y), (count, 2)) + centre
    power = rng.uniform(0.5, 1.3) * (z / 2.6) ** 2
    warm = (1.0, rng.uniform(0.9, 1.0), rng.uniform(0.7, 1.05))
    lamps = [
        Lamp((px - 0.3, py - 0.3, z - 0.06), (0.6, 0, 0), (0, 0.6, 0), power, warm)
        for px, py in places
    ]
    return Lighting(ambient=rng.uniform(0.3, 0.6), reach_m=1.2, lamps=lamps)


def _floor(rng: np.random.Generator) -> Material:
    return (
        m.planks(colour(rng, 0.3), width_m=rng.uniform(0.08, 0.2)),
        m.tiles(rng.choice([0.2, 0.3, 0.4, 0.6]), pale(rng)),
        any_size(rng, m.fabric(colour(rng, 0.3))),
        any_size(rng, m.concrete(pale(rng))),
        any_size(rng, m.rug([colour(rng) for _ in range(4)])),
    )[rng.integers(5)]


def _wall_material(rng: np.random.Generator) -> Material:
    kinds = (
        any_size(rng, m.plaster(pale(rng))),
        any_size(rng, m.concrete(pale(rng))),
        m.brick(colour(rng, 0.3)),
        m.wallpaper(pale(rng), colour(rng), pitch_m=rng.uniform(0.12, 0.3)),
        m.tiles(rng.choice([0.1, 0.15, 0.2]), pale(rng)),
    )
    return kinds[rng.integers(len(kinds))]


def _shell(rng: np.random.Generator, x: float, y: float, z: float) -> list[Surface]:
    """Floor, ceiling and four walls, the large ones more coarsely."""
    fine = {"texels_per_m": float(np.clip(900.0 / max(x, y), 80.0, 260.0))}
    ceiling = m.plaster(pale(rng)) if rng.random() < 0.6 else m.tiles(0.6, (0.87, 0.87, 0.85))
    parts: list[Surface] = [
        quad((-x, y, 0), (2 * x, 0, 0), (0, -2 * y, 0), _floor(rng), **fine),
        quad((-x, -y, z), (2 * x, 0, 0), (0, 2 * y, 0), ceiling, texels_per_m=60.0),
    ]
    paint = _wall_material(rng)
    for normal, width in (((-1, 0), y), ((1, 0), y), ((0, -1), x), ((0, 1), x)):
        material = paint if rng.random() < 0.7 else _wall_material(rng)
        centre = (-normal[0] * x, -normal[1] * y, z / 2)
        parts.append(panel(centre, (*normal, 0), 2 * width, z, material, **fine))
    return parts


def _wall(
    rng: np.random.Generator, yaw: float, half: float, away: float, z: float, room: str
) -> list[Surface]:
    """Things along one wall, from its one end to the other, and what hangs above them."""
    out = np.array([-np.cos(yaw), -np.sin(yaw), 0.0])  # from the wall into the room
    along = np.array([-out[1], out[0], 0.0])
    parts: list[Surface] = []
    at = -half + rng.uniform(0.0, 0.5)
    while at < half - 0.5:
        kind, width, depth, height = _thing(rng, room)
        if at + width > half:
            break
        middle = (at + width / 2) * along - away * out
        if kind is not None:
            parts += kind(rng, middle + (depth / 2 + 0.01) * out, yaw, width, height)
        if height < 1.3 and rng.random() < 0.5:
            parts += _hung(rng, middle + 0.012 * out + [0, 0, 1.65], out, width, z)
        at += width + rng.uniform(0.02, GAPS_M.get(room, 0.9))
    return parts


def _hung(
    rng: np.random.Generator, place: np.ndarray, out: np.ndarray, room: float, z: float
) -> list[Surface]:
    if rng.random() < 0.3:
        width, height = min(rng.uniform(0.8, 1.6), room + 0.3), rng.uniform(0.8, 1.2)
        return [panel(place, out, width, height, prints.window_view(), glow=0.6)]
    return f.framed_poster(
        place, out, min(rng.uniform(0.3, 0.9), room + 0.2), rng.uniform(0.3, 0.8)
    )


def _thing(rng: np.random.Generator, room: str) -> tuple:
    """(who builds it or None for a gap, width, depth, height) of the next thing on a wall."""
    u = rng.uniform
    things = [
        (None, u(0.3, 1.2), 0.0, 0.0),
        (lambda r, p, a, w, h: f.desk(r, p, yaw_rad=a), 1.5, 0.75, 1.2),
        (lambda r, p, a, w, h: f.sofa(p, yaw_rad=a, width=w), u(1.3, 2.2), 0.85, 0.85),
        (_shelf, u(0.6, 1.3), 0.3, u(1.2, 2.1)),
        (_cabinet, u(0.7, 1.6), 0.42, u(0.6, 1.1)),
        (_counter, u(1.2, 2.8), 0.62, 2.1),
        (_plain, 0.6, 0.62, u(1.3, 1.9)),  # a refrigerator
        (_plain, u(0.8, 2.0), 0.6, u(1.9, 2.2)),  # a wardrobe
        (_door, 1.0, 0.06, 2.05),
        (lambda r, p, a, w, h: f.plant(r, p, height=h), 0.6, 0.6, u(0.8, 1.5)),
        (lambda r, p, a, w, h: f.carton_stack(r, p, int(r.integers(1, 4))), 0.65, 0.65, 1.25),
        (_clutter, u(0.8, 1.6), 0.7, u(0.4, 0.8)),
        (lambda r, p, a, w, h: f.chair(p, yaw_rad=a, colour=colour(r)), 0.5, 0.5, 0.92),
    ]
    shares = np.array([2, 2.5, 1.5, 1, 2, 2.5, 1, 1, 1.5, 1, 1.5, 2, 1.5])
    if room == "hall":
        shares[[2, 5, 6]] = 0.3
    if room == "kitchen":  # counters, a refrigerator, shelves, cabinets
        shares[[1, 2, 7]], shares[[3, 4, 6]], shares[5] = 0.2, 2.0, 9.0
    return things[rng.choice(len(things), p=shares / shares.sum())]


def _shelf(rng, place, yaw, width, height) -> list[Surface]:
    return f.bookshelf(rng, place, yaw_rad=yaw, width=width, height=height)


def _cabinet(rng, place, yaw, width, height) -> list[Surface]:
    return f.cabinet(place, yaw_rad=yaw, width=width, height=height, colour=pale(rng))


def _door(rng, place, yaw, width, height) -> list[Surface]:
    front = prints.door(colour(rng, 0.3), plate=rng.random() < 0.4)
    return box(place, (0.05, 0.92, 2.04), m.wood(colour(rng, 0.2)), yaw_rad=yaw, front=front)


def _plain(rng, place, yaw, width, height) -> list[Surface]:
    front = m.metal(pale(rng)) if rng.random() < 0.5 else prints.door(pale(rng))
    return box(place, (0.6, width, height), m.plaster(pale(rng)), yaw_rad=yaw, front=front)


def _counter(rng, place, yaw, width, height) -> list[Surface]:
    """A worktop at 0.9 m with things on it and cupboards above."""
    size = (0.6, width, 0.9)
    front, top = prints.door(pale(rng)), m.concrete(colour(rng, 0.3))
    parts: list[Surface] = [*box(place, size, m.plaster(pale(rng)), yaw_rad=yaw, front=front)]
    parts += box(f._at(place, yaw, (0, 0, 0.9)), (0.62, width, 0.03), top, yaw_rad=yaw)
    parts += on_top(rng, f._at(place, yaw, (0, 0, 0.93)), yaw, 0.5, width)
    if rng.random() < 0.3:
        return parts + _leaflets(rng, f._at(place, yaw, (0.27, 0, 0.93)), yaw, width)
    if rng.random() < 0.7:
        shelf = f._at(place, yaw, (0.14, 0, 1.4))
        parts += box(
            shelf, (0.33, width, 0.65), m.wood(pale(rng)), yaw_rad=yaw, front=front, bottom=True
        )
    return parts


def _leaflets(rng, place, yaw, width) -> list[Surface]:
    """Pages and leaflets stood up and pinned along a wall."""
    out, parts = np.array([-np.cos(yaw), -np.sin(yaw), 0.0]), []
    for _ in range(int(rng.integers(3, 4 + 5 * width))):
        along, up = rng.uniform(-0.5, 0.5) * (width - 0.2), rng.choice([0.16, 0.5, 0.8])
        paint = prints.page() if rng.random() < 0.5 else prints.poster()
        centre = f._at(place, yaw, (rng.uniform(-0.03, 0.02), along, up))
        size = (0.21, 0.297) if rng.random() < 0.6 else rng.uniform(0.1, 0.25, 2)
        parts.append(panel(centre, out, *size, paint, texels_per_m=500))
    return parts


def _clutter(rng, place, yaw, width, height) -> list[Surface]:
    """A low table or chest with many small things on it."""
    top = f.table(place, (0.65, width, height), m.wood(colour(rng, 0.3)), yaw_rad=yaw)
    return [*top, *on_top(rng, f._at(place, yaw, (0, 0, height)), yaw, 0.6, width)]


def on_top(rng, place, yaw, depth: float, width: float) -> list[Surface]:
    """Mugs, boxes, bottles, papers and books on a surface of that size."""
    parts: list[Surface] = []
    for _ in range(int(rng.integers(3, 5 + 4 * width))):
        x, y = rng.uniform(-0.5, 0.5, 2) * (depth - 0.1, width - 0.2)
        at, turn = f._at(place, yaw, (x, y, 0)), yaw + rng.uniform(-0.6, 0.6)
        kind = rng.integers(4)
        if kind == 0:
            radius = rng.uniform(0.03, 0.06)
            parts += cylinder(at, radius, rng.uniform(0.08, 0.3), m.patchwork(), segments=14)
        elif kind == 1:
            size = rng.uniform(0.06, 0.25, 3) * (1, 1, 1.2)
            parts += box(at, size, prints.carton(), yaw_rad=turn)
        elif kind == 2:
            parts += box(at, (0.21, 0.297, 0.004), prints.page(), yaw_rad=turn + np.pi)
        else:
            thick = rng.uniform(0.02, 0.1)
            parts += box(at, (0.18, 0.25, thick), prints.book_spine(), yaw_rad=turn)
    return parts


def _dining(rng: np.random.Generator, base) -> list[Surface]:
    size = (rng.uniform(0.7, 1.0), rng.uniform(0.8, 1.8), rng.uniform(0.7, 0.78))
    parts = f.table(base, size, m.wood(colour(rng, 0.3)))
    parts += on_top(rng, np.add(base, (0, 0, size[2])), 0.0, size[0], size[1])
    for side in (-1, 1):
        place = (base[0] + side * (size[0] / 2 + 0.1), base[1] + rng.uniform(-0.3, 0.3), 0)
        parts += f.chair(place, yaw_rad=0.0 if side > 0 else np.pi, colour=colour(rng))
    return parts


# --- corridors --------------------------------------------------------------------------------


def _corridor(rng: np.random.Generator) -> Scenery:
    x, y, z = rng.uniform(4, 14), rng.uniform(0.8, 1.9), rng.uniform(2.2, 3.4)
    surfaces = [*_shell(rng, x, y, z)]
    for side in (-1, 1):
        at, out = -x + rng.uniform(0.2, 1.5), np.array([0.0, -side, 0.0])
        while at < x - 1.2:
            place = np.array([at + 0.5, side * y, 0.0])
            if rng.random() < 0.5:
                yaw = np.pi / 2 * side
                surfaces += _door(rng, place + 0.03 * out, yaw, 0.92, 2.04)
            else:
                surfaces += _hung(rng, place + 0.012 * out + [0, 0, 1.55], out, 0.8, z)
            at += rng.uniform(1.1, 3.5)
    for _ in range(int(rng.integers(1, 5))):
        place = (rng.uniform(-x + 0.3, x - 0.3), rng.choice([-1, 1]) * (y - 0.16), 0)
        size = (rng.uniform(0.3, 1.2), 0.3, rng.uniform(0.4, 1.6))
        surfaces += box(place, size, prints.carton() if rng.random() < 0.5 else m.metal(pale(rng)))
    lamps = [
        Lamp((px - 0.5, -0.12, z - 0.05), (1.0, 0, 0), (0, 0.24, 0), 0.75)
        for px in np.arange(-x + 1.5, x - 1, 3.0)[:6]
    ]
    lighting = Lighting(ambient=rng.uniform(0.35, 0.55), reach_m=0.9, lamps=lamps)
    side = y - 0.32 - 0.26
    free = ((-x + 1.2, -side, 0.25), (x - 1.8, side, 1.9))
    return Scenery(surfaces, lighting, free, look_span_rad=0.6)
