"""The shape of a keyframe's depth map from parallax: a network's is only a first guess.

A network reads a scene's size better than its shape: of one room, a wall is read too near and a
table too far. Where a new keyframe was posed against the one before it, its matches have parallax,
and so depths of their own. They replace the network's shape, region by region:

    log depth'(x) = log depth(x) + f(x)
    f(x) = sum_i w_i k(x - x_i) r_i / (sum_i w_i k(x - x_i) + w_0),  r_i = log(seen_i / read_i)

w_i is one over the variance of r_i, k a bump of REACH_PX, w_0 one over the variance that the
network states for a cell: far from any match nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.rays import focal_px
from l2m_ros.geometry.triangulation import nearest_depths
from l2m_ros.types import Camera, Correspondences, FloatArray, MetricPose

CELL_PX = 16  # of the network's depths, about
REACH_CELLS = 1.0  # sigma of the bump
MATCH_SIGMA_PX = 1.0  # of a dense match
LEAST_PARALLAX_SIGMAS = 4.0
SURFACE_SIGMA = 0.07  # of a cell: a surface within it is no plane
MOST_RATIO = 1.5  # |log|: beyond, it is a false match


@dataclass(frozen=True, eq=False)
class SeenDepths:
    """Depth in the new keyframe, of its own pixels, from the matches with the one before it."""

    px: FloatArray  # (N, 2)
    z_m: FloatArray  # (N,)
    sigma: FloatArray  # (N,) of the log


def seen_depths(
    pairs: Correspondences, before: Camera, now: Camera, pose: MetricPose
) -> SeenDepths:
    """pairs: inliers, of the new keyframe (query) and the one before; pose: of the new in that."""
    T = pose.keyframe_from_camera
    old, new = unproject(before, pairs.keyframe_px), unproject(now, pairs.query_px)
    _, z_m, sine = nearest_depths(old, new @ T[:3, :3].T, T[:3, 3], axis=1)
    sigma = MATCH_SIGMA_PX / focal_px(now) / np.maximum(sine, 1e-9)
    good = (z_m > 0) & (sigma < 1.0 / LEAST_PARALLAX_SIGMAS)
    return SeenDepths(pairs.query_px[good], z_m[good], sigma[good])


def shaped(
    depth: FloatArray, sigma: FloatArray | float, seen: SeenDepths, common: float
) -> tuple[FloatArray, FloatArray]:
    """(depth, sigma) of each pixel (H, W) after `seen`; common: log factor that is corrected apart.

    sigma is of the log, each pixel's own.
    """
    height, width = depth.shape
    size = (max(width // CELL_PX, 1), max(height // CELL_PX, 1))  # of the grid
    own = cv2.resize(np.broadcast_to(np.asarray(sigma, np.float32), depth.shape), size)
    at = (seen.px + 0.5) * (np.array(size) / (width, height)) - 0.5
    column, row = np.clip(np.rint(at), 0, np.array(size) - 1).astype(np.intp).T
    pixel = np.clip(np.rint(seen.px), 0, (width - 1, height - 1)).astype(np.intp)
    read = depth[pixel[:, 1], pixel[:, 0]]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(seen.z_m / read) - common
    good = np.abs(ratio) < MOST_RATIO  # NaN is not
    cell = (row * size[0] + column)[good]
    weight = 1.0 / seen.sigma[good] ** 2
    count = np.bincount(cell, minlength=size[0] * size[1])
    sums = [np.bincount(cell, w, len(count)) for w in (weight, weight * ratio[good])]
    # The matches of a cell show one surface: together they are no surer than SURFACE_SIGMA.
    mean = sums[1] / np.maximum(sums[0], 1e-9)
    least = np.where(sums[0] > 0, 1.0 / (1.0 / np.maximum(sums[0], 1e-9) + SURFACE_SIGMA**2), 0.0)
    near, told = (
        cv2.GaussianBlur(x.reshape(size[::-1]).astype(np.float32), (0, 0), REACH_CELLS)
        for x in (least, least * mean)
    )
    total = near + 1.0 / own**2
    field = cv2.resize(told / total, (width, height), interpolation=cv2.INTER_LINEAR)
    left = cv2.resize(1.0 / np.sqrt(total), (width, height), interpolation=cv2.INTER_LINEAR)
    return (depth * np.exp(field)).astype(np.float32), np.asarray(left)
