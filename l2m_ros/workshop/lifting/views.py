"""New views of a lifted photograph, with the exact place in the photograph of every pixel.

A photograph with an inverse depth per pixel is a mesh over its pixel grid: inside a cell the
inverse depth is interpolated linearly along both axes, which is exact for planes (inverse
depth is affine in the pixel). Cells that span a depth jump are cut out. Per pixel of a new
view the first surface along its ray is found in two steps:

    1. a z-buffer: every grid point is projected, the nearest per pixel is kept and grown to
       the spacing of the points. This says which surface is in front.
    2. a secant iteration from there on the one unknown, the inverse depth omega along the ray.
       With s the point of the photograph,

           s~ = K0 R^T (K^-1 p~) - omega K0 R^T t        (homogeneous)
           w(s) s~_z - omega = 0                         (the surface; affine for a plane)

What does not converge, lies on a cut cell, or lies behind a nearer grid point is a hole.
Whatever the depth, the labels are exact: the rendered colour is taken at that very s.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.types import FloatArray

BoolArray = npt.NDArray[np.bool_]

# A cell is cut where its corners differ by more than this: relative part, absolute part
# (inverse depth has median 1). A floor seen at a grazing angle stays below it.
CUT_RELATIVE, CUT_ABSOLUTE = 0.03, 0.02
CUT, UNLABELLED = 1, 2  # flags of a cell
# An answer this far (pixels of the view) from its own projection has not converged.
RESIDUAL_PX = 0.1
STEPS = 5
MAX_GROW_PX = 4  # grid points at most 2 * 4 + 1 pixels apart are one surface
MIN_Z = 1e-6
FAR_AWAY_PX = 1e4  # where what cannot be seen is put: finite, and outside of every image


@dataclass(frozen=True, eq=False)
class Relief:
    """An inverse depth over the pixel grid of its camera, and what is wrong with its cells."""

    inverse_depth: FloatArray  # (h, w) float32 > 0
    K: FloatArray  # 3x3 of the grid's camera
    cells: npt.NDArray[np.uint8]  # (h, w); CUT | UNLABELLED at (v, u) of cell (u..u+1, v..v+1)

    @classmethod
    def from_inverse_depth(
        cls, inverse_depth: FloatArray, K: FloatArray, unlabelled: BoolArray | None = None
    ) -> Relief:
        """`unlabelled` (h, w): drawn but never supervised (sky, depth that was made up)."""
        w = np.ascontiguousarray(inverse_depth, np.float32)
        if w.ndim != 2 or not np.isfinite(w).all() or not (w > 0).all():
            raise InvalidInput(
                f"inverse depth must be (h, w), finite and positive, got shape {w.shape}"
            )
        cells = cut_cells(w)
        if unlabelled is not None and unlabelled.any():
            # A cell touches its right and lower neighbours: grow to the upper left.
            touched = cv2.dilate(unlabelled.view(np.uint8), np.ones((2, 2)), anchor=(0, 0))
            cells |= touched * np.uint8(UNLABELLED)
        return cls(w, np.asarray(K, np.float64), cells)


@dataclass(frozen=True, eq=False)
class View:
    """What each pixel of a new view shows."""

    source_px: FloatArray  # (H, W, 2) float32 pixel of the relief's grid
    inverse_depth: FloatArray  # (H, W) float32, 1 / z in the view's camera
    seen: BoolArray  # (H, W) the surface is known here: source_px is exact
    painted: BoolArray  # (H, W) has the photograph's colour: seen, unlabelled, or a thin crack
    unlabelled: BoolArray  # (H, W) drawn, never supervised
    nearest: FloatArray | None = None  # (H, W) z-buffer of the grid points, grown by one pixel


def cut_cells(w: FloatArray) -> npt.NDArray[np.uint8]:
    """CUT where the 2x2 corners of a cell do not belong to one surface."""
    highest, lowest = w.copy(), w.copy()
    for shifted in (w[:, 1:], w[1:, :], w[1:, 1:]):
        h, n = shifted.shape
        part = (slice(0, h), slice(0, n))
        np.maximum(highest[part], shifted, out=highest[part])
        np.minimum(lowest[part], shifted, out=lowest[part])
    return (highest - lowest > CUT_RELATIVE * highest + CUT_ABSOLUTE).view(np.uint8)


def affine(row: FloatArray, width: int, height: int) -> FloatArray:
    """(height, width) float32 of row . (u, v, 1) over the pixel grid."""
    u = np.arange(width, dtype=np.float32) * np.float32(row[0]) + np.float32(row[2])
    v = np.arange(height, dtype=np.float32) * np.float32(row[1])
    return u[None, :] + v[:, None]


def project(
    relief: Relief, u: FloatArray, v: FloatArray, w: FloatArray, K: FloatArray, T: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Pixel (x, y) and inverse depth, in the view K, T = view_from_grid, of grid points.

    p~ = K R K0^-1 s~ + w K t; points behind the view get FAR_AWAY_PX and inverse depth 0.
    """
    H = (K @ T[:3, :3] @ np.linalg.inv(relief.K)).astype(np.float32)
    e = (K @ T[:3, 3]).astype(np.float32)
    z = H[2, 0] * u + H[2, 1] * v + (H[2, 2] + w * e[2])
    front = z > MIN_Z
    hidden = None if front.all() else ~front  # nearly always nothing lies behind: skip the masks
    if hidden is not None:
        z[hidden] = 1.0
    over_z = np.float32(1.0) / z
    x = (H[0, 0] * u + H[0, 1] * v + (H[0, 2] + w * e[0])) * over_z
    y = (H[1, 0] * u + H[1, 1] * v + (H[1, 2] + w * e[1])) * over_z
    omega = w * over_z
    for c in (x, y):
        np.clip(c, -FAR_AWAY_PX, FAR_AWAY_PX, out=c)
    if hidden is not None:
        x[hidden] = y[hidden] = -FAR_AWAY_PX
        omega[hidden] = 0.0
    return x, y, omega


