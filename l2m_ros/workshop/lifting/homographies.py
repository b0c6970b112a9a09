"""Plain homographies: a share of the pairs are two windows of a flat photograph."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import FloatArray
from l2m_ros.workshop.lifting.views import FAR_AWAY_PX, BoolArray, affine

# How far a window's corners move, as a share of its size: first view, further views.
SHAKE_FIRST, SHAKE = 0.12, 0.3
CANDIDATES = 8
Size = tuple[int, int]  # (width, height)


def random_homographies(
    rng: np.random.Generator,
    size: Size,
    photo: Size,
    hard: float,
    least_overlap: float,
    count: int = 2,
) -> list[FloatArray]:
    """photo_from_view of `count` views; each overlaps the first near a value drawn first."""
    first = random_homography(rng, size, photo, SHAKE_FIRST * hard)
    maps = [first]
    for _ in range(count - 1):
        wanted = rng.uniform(least_overlap, 1.0)
        drawn = [random_homography(rng, size, photo, SHAKE * hard) for _ in range(CANDIDATES)]
        off = [abs(overlap_of(first, H, size, photo) - wanted) for H in drawn]
        maps.append(drawn[int(np.argmin(off))])
    return maps


def random_homography(
    rng: np.random.Generator, size: Size, photo: Size, shake: float
) -> FloatArray:
    """photo_from_view: a window of the photograph whose corners are turned, scaled, shaken."""
    width, height = size
    zoom = np.exp(-1.2 * rng.random() * (shake + 0.1) / SHAKE)
    window = np.array(size) * min(photo[0] / width, photo[1] / height) * zoom
    turn = rng.uniform(-1, 1) * np.deg2rad(45) * min(1.0, shake / SHAKE)
    R = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shaken = (CORNERS + rng.uniform(-shake, shake, (4, 2))) * window @ R.T
    slack = np.maximum(np.array(photo) - window, 0) / 2
    centre = np.array(photo) / 2 - 0.5 + rng.uniform(-1, 1, 2) * slack
    return cv2.getPerspectiveTransform(
        _outline(size).astype(np.float32), (shaken + centre).astype(np.float32)
    )


CORNERS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def _outline(size: Size) -> FloatArray:
    """(4, 2) corners of the image's area (pixel centres at integers)."""
    return (CORNERS + 0.5) * size - 0.5


def overlap_of(
    photo_from_a: FloatArray, photo_from_b: FloatArray, size: Size, photo: Size
) -> float:
    """Area of the photograph that both views show, over the geometric mean of their areas."""
    a, b = (
        cv2.perspectiveTransform(_outline(size)[None], H)[0].astype(np.float32)
        for H in (photo_from_a, photo_from_b)
    )
    both, polygon = cv2.intersectConvexConvex(a, b)
    if both <= 0:
        return 0.0
    both, _ = cv2.intersectConvexConvex(polygon, _outline(photo).astype(np.float32))
    return float(both / np.sqrt(cv2.contourArea(a) * cv2.contourArea(b)))


def mapped(H: FloatArray, width: int, height: int) -> npt.NDArray[np.float32]:
    """(H, W, 2) image of the pixel grid under a homography."""
    x, y, z = (affine(row, width, height) for row in H / H[2, 2])
    over_z = np.float32(1.0) / np.maximum(z, np.float32(1e-6))
    out = np.stack([x * over_z, y * over_z], axis=-1)
    return np.clip(out, -FAR_AWAY_PX, FAR_AWAY_PX, out=out)


def within(points: npt.NDArray[np.float32], width: int, height: int) -> BoolArray:
    """True where a pixel (..., 2) lies in an image of this size."""
    x, y = points[..., 0], points[..., 1]
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def planar_warp(
    b_from_a: FloatArray, source_px: npt.NDArray[np.float32], photo: Size
) -> tuple[npt.NDArray[np.float32], BoolArray, BoolArray]:
    """(warp, visible, unknown) of a view whose pixels show `source_px` of the photograph."""
    height, width = source_px.shape[:2]
    warp = mapped(b_from_a, width, height)
    visible = within(warp, width, height) & within(source_px, *photo)
    return warp, visible, np.zeros((height, width), bool)
