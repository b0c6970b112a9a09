"""What things are made of: each function returns a material, which paints a canvas.

Every material is rich at several scales (metres, centimetres, texels) unless it is meant to
be plain: real rooms have low-texture walls too, and a matcher has to live with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.canvas import Canvas, Material, linear, random_colours

Colour = Sequence[float]


def _shaded(base: FloatArray, *layers: FloatArray) -> FloatArray:
    """Reflectance times (1 + each layer), kept physical."""
    factor = np.ones(base.shape[:2], np.float32)
    for layer in layers:
        factor *= 1.0 + layer
    return np.clip(base * factor[..., None], 0.01, 0.95)


def scaled(material: Material, factor: float) -> Material:
    """The same, its pattern so many times as large."""

    def paint(canvas: Canvas) -> FloatArray:
        size = (canvas.width_m / factor, canvas.height_m / factor)
        return material(Canvas(canvas.rng, *size, canvas.texels_per_m * factor))

    return paint


def plaster(colour: Colour, *, relief: float = 0.02) -> Material:
    """Painted wall: nearly textureless, with faint stains and roller marks."""

    def paint(canvas: Canvas) -> FloatArray:
        stains = relief * canvas.noise(0.25, octaves=2)
        return _shaded(canvas.filled(colour), stains, 0.8 * relief * canvas.noise(0.012))

    return paint


def concrete(colour: Colour) -> Material:
    def paint(canvas: Canvas) -> FloatArray:
        speckle = canvas.noise(0.006)
        pits = -0.35 * (speckle > 1.9)
        return _shaded(
            canvas.filled(colour), 0.07 * canvas.noise(0.05, octaves=4), 0.05 * speckle, pits
        )

    return paint


def _cells(
    canvas: Canvas, along_m: float, across_m: float, offsets: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A bond of bricks, planks or tiles: cell number, distance to the joint along x and y."""
    x, y = canvas.grid_m()
    row = np.floor(y / across_m).astype(np.int32)
    shifted = x / along_m + offsets[row % len(offsets)]
    column = np.floor(shifted).astype(np.int32)
    cell = (row * 7919 + column * 104729) % 4093
    edge_x = np.abs(shifted - np.round(shifted)) * along_m
    edge_y = np.broadcast_to(np.abs(y / across_m - np.round(y / across_m)) * across_m, cell.shape)
    return cell, edge_x, edge_y


def _per_cell(canvas: Canvas, cell: FloatArray, spread: float) -> FloatArray:
    """One random tone for each cell."""
    tones = canvas.rng.normal(0.0, spread, 4093).astype(np.float32)
    return np.clip(tones, -2.5 * spread, 2.5 * spread)[cell]


def planks(colour: Colour, *, width_m: float = 0.12, length_m: float = 1.1) -> Material:
    """Boards along x: grain, knots, joints, a tone for each board."""

    def paint(canvas: Canvas) -> FloatArray:
        offsets = canvas.rng.uniform(0, 1, 97).astype(np.float32)
        cell, edge_x, edge_y = _cells(canvas, length_m, width_m, offsets)
        joint = -0.6 * ((edge_x < 0.0025) | (edge_y < 0.0025))
        grain = 0.13 * canvas.noise(0.004, octaves=3, stretch=25.0)
        knots = -0.35 * np.clip(canvas.noise(0.05, stretch=1.6) - 2.2, 0.0, 1.0)
        return _shaded(canvas.filled(colour), _per_cell(canvas, cell, 0.16), grain, knots, joint)

    return paint


def wood(colour: Colour) -> Material:
    """One piece of timber or veneer, grain along x."""

    def paint(canvas: Canvas) -> FloatArray:
        rings = np.sin(9.0 * canvas.noise(0.05, octaves=2, stretch=9.0))
        return _shaded(
            canvas.filled(colour), 0.1 * rings, 0.09 * canvas.noise(0.003, octaves=2, stretch=20.0)
        )

    return paint