def sample(image: npt.NDArray[np.float32], x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear, edges repeated. OpenCV rounds x, y to 1/32 px: only smooth maps are read."""
    read: FloatArray = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return read


def inside_grid(relief: Relief, x: FloatArray, y: FloatArray) -> BoolArray:
    """True where (x, y) lies on a cell of the grid, cut or not."""
    height, width = relief.inverse_depth.shape
    return (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)


def cells_at(relief: Relief, x: FloatArray, y: FloatArray) -> npt.NDArray[np.uint8]:
    """The cell's flags at (x, y); CUT outside of the grid."""
    inside = inside_grid(relief, x, y)
    column = np.where(inside, x, 0).astype(np.int32)
    cell = np.where(inside, y, 0).astype(np.int32) * np.int32(relief.cells.shape[1]) + column
    return np.where(inside, np.take(relief.cells, cell), np.uint8(CUT))


def render(relief: Relief, K: FloatArray, T: FloatArray, width: int, height: int) -> View:
    """The view of a camera K at T = view_from_grid (rotation and translation, 4x4)."""
    if not T[:3, 3].any():
        return _rotated_view(relief, K, T, width, height)
    start, nearest = _z_buffer(relief, K, T, width, height)
    x, y, omega = _trace(relief, K, T, start)
    cells = cells_at(relief, x, y)
    drawn = (cells & CUT == 0) & _converged(relief, K, T, x, y)
    # A nearer grid point within a pixel: this ray met another surface first.
    drawn &= nearest <= omega * np.float32(1 + CUT_RELATIVE) + np.float32(CUT_ABSOLUTE)
    # Holes of a pixel's width are cracks along cut cells; left open they would draw outlines.
    wide = cv2.morphologyEx((~drawn).view(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))) > 0
    painted = drawn | ~wide & inside_grid(relief, x, y)
    unlabelled = drawn & (cells & UNLABELLED > 0)
    return View(np.stack([x, y], axis=-1), omega, drawn & ~unlabelled, painted, unlabelled, nearest)


