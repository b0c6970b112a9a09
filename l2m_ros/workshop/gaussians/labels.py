"""Correspondences between two views of a scene, from a depth map of each.

The point that a pixel of a shows is moved into b. It is visible there if b's depth says the
same within SAME_SURFACE; it is hidden for sure if b shows something more than HIDDEN nearer, or
outside of b. Between the two there is no verdict, nor at a's depth jumps, where a pixel shows
two surfaces, nor where a or b is not sure of its depth: where the planes that a pixel blends lie
apart (`rendering.surely`). Such Gaussians fit no common surface: views saw it at different depths.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.camera import pixels_of, rays
from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.model import PosedCamera

BoolArray = npt.NDArray[np.bool_]
SAME_SURFACE, HIDDEN = 0.01, 0.1  # of the depth
APART = 0.01  # deviation of the depth of a pixel's planes, of its depth, beyond which it is unsure
JUMP = 0.015  # second difference of inverse depth over inverse depth: 0 on planes
OUTSIDE_PX = 1e6  # stands for "behind b": beyond any image


@dataclass(frozen=True, eq=False)
class Labels:
    """Of every pixel of a."""

    warp_px: FloatArray  # (H, W, 2) in b, finite everywhere
    visible: BoolArray  # (H, W)
    unknown: BoolArray  # (H, W)


def points_in(depth: FloatArray, a: PosedCamera, b: PosedCamera) -> FloatArray:
    """(H, W, 3): what a's pixels show, in b's frame."""
    b_from_a = b.camera_from_world @ a.world_from_camera
    points = rays(a.camera) * depth.astype(np.float64)[..., None]
    return points @ b_from_a[:3, :3].T + b_from_a[:3, 3]


def label_between(
    depth_a: FloatArray,
    a: PosedCamera,
    depth_b: FloatArray,
    b: PosedCamera,
    sure_a: BoolArray | None = None,
    sure_b: BoolArray | None = None,
) -> Labels:
    """Depth maps are (H, W) with 0 or NaN = unknown; `sure` are (H, W): of its depth."""
    known = np.nan_to_num(depth_a) > 0
    points = points_in(np.where(known, depth_a, 1.0), a, b)
    z = points[..., 2]
    front = z > 1e-6
    warp = pixels_of(b.camera, points[..., :2] / np.where(front, z, 1.0)[..., None])
    warp = np.where((front & known)[..., None], np.clip(warp, -OUTSIDE_PX, OUTSIDE_PX), OUTSIDE_PX)
    width, height = b.size
    inside = known & front & (warp >= 0).all(-1) & (warp <= (width - 1, height - 1)).all(-1)
    shown = depth_at(depth_b, warp)
    ratio = np.where(shown > 0, shown, np.inf) / np.where(front, z, 1.0) - 1
    visible = inside & (shown > 0) & (np.abs(ratio) < SAME_SURFACE) & ~at_jump(depth_a)
    if sure_a is not None:
        visible &= sure_a
    if sure_b is not None:
        column, row = (np.where(inside, warp[..., i], 0).round().astype(np.intp) for i in (0, 1))
        visible &= sure_b[row, column]
    hidden = known & ~inside | inside & (shown > 0) & (ratio < -HIDDEN)
    return Labels(warp.astype(np.float32), visible, ~visible & ~hidden)


def seen_by(
    depth_a: FloatArray, a: PosedCamera, others: Iterable[tuple[FloatArray, PosedCamera]]
) -> BoolArray:
    """(H, W): where a's point lies in the frame of another view whose depth does not deny it.

    Depths are (H, W) with 0 or NaN = unknown; what is unknown is not seen.
    """
    known = np.nan_to_num(depth_a) > 0
    seen = np.zeros(depth_a.shape, bool)
    for depth_b, b in others:
        left = known & ~seen
        points = points_in(np.where(known, depth_a, 1.0), a, b)[left]
        z = points[:, 2]
        front = z > 1e-6
        px = pixels_of(b.camera, points[:, :2] / np.where(front, z, 1.0)[:, None])
        shown = depth_at(depth_b, np.where(front[:, None], px, -1.0))
        seen[left] = np.abs(shown / np.where(front, z, 1.0) - 1) < HIDDEN
    return seen


def depth_at(depth: FloatArray, px: FloatArray) -> FloatArray:
    """(...,) depth at (..., 2) pixels: inverse depth is interpolated, which is exact on planes.

    0 where one of the four is unknown or they belong to two surfaces.
    """
    height, width = depth.shape
    inside = (px >= 0).all(-1) & (px <= (width - 1, height - 1)).all(-1)
    x, y = np.where(inside, px[..., 0], 0.0), np.where(inside, px[..., 1], 0.0)
    column = np.minimum(x.astype(np.intp), width - 2)
    row = np.minimum(y.astype(np.intp), height - 2)
    fx, fy = x - column, y - row
    known = np.nan_to_num(depth) > 0
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0)
    four = [inverse[row + j, column + i] for j in (0, 1) for i in (0, 1)]
    low, high = np.minimum.reduce(four), np.maximum.reduce(four)
    upper = four[0] * (1 - fx) + four[1] * fx
    lower = four[2] * (1 - fx) + four[3] * fx
    value = upper * (1 - fy) + lower * fy
    whole = inside & (low > 0) & (high < (1 + HIDDEN) * low)
    return np.where(whole, 1.0 / np.where(whole, value, 1.0), 0.0)


def at_jump(depth: FloatArray) -> BoolArray:
    """(H, W): the pixel or a neighbour lies on a depth jump, or next to unknown depth."""
    known = np.nan_to_num(depth) > 0
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0)
    bend = np.zeros_like(inverse)
    bend[:, 1:-1] = np.abs(inverse[:, 2:] + inverse[:, :-2] - 2 * inverse[:, 1:-1])
    vertical = np.abs(inverse[2:] + inverse[:-2] - 2 * inverse[1:-1])
    bend[1:-1] = np.maximum(bend[1:-1], vertical)
    jump = ~known | (bend > JUMP * inverse)
    return cv2.dilate(jump.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
