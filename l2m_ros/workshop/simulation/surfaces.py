"""Shapes: a sheet (grid of vertices wearing one material), leaves, and what is built of them.

World axes (REP-103): x forward, y left, z up, metres. A sheet's u runs to the right and v
downwards as its viewer sees it, so that print reads well; its normal cross(dv, du) points
to the viewer. Columns are u, rows are v.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.canvas import Material

TEXELS_PER_M = 320.0  # one texel is 3 mm: two pixels of a 640-pixel image at 0.85 m
UP = np.array([0.0, 0.0, 1.0])


def crossed(a: FloatArray, b: FloatArray) -> FloatArray:
    """a x b of (..., 3) arrays; of the few that most surfaces have, np.cross takes long."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), np.result_type(a, b))
    ax, ay, az = a[..., 0], a[..., 1], a[..., 2]
    bx, by, bz = b[..., 0], b[..., 1], b[..., 2]
    out[..., 0] = ay * bz - az * by
    out[..., 1] = az * bx - ax * bz
    out[..., 2] = ax * by - ay * bx
    return out


def _lengths(vectors: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt((vectors * vectors).sum(axis=-1)))


@dataclass(frozen=True, eq=False)
class Sheet:
    """A bent rectangle of one material."""

    vertices: FloatArray  # (rows + 1, columns + 1, 3)
    material: Material
    texels_per_m: float = TEXELS_PER_M
    glow: float = 0.0  # light it emits itself, in units of full daylight on white

    @functools.cached_property
    def size_m(self) -> tuple[float, float]:
        """Longest width and height measured along the sheet."""
        v = self.vertices
        along = _lengths(v[:, 1:] - v[:, :-1]).sum(axis=1).max()
        down = _lengths(v[1:] - v[:-1]).sum(axis=0).max()
        return float(along), float(down)

    def triangles(self) -> tuple[FloatArray, FloatArray]:
        """(T, 3, 3) corners and (T, 3, 2) their place on the material in [0, 1]."""
        return self._triangles

    @functools.cached_property
    def _triangles(self) -> tuple[FloatArray, FloatArray]:
        rows, columns = np.array(self.vertices.shape[:2])
        u, v = np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows))
        uv = np.stack([u, v], axis=-1)
        corners = [
            (slice(None, -1), slice(None, -1)),
            (slice(None, -1), slice(1, None)),
            (slice(1, None), slice(None, -1)),
            (slice(1, None), slice(1, None)),
        ]

        def cut(grid: FloatArray) -> FloatArray:
            a, b, c, d = (grid[index].reshape(-1, grid.shape[2]) for index in corners)
            return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])

        triangles = cut(self.vertices)
        normals = crossed(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        real = _lengths(normals) > 1e-10  # the pole of a disc or a ball has none
        return (triangles, cut(uv)) if real.all() else (triangles[real], cut(uv)[real])


@dataclass(frozen=True, eq=False)
class Leaves:
    """Many small leaves that wear the same material and are lit one by one."""

    corners: FloatArray  # (2 N, 3, 3): the first halves of all leaves, then the second halves
    uv: FloatArray  # (2 N, 3, 2)
    material: Material
    texels_per_m: float = TEXELS_PER_M
    size_m: tuple[float, float] = (0.1, 0.05)
    glow: float = field(default=0.0, init=False)

    def triangles(self) -> tuple[FloatArray, FloatArray]:
        return self.corners, self.uv


Surface = Sheet | Leaves


def quad(
    corner: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    material: Material,
    **options: float,
) -> Sheet:
    """A flat rectangle from its upper-left corner, its width vector and its height vector."""
    o, du, dv = (np.asarray(vector, float) for vector in (corner, u, v))
    return Sheet(np.array([[o, o + du], [o + dv, o + du + dv]]), material, **options)


def panel(
    centre: Sequence[float],
    facing: Sequence[float],
    width: float,
    height: float,
    material: Material,
    **options: float,
) -> Sheet:
    """An upright rectangle (poster, door, window) whose viewer stands where it is `facing`."""
    normal = np.asarray(facing, float) / np.linalg.norm(facing)
    right = crossed(UP, normal)
    corner = np.asarray(centre, float) - right * width / 2 + UP * height / 2
    return quad(corner, right * width, -UP * height, material, **options)


def _yaw_matrix(yaw_rad: float) -> FloatArray:
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def box(
    base: Sequence[float],
    size: Sequence[float],
    material: Material,
    *,
    yaw_rad: float = 0.0,
    front: Material | None = None,
    top: Material | None = None,
    bottom: bool = False,
    **options: float,
) -> list[Sheet]:
    """A box standing on the middle of its base; `front` is its -x face before turning."""
    turn, half = _yaw_matrix(yaw_rad), 0.5 * np.asarray(size, float)
    centre = np.asarray(base, float) + UP * half[2]
    faces = []
    for axis, normal in enumerate(np.array([[-1.0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0]])):
        wide = 2 * half[1] if abs(normal[0]) else 2 * half[0]
        out = turn @ normal * (half[0] if abs(normal[0]) else half[1])
        face = front if axis == 0 and front is not None else material
        faces.append(panel(centre + out, out, wide, 2 * half[2], face, **options))
    right, back = turn[:, 0] * 2 * half[0], turn[:, 1] * 2 * half[1]
    corner = centre + UP * half[2] - right / 2 + back / 2
    faces.append(quad(corner, right, -back, top or material, **options))
    if bottom:
        lower = centre - UP * half[2] - right / 2 - back / 2
        faces.append(quad(lower, right, back, material, **options))
    return faces


def cylinder(
    base: Sequence[float],
    radius: float,
    height: float,
    material: Material,
    *,
    segments: int = 24,
    top_radius: float | None = None,
    top: Material | None = None,
    capped: bool = True,
    **options: float,
) -> list[Sheet]:
    """An upright cylinder, or a cone stump with `top_radius`."""
    foot, upper = np.asarray(base, float), radius if top_radius is None else top_radius
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    side = np.stack([foot + UP * height + upper * ring, foot + radius * ring])
    sheets = [Sheet(side, material, **options)]
    if capped:
        disc = foot + UP * height + np.linspace(0, upper, 3)[:, None, None] * ring
        sheets.append(Sheet(disc, top or material, **options))
    return sheets


def pipe(
    start: Sequence[float],
    end: Sequence[float],
    radius: float,
    material: Material,
    **options: float,
) -> Sheet:
    """A tube between two points, 12-sided."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = (b - a) / np.linalg.norm(b - a)
    side = np.cross(axis, UP if abs(axis[2]) < 0.9 else np.array([1.0, 0, 0]))
    side /= np.linalg.norm(side)
    angle = np.linspace(0, 2 * np.pi, 13)[:, None]
    ring = radius * (np.cos(angle) * side + np.sin(angle) * np.cross(axis, side))
    return Sheet(np.stack([b + ring, a + ring]), material, **options)


def ball(
    centre: Sequence[float],
    radius: float,
    material: Material,
    *,
    squash: float = 1.0,
    **options: float,
) -> Sheet:
    polar = np.linspace(0, np.pi, 13)[:, None]
    around = np.linspace(0, 2 * np.pi, 25)[None, :]
    shape = np.broadcast_arrays(
        np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), squash * np.cos(polar)
    )
    return Sheet(np.asarray(centre, float) + radius * np.stack(shape, -1), material, **options)


def curtain(
    corner: Sequence[float],
    u: Sequence[float],
    v: Sequence[float],
    material: Material,
    *,
    fold_m: float = 0.04,
) -> Sheet:
    """Hanging cloth with folds about 15 cm apart."""
    o, du, dv = (np.asarray(vector, float) for vector in (corner, u, v))
    width = np.linalg.norm(du)
    steps = np.linspace(0, 1, max(int(width / 0.025), 8))
    normal = np.cross(dv, du)
    normal /= np.linalg.norm(normal)
    wave = fold_m * (0.5 + 0.5 * np.sin(2 * np.pi * steps * width / 0.15))
    upper = o + steps[:, None] * du + wave[:, None] * normal
    return Sheet(np.stack([upper, upper + dv]), material)


def leaves(
    rng: np.random.Generator,
    points: FloatArray,
    length_m: float,
    material: Material,
    *,
    droop: float = 0.3,
) -> Leaves:
    """A folded leaf (two triangles) at each of the (N, 3) points, in random directions."""
    along = rng.normal(size=points.shape)
    along[:, 2] = np.abs(along[:, 2]) * 0.6 - droop
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    side = np.cross(along, rng.normal(size=points.shape))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    lengths = length_m * rng.uniform(0.6, 1.3, (len(points), 1))
    tip, fold = points + along * lengths, np.cross(side, along) * 0.12 * lengths
    left = points + 0.5 * along * lengths + 0.25 * side * lengths + fold
    right = points + 0.5 * along * lengths - 0.25 * side * lengths + fold
    corners = np.concatenate([np.stack([points, tip, left], 1), np.stack([points, right, tip], 1)])
    uv = np.array([[(0, 0.5), (1, 0.5), (0.5, 0)], [(0, 0.5), (0.5, 1), (1, 0.5)]])
    repeated = np.repeat(uv, len(points), axis=0)
    return Leaves(corners, repeated, material, size_m=(length_m, length_m / 2))