def brick(colour: Colour = (0.64, 0.36, 0.27), mortar: Colour = (0.72, 0.69, 0.64)) -> Material:
    """Running bond, 250 x 75 mm with 10 mm joints; no two bricks alike."""

    def paint(canvas: Canvas) -> FloatArray:
        cell, edge_x, edge_y = _cells(canvas, 0.25, 0.075, np.array([0.0, 0.5], np.float32))
        wobble = 0.0015 * canvas.noise(0.01)
        joint = (np.minimum(edge_x, edge_y) + wobble) < 0.005
        burnt = _per_cell(canvas, cell, 0.22)
        face = _shaded(canvas.filled(colour), burnt, 0.12 * canvas.noise(0.005, octaves=3))
        warm = _per_cell(canvas, cell, 0.08)
        face *= np.stack([1 + warm, np.ones_like(warm), 1 - warm], axis=-1)
        bed = _shaded(canvas.filled(mortar), 0.1 * canvas.noise(0.006, octaves=2))
        stains = 1.0 + 0.08 * canvas.noise(0.4, octaves=2)
        return np.where(joint[..., None], bed, face) * np.clip(stains, 0.6, 1.2)[..., None]

    return paint


def tiles(size_m: float, colour: Colour, *, spread: float = 0.07, veins: float = 0.1) -> Material:
    """Square stone or ceramic tiles with veins, chips and grout."""

    def paint(canvas: Canvas) -> FloatArray:
        cell, edge_x, edge_y = _cells(canvas, size_m, size_m, np.zeros(1, np.float32))
        grout = -0.45 * (np.minimum(edge_x, edge_y) < 0.003)
        cloud = canvas.noise(0.03, octaves=4) + 3.0 * _per_cell(canvas, cell, 1.0)
        vein = -veins * np.exp(-((np.sin(2.5 * cloud) / 0.18) ** 2))
        tone = _per_cell(canvas, cell, spread)
        return _shaded(
            canvas.filled(colour), tone, vein, 0.04 * canvas.noise(0.005, octaves=3), grout
        )

    return paint


def fabric(colour: Colour, *, stripe: Colour | None = None) -> Material:
    """Woven cloth; with `stripe` every 8 cm."""

    def paint(canvas: Canvas) -> FloatArray:
        x, y = canvas.grid_m()
        base = canvas.filled(colour)
        if stripe is not None:
            base[:, (np.sin(2 * np.pi * x[0] / 0.08) > 0.45)] = linear(stripe)
        weave = 0.1 * np.sin(2 * np.pi * x / 0.009) * np.sin(2 * np.pi * y / 0.009)
        return _shaded(
            base, weave, 0.09 * canvas.noise(0.005), 0.07 * canvas.noise(0.06, octaves=3)
        )

    return paint


def rug(colours: Sequence[Colour]) -> Material:
    """Knotted rug: borders, a lattice of diamonds, a medallion, worn wool."""

    def paint(canvas: Canvas) -> FloatArray:
        x, y = canvas.grid_m()
        border = np.minimum(np.minimum(x, canvas.width_m - x), np.minimum(y, canvas.height_m - y))
        u, v = x - canvas.width_m / 2, y - canvas.height_m / 2
        diamonds = (np.abs(u / 0.17 % 1.0 - 0.5) + np.abs(v / 0.17 % 1.0 - 0.5)) * 4
        medallion = np.hypot(u / canvas.width_m, v / canvas.height_m) * 18
        index = np.where(border < 0.18, border / 0.045, np.minimum(diamonds, medallion + 1))
        wobble = 0.12 * canvas.noise(0.02)
        choice = np.floor(index + wobble).astype(int) % len(colours)
        base = linear(np.asarray(colours, np.float32))[choice]
        wear = 0.1 * canvas.noise(0.15, octaves=2)
        return _shaded(base, 0.16 * canvas.noise(0.005, octaves=2), wear)

    return paint


def wallpaper(ground: Colour, ink: Colour, *, pitch_m: float = 0.22) -> Material:
    """A printed motif that repeats exactly: what makes a matcher mistake one for another."""

    def paint(canvas: Canvas) -> FloatArray:
        x, y = canvas.grid_m()
        row = np.floor(y / pitch_m)
        u = ((x / pitch_m + 0.5 * (row % 2)) % 1.0) - 0.5
        v = (y / pitch_m % 1.0) - 0.5
        angle, radius = np.arctan2(v, u), np.hypot(u, v)
        petals = radius < 0.2 + 0.09 * np.cos(6 * angle)
        ring = np.abs(radius - 0.36) < 0.015
        base = np.where((petals | ring)[..., None], linear(ink), linear(ground))
        return _shaded(base, 0.025 * canvas.noise(0.008, octaves=2), 0.03 * canvas.noise(0.5))

    return paint


