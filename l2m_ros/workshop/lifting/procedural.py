"""Procedural depth: worlds that a photograph is painted on.

Correspondences are exact whatever the depth, so a matcher can learn parallax without a depth
network. What it needs is variety: planes and rooms (inverse depth is affine in the pixel, so a
convex room is the maximum of its planes), ground before a far wall, smooth fields, and objects
in front whose outlines follow the edges of the photograph.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.views import affine

NEAREST, FARTHEST = 8.0, 0.03  # bounds of inverse depth, median 1
STEEPEST = 5.0  # largest over median inverse depth of a layout; beyond, floors tear apart
MAX_OBJECTS = 5

# (rng, width, height, K, strength) -> inverse depth (height, width) at any scale
Layout = Callable[[np.random.Generator, int, int, FloatArray, float], FloatArray]


def procedural_inverse_depth(
    rng: np.random.Generator, rgb: ByteArray, K: FloatArray, strength: float = 1.0
) -> FloatArray:
    """(h, w) float32 inverse depth of median 1 for a photograph of camera K.

    `strength` in (0, 1] scales slopes, jumps and bumps.
    """
    names = list(LAYOUTS)
    chances = np.array([LAYOUTS[name][0] for name in names])
    layout = LAYOUTS[names[rng.choice(len(names), p=chances / chances.sum())]][1]
    height, width = rgb.shape[:2]
    w = _calm(rng, layout, width, height, K, strength)
    if rng.random() < 0.5:
        w = w * smooth_field(rng, width, height, 0.25 * strength)
    for _ in range(int((MAX_OBJECTS + 1) * rng.random() ** 1.5)):
        w = _with_object(rng, rgb, w, strength)
    w = np.clip(w / np.float32(np.median(w[::4, ::4])), FARTHEST, NEAREST).astype(np.float32)
    return w


def _calm(
    rng: np.random.Generator,
    layout: Layout,
    width: int,
    height: int,
    K: FloatArray,
    strength: float,
) -> FloatArray:
    """The layout at median 1, drawn again (flatter each time) while a part of it comes too near."""
    for attempt in range(4):
        w = layout(rng, width, height, K, strength * 0.8**attempt)
        w = w / np.float32(np.median(w[::4, ::4]))
        if w.max() < STEEPEST:
            break
    return np.minimum(w, np.float32(STEEPEST))


def smooth_field(
    rng: np.random.Generator, width: int, height: int, sigma: float
) -> npt.NDArray[np.float32]:
    """exp of smooth noise: hills of a quarter to a twentieth of the image."""
    cells = int(rng.integers(3, 14))
    coarse = rng.standard_normal((max(2, cells * 3 // 4), cells)).astype(np.float32)
    # Finer hills are lower: their slope, and so their parallax, stays alike.
    coarse *= np.float32(sigma * rng.random() * min(1.0, 5 / cells))
    return np.exp(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def plane(
    normal: FloatArray, distance: float, K: FloatArray, width: int, height: int
) -> FloatArray:
    """Inverse depth of the plane normal . X = distance over the pixel grid."""
    return affine(normal @ np.linalg.inv(K) / distance, width, height)


def _tilt(rng: np.random.Generator, pitch: float, yaw: float, roll: float) -> FloatArray:
    """Rotation with each angle drawn up to the bound given (radians)."""
    a, b, c = rng.uniform(-1, 1, 3) * (pitch, yaw, roll)
    return cv2.Rodrigues(np.array([a, 0, 0]))[0] @ (
        cv2.Rodrigues(np.array([0, b, 0.0]))[0] @ cv2.Rodrigues(np.array([0, 0, c]))[0]
    )


def _slope(
    rng: np.random.Generator, width: int, height: int, K: FloatArray, strength: float
) -> FloatArray:
    """One plane, up to 65 degrees from frontal."""
    angle, turn = np.deg2rad(65) * strength * rng.random(), rng.uniform(0, 2 * np.pi)
    normal = np.array([np.sin(angle) * np.cos(turn), np.sin(angle) * np.sin(turn), np.cos(angle)])
    return np.maximum(plane(normal, 1.0, K, width, height), np.float32(0.05))


def _room(
    rng: np.random.Generator, width: int, height: int, K: FloatArray, strength: float
) -> FloatArray:
    """A box seen from inside: floor, ceiling, side walls, back wall; also a corridor."""
    depth = np.exp(rng.uniform(np.log(1.0), np.log(1.0 + 4.0 * strength)))
    floor, ceiling = rng.uniform(0.35, 1.2, 2)
    left, right = rng.uniform(0.4, 2.0, 2)
    R = _tilt(rng, np.deg2rad(25), np.deg2rad(45), np.deg2rad(12))
    faces = [
        ((0, 0, 1), depth),
        ((0, 1, 0), floor),
        ((0, -1, 0), ceiling),
        ((-1, 0, 0), left),
        ((1, 0, 0), right),
    ]
    layers = [plane(R @ np.array(n, float), d, K, width, height) for n, d in faces]
    return np.maximum(np.maximum.reduce(layers), np.float32(0.05))


def _street(
    rng: np.random.Generator, width: int, height: int, K: FloatArray, strength: float
) -> FloatArray:
    """Ground, something far behind it, and sometimes a facade along one side."""
    R = _tilt(rng, np.deg2rad(20), np.deg2rad(25), np.deg2rad(6))
    ground = plane(R @ np.array([0, 1.0, 0]), rng.uniform(0.3, 0.8), K, width, height)
    far = 1.0 / np.exp(rng.uniform(np.log(1.5), np.log(1.5 + 8.5 * strength)))
    w = np.maximum(ground, np.float32(far))
    if rng.random() < 0.6:
        side = np.array([rng.choice([-1.0, 1.0]), 0, 0])
        w = np.maximum(w, plane(R @ side, rng.uniform(0.5, 2.0), K, width, height))
    return w


def _hills(
    rng: np.random.Generator, width: int, height: int, K: FloatArray, strength: float
) -> FloatArray:
    """A smooth field over a gentle slope."""
    w = _slope(rng, width, height, K, 0.6 * strength)
    return w * smooth_field(rng, width, height, 0.5 * strength)


# name -> (how often, maker)
LAYOUTS: dict[str, tuple[float, Layout]] = {
    "room": (0.35, _room),
    "street": (0.25, _street),
    "slope": (0.2, _slope),
    "hills": (0.2, _hills),
}


def _with_object(
    rng: np.random.Generator, rgb: ByteArray, w: FloatArray, strength: float
) -> FloatArray:
    """Something in front: a segment of the photograph, or a shape, on its own plane."""
    mask = _segment(rng, rgb) if rng.random() < 0.65 else _shape(rng, w.shape[1], w.shape[0])
    area = np.count_nonzero(mask)
    if not 0.004 * mask.size < area < 0.45 * mask.size:
        return w
    inside = mask > 0
    behind = float(np.quantile(w[inside][::7], 0.9))
    level = min(behind * (1.03 + 1.2 * strength * rng.random() ** 2), NEAREST)
    front = affine(
        np.array([*(rng.normal(0, 0.3 * strength, 2) / w.shape[1]), 1.0]), w.shape[1], w.shape[0]
    )
    front = front * np.float32(level / front[inside].mean())
    if rng.random() < 0.4:
        front = front * _bulge(rng, mask, strength)
    return np.where(inside, np.maximum(front, w), w)


def _bulge(rng: np.random.Generator, mask: ByteArray, strength: float) -> FloatArray:
    """Round like a ball: the square root of the distance from the outline."""
    inner = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    round_ = np.sqrt(inner / np.float32(max(float(inner.max()), 1.0)))
    return cv2.GaussianBlur(1.0 + np.float32(0.25 * strength * rng.random()) * round_, (0, 0), 2)


def _segment(rng: np.random.Generator, rgb: ByteArray) -> ByteArray:
    """A connected region of like colour around a random pixel: its outline follows edges."""
    height, width = rgb.shape[:2]
    small = cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    smooth = cv2.blur(small, (3, 3))
    mask = np.zeros((small.shape[0] + 2, small.shape[1] + 2), np.uint8)
    seed = (int(rng.integers(small.shape[1])), int(rng.integers(small.shape[0])))
    tolerance = (float(rng.uniform(10, 45)),) * 3
    flags = 4 | (255 << 8) | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE
    cv2.floodFill(smooth, mask, seed, 0, tolerance, tolerance, flags)
    # Ragged regions would tear the view into shreds; things in front are compact.
    compact = cv2.medianBlur(np.ascontiguousarray(mask[1:-1, 1:-1]), 7)
    return (cv2.resize(compact, (width, height)) > 127).view(np.uint8)


def _shape(rng: np.random.Generator, width: int, height: int) -> ByteArray:
    """A turned rectangle or ellipse."""
    mask = np.zeros((height, width), np.uint8)
    centre = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    axes = rng.uniform(0.06, 0.4, 2) * width
    box = (centre, (float(axes[0]), float(axes[1])), float(rng.uniform(0, 180)))
    if rng.random() < 0.5:
        cv2.ellipse(mask, box, 1, -1)
    else:
        cv2.fillPoly(mask, [cv2.boxPoints(box).astype(np.int32)], 1)
    return mask