def _rotated_view(relief: Relief, K: FloatArray, T: FloatArray, width: int, height: int) -> View:
    """Without translation there is no parallax: a homography, whatever the depth."""
    H = relief.K @ T[:3, :3].T @ np.linalg.inv(K)
    x, y, z = (affine(row, width, height) for row in H)
    front = z > MIN_Z
    over_z = 1.0 / np.where(front, z, 1.0)
    x, y = x * over_z, y * over_z
    omega = sample(relief.inverse_depth, x, y) * z
    cells = cells_at(relief, x, y)
    unlabelled = front & (cells & UNLABELLED > 0)
    painted = front & inside_grid(relief, x, y)
    return View(np.stack([x, y], axis=-1), omega, front & (cells == 0), painted, unlabelled)


def _z_buffer(
    relief: Relief, K: FloatArray, T: FloatArray, width: int, height: int
) -> tuple[FloatArray, FloatArray]:
    """Largest inverse depth near each pixel: grown to the points' spacing, and by one pixel."""
    w = relief.inverse_depth
    rows, columns = w.shape
    u = np.arange(columns, dtype=np.float32)[None, :]
    v = np.arange(rows, dtype=np.float32)[:, None]
    x, y, omega = project(relief, u, v, w, K, T)
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5) & (omega > 0)
    column = (x[inside] + np.float32(0.5)).astype(np.int64)
    row = (y[inside] + np.float32(0.5)).astype(np.int64)
    nearest = np.zeros(height * width, np.float32)
    np.maximum.at(nearest, row * width + column, omega[inside])
    nearest = nearest.reshape(height, width)
    spacing = np.sqrt(width * height / max(1, len(column)))
    grow = int(np.clip(np.ceil(spacing), 1, MAX_GROW_PX))
    grown = cv2.dilate(nearest, np.ones((2 * grow + 1, 2 * grow + 1), np.uint8))
    return np.where(grown > 0, grown, np.float32(1.0)), cv2.dilate(nearest, np.ones((3, 3)))


def _trace(
    relief: Relief, K: FloatArray, T: FloatArray, start: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Grid pixel (x, y) and inverse depth in the view, from the start by secant steps."""
    height, width = start.shape
    back = relief.K @ T[:3, :3].T
    hx, hy, hz = (affine(row, width, height) for row in back @ np.linalg.inv(K))
    ex, ey, ez = (-back @ T[:3, 3]).astype(np.float32)
    omega = start
    previous: tuple[FloatArray, FloatArray] | None = None
    for step in range(STEPS):
        z = np.maximum(hz + omega * ez, np.float32(MIN_Z))
        x, y = (hx + omega * ex) / z, (hy + omega * ey) / z
        if step == STEPS - 1:
            break
        error = sample(relief.inverse_depth, x, y) * z - omega
        # d error / d omega is -1 without parallax; clipped, a jump cannot throw the step away.
        fall = np.float32(1.0)
        if previous is not None:
            moved = omega - previous[0]
            safe = np.abs(moved) > 1e-7
            fall = (previous[1] - error) / np.where(safe, moved, np.float32(1.0))
            fall = np.where(safe, np.clip(fall, np.float32(0.3), np.float32(3.0)), 1.0)
        previous = (omega, error)
        omega = np.maximum(omega + error / fall, np.float32(1e-4)).astype(np.float32)
    return x, y, omega


def _converged(
    relief: Relief, K: FloatArray, T: FloatArray, x: FloatArray, y: FloatArray
) -> BoolArray:
    """True where the surface at (x, y) projects back to the pixel that it was found for."""
    height, width = x.shape
    w = sample(relief.inverse_depth, x, y)
    back_x, back_y, _ = project(relief, x, y, w, K, T)
    off_x = np.abs(back_x - np.arange(width, dtype=np.float32)[None, :])
    off_y = np.abs(back_y - np.arange(height, dtype=np.float32)[:, None])
    return np.maximum(off_x, off_y) < RESIDUAL_PX