def grass() -> Material:
    """Lawn: blades, tufts, dry patches, small flowers."""

    def paint(canvas: Canvas) -> FloatArray:
        dry = np.clip(0.5 + 0.35 * canvas.noise(0.35, octaves=3), 0, 1)[..., None]
        base = (1 - dry) * linear((0.33, 0.47, 0.17)) + dry * linear((0.55, 0.56, 0.28))
        blades = 0.28 * canvas.noise(0.008, octaves=3)
        lawn = _shaded(base, blades, 0.12 * canvas.noise(0.1, octaves=2))
        flowers = canvas.noise(0.018) > 3.1
        lawn[flowers] = linear((0.93, 0.91, 0.75))
        return lawn

    return paint


def gravel(colour: Colour = (0.62, 0.58, 0.52)) -> Material:
    """Stones of 1 to 4 cm: each patch of noise between two levels is one stone's tone."""

    def paint(canvas: Canvas) -> FloatArray:
        stones = canvas.noise(0.014, octaves=2)
        tone = 0.22 * np.sin(23.0 * np.round(stones * 2.2))
        gaps = -0.45 * (np.abs(stones * 2.2 % 1.0 - 0.5) < 0.07)
        return _shaded(canvas.filled(colour), tone, gaps, 0.06 * canvas.noise(0.2, octaves=2))

    return paint


def bark() -> Material:
    def paint(canvas: Canvas) -> FloatArray:
        x, _ = canvas.grid_m()
        ridges = np.sin(2 * np.pi * x / 0.03 + 2.2 * canvas.noise(0.03, octaves=3))
        return _shaded(
            canvas.filled((0.42, 0.34, 0.27)), 0.3 * ridges, 0.2 * canvas.noise(0.01, octaves=2)
        )

    return paint


def leaf(colour: Colour) -> Material:
    """One leaf: a midrib along x, veins, a paler edge."""

    def paint(canvas: Canvas) -> FloatArray:
        x, y = canvas.grid_m()
        v = np.abs(y / canvas.height_m - 0.5)
        veins = 0.18 * np.sin(40.0 * (x / canvas.width_m - 1.2 * v)) - 0.5 * (v < 0.05)
        return _shaded(
            canvas.filled(colour), veins, 0.5 * v + 0.0 * x, 0.15 * canvas.noise(0.01, octaves=2)
        )

    return paint


def foliage(colour: Colour = (0.3, 0.44, 0.18)) -> Material:
    """A dense hedge seen as a surface: overlapping leaves over dark gaps."""

    def paint(canvas: Canvas) -> FloatArray:
        clumps, leaves = canvas.noise(0.18, octaves=2), canvas.noise(0.022, octaves=2)
        gaps = -0.8 * np.clip(-leaves - 0.2, 0, 1)
        edges = 0.4 * np.sin(4.0 * leaves)
        return _shaded(canvas.filled(colour), gaps, edges, 0.2 * clumps, 0.15 * canvas.noise(0.008))

    return paint


def metal(colour: Colour, *, scratches: float = 0.05) -> Material:
    def paint(canvas: Canvas) -> FloatArray:
        brushed = scratches * canvas.noise(0.003, octaves=2, stretch=15.0)
        return _shaded(canvas.filled(colour), brushed, 0.6 * scratches * canvas.noise(0.1))

    return paint


def patchwork(*, vivid: float = 0.8) -> Material:
    """Blotches of a few colours with fine print: toys, cushions, vases, moving objects."""

    def paint(canvas: Canvas) -> FloatArray:
        colours = random_colours(canvas.rng, 5, vivid=vivid)
        choice = np.floor(1.3 * canvas.noise(0.06, octaves=2) + 2.5).astype(int) % 5
        return _shaded(colours[choice], 0.15 * canvas.noise(0.006, octaves=3))

    return paint
