"""Cameras of a pair: the first looks at a part of the photograph, the second has moved.

    a_from_grid   rotation only: the first view is a homography of the photograph, without holes
    b_from_a      an orbit around a point of the scene, a free motion, or a turn on the spot,
                  with roll, zoom and a focal length of its own

The strength of the motion is chosen so that the overlap comes near a value that was drawn
first: hard pairs are then as frequent as easy ones, instead of as rare as chance makes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray
from l2m_ros.workshop.lifting.views import Relief, project

# kind -> how often
KINDS = {"orbit": 0.5, "free": 0.35, "turn": 0.15}
STRENGTHS = (1.0, 0.8, 0.62, 0.48, 0.35, 0.24, 0.15, 0.08)
PROBES = (16, 12)  # pixels per view that estimate the overlap
LEAST_SHARE = 0.05  # of either view: zoom 4 leaves a sixteenth


@dataclass(frozen=True)
class MotionRange:
    """How far the second camera goes at difficulty 1; difficulty 0 keeps a tenth to a quarter."""

    rotation_deg: float = 45.0
    roll_deg: float = 45.0
    zoom: float = 4.0
    translation: float = 0.8  # of the scene's median depth
    least_overlap: float = 0.2

    def at(self, difficulty: float) -> MotionRange:
        return MotionRange(
            rotation_deg=self.rotation_deg * (0.22 + 0.78 * difficulty),
            roll_deg=self.roll_deg * (0.15 + 0.85 * difficulty),
            zoom=self.zoom ** (0.15 + 0.85 * difficulty),
            translation=self.translation * (0.2 + 0.8 * difficulty),
            least_overlap=self.least_overlap + (0.8 - self.least_overlap) * (1 - difficulty),
        )


@dataclass(frozen=True, eq=False)
class Cameras:
    """Intrinsics and poses of a pair."""

    K_a: FloatArray
    K_b: FloatArray
    a_from_grid: FloatArray  # 4x4
    b_from_grid: FloatArray  # 4x4
    overlap: float  # geometric mean of the shares that each view sees of the other

    @property
    def b_from_a(self) -> FloatArray:
        return self.b_from_grid @ se3.inverse(self.a_from_grid)


def rotation(axis_angle: FloatArray) -> FloatArray:
    """4x4 of a rotation vector (radians)."""
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.asarray(axis_angle, np.float64))[0]
    return T


def centred(focal_px: float, width: int, height: int) -> FloatArray:
    """Intrinsics with square pixels and the principal point in the middle."""
    return np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]])


def sample_cameras(
    rng: np.random.Generator, relief: Relief, width: int, height: int, motion: MotionRange
) -> Cameras:
    """Two cameras of width x height whose overlap is near one drawn from [least, 1]."""
    first = first_camera(rng, relief, width, height, motion)
    return second_camera(rng, relief, *first, width, height, motion)


def second_camera(
    rng: np.random.Generator,
    relief: Relief,
    K_a: FloatArray,
    a_from_grid: FloatArray,
    width: int,
    height: int,
    motion: MotionRange,
) -> Cameras:
    """A camera that has moved away from a given one."""
    wanted = rng.uniform(motion.least_overlap, 1.0)
    move = _draw_move(rng, relief, K_a, a_from_grid, width, height, motion)

    probes = _probes(relief, K_a, a_from_grid, width, height)

    def moved(strength: float) -> Cameras:
        K_b, b_from_grid = move.cameras(strength)
        ab, ba = _shares(relief, probes, K_b, b_from_grid, width, height)
        overlap = float(np.sqrt(ab * ba)) if min(ab, ba) >= LEAST_SHARE else 0.0
        return Cameras(K_a, K_b, a_from_grid, b_from_grid, overlap)

    return min(map(moved, STRENGTHS), key=lambda cameras: abs(cameras.overlap - wanted))


def first_camera(
    rng: np.random.Generator, relief: Relief, width: int, height: int, motion: MotionRange
) -> tuple[FloatArray, FloatArray]:
    """A window of the photograph: 45 to 100 % of its size, rolled a little."""
    rows, columns = relief.inverse_depth.shape
    size = rng.uniform(0.45, 1.0)
    fit = min(columns / width, rows / height) * size  # grid pixels per pixel of the view
    K = centred(relief.K[0, 0] / fit, width, height)
    slack = np.maximum(np.array([columns - fit * width, rows - fit * height]) / 2, 0)
    aim = relief.K[:2, 2] + rng.uniform(-1, 1, 2) * slack
    ray = np.linalg.inv(relief.K) @ np.array([*aim, 1.0])
    roll = np.deg2rad(motion.roll_deg) * 0.3 * rng.uniform(-1, 1)
    return K, rotation(np.array([0, 0, roll])) @ _looking_along(ray)


def _looking_along(ray: FloatArray) -> FloatArray:
    """The smallest rotation (4x4, view_from_grid) that puts the ray on the optical axis."""
    ray = ray / np.linalg.norm(ray)
    axis = np.cross(ray, [0, 0, 1.0])
    sine = np.linalg.norm(axis)
    if sine < 1e-12:
        return np.eye(4)
    return rotation(axis / sine * np.arctan2(sine, ray[2]))


@dataclass(frozen=True, eq=False)
class _Move:
    """A motion that can be weakened: strength 1 is the whole, 0 is standing still."""

    K_a: FloatArray
    a_from_grid: FloatArray
    turn: FloatArray  # rotation vector of b_from_a
    pivot: FloatArray | None  # point of a that stays in sight (orbit)
    aim: FloatArray  # where the pivot moves in b: pixels from its place in a
    log_zoom: float
    log_nearer: float  # share of the zoom that is made by walking, not by the lens
    step: FloatArray  # translation of b in a (free motion)

    def cameras(self, strength: float) -> tuple[FloatArray, FloatArray]:
        K_b = self.K_a.copy()
        K_b[[0, 1], [0, 1]] *= np.exp(strength * self.log_zoom)
        b_from_a = rotation(strength * self.turn)
        if self.pivot is None:
            b_from_a[:3, 3] = -b_from_a[:3, :3] @ (strength * self.step)
        else:
            at = (self.K_a @ self.pivot)[:2] / self.pivot[2] + strength * self.aim
            distance = self.pivot[2] * np.exp(-strength * self.log_nearer)
            in_b = np.linalg.inv(K_b) @ np.array([*at, 1.0]) * distance
            b_from_a[:3, 3] = in_b - b_from_a[:3, :3] @ self.pivot
        return K_b, b_from_a @ self.a_from_grid


def _draw_move(
    rng: np.random.Generator,
    relief: Relief,
    K_a: FloatArray,
    a_from_grid: FloatArray,
    width: int,
    height: int,
    motion: MotionRange,
) -> _Move:
    kind = rng.choice(list(KINDS), p=np.array(list(KINDS.values())))
    axis = rng.standard_normal(3)
    axis[2] = 0.0 if rng.random() < 0.5 else axis[2]
    angle = np.deg2rad(motion.rotation_deg) * rng.random() ** 0.5
    # Free motion and turns on the spot lose the scene from sight at large angles.
    turn = axis / max(np.linalg.norm(axis), 1e-9) * angle * (1.0 if kind == "orbit" else 0.6)
    if rng.random() < 0.4:
        turn = turn + [0, 0, np.deg2rad(motion.roll_deg) * rng.uniform(-1, 1)]
    turn *= min(1.0, np.deg2rad(motion.rotation_deg) / max(np.linalg.norm(turn), 1e-9))
    # Most pairs change scale little, some by the whole range.
    log_zoom = np.log(motion.zoom) * rng.random() ** 1.5 * rng.choice([-1.0, 1.0])
    walked = rng.random() if kind == "orbit" else 0.0
    step = rng.standard_normal(3) * (1, 0.6, 1)
    length = motion.translation * rng.random() ** 0.7 / max(np.linalg.norm(step), 1e-9)
    return _Move(
        K_a=K_a,
        a_from_grid=a_from_grid,
        turn=turn,
        pivot=_pivot(rng, relief, K_a, a_from_grid, width, height) if kind == "orbit" else None,
        aim=rng.uniform(-0.25, 0.25, 2) * (width, height),
        log_zoom=log_zoom * (1 - walked),
        log_nearer=log_zoom * walked,
        step=step * length if kind == "free" else np.zeros(3),
    )


def _pivot(
    rng: np.random.Generator,
    relief: Relief,
    K_a: FloatArray,
    a_from_grid: FloatArray,
    width: int,
    height: int,
) -> FloatArray:
    """A point of the surface near the middle of the first view, in its coordinates."""
    pixel = np.array([width, height]) * (0.5 + rng.uniform(-0.25, 0.25, 2))
    ray = a_from_grid[:3, :3].T @ np.linalg.inv(K_a) @ np.array([*pixel, 1.0])
    rows, columns = relief.inverse_depth.shape
    at = relief.K @ ray / max(ray[2], 1e-6)
    column, row = int(np.clip(at[0], 0, columns - 1)), int(np.clip(at[1], 0, rows - 1))
    return a_from_grid[:3, :3] @ (ray / ray[2] / float(relief.inverse_depth[row, column]))


# (x, y, inverse depth, inside) of points of the grid
Probes = tuple[FloatArray, FloatArray, FloatArray, npt.NDArray[np.bool_]]


def _probes(
    relief: Relief, K_a: FloatArray, a_from_grid: FloatArray, width: int, height: int
) -> Probes:
    """What a's pixels on a coarse raster see."""
    columns, rows = PROBES
    u, v = np.meshgrid(
        (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
    )
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    s = relief.K @ a_from_grid[:3, :3].T @ np.linalg.inv(K_a) @ pixels
    x, y = (s[:2] / np.maximum(s[2], 1e-6)).astype(np.float32)
    h, w = relief.inverse_depth.shape
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    row, column = np.clip(y, 0, h - 1).astype(int), np.clip(x, 0, w - 1).astype(int)
    return x, y, relief.inverse_depth[row, column], inside


def _shares(
    relief: Relief,
    probes: Probes,
    K_b: FloatArray,
    b_from_grid: FloatArray,
    width: int,
    height: int,
) -> tuple[float, float]:
    """Share of a's probes that land in b, share of b's cells that they land on."""
    x, y, w, inside = probes
    bx, by, omega = project(relief, x, y, w, K_b, b_from_grid)
    lands = inside & (omega > 0) & (bx >= 0) & (bx < width) & (by >= 0) & (by < height)
    share_ab = float(lands.mean())
    if share_ab == 0:
        return 0.0, 0.0
    hit_x, hit_y = bx[lands], by[lands]
    cells = np.zeros((6, 8), bool)  # coarser than the probes: neighbours leave no gaps at zoom 2
    cells[(hit_y * 6 / height).astype(int), (hit_x * 8 / width).astype(int)] = True
    share_ba = float(cells.mean())
    if share_ab < 0.25:
        # At stronger zoom the probes do leave gaps; then b lies inside of a.
        box = (np.ptp(hit_x) / width + 1 / 8) * (np.ptp(hit_y) / height + 1 / 6)
        share_ba = max(share_ba, min(1.0, float(box)))
    return share_ab, share_ba
