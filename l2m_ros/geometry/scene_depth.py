"""Depth of single points of a keyframe, from a motion whose length was known.

z(T)     where the two rays of a match meet if the pose is T, of covariance P = L L^T
shapes   d log z / dT L, without their mean: what the scene as a whole may look like instead.
         A turn that was taken for a step to the side bends and tilts it, and a pose that is
         found from its depths errs again.
sigma    the mean, and what else is common to all: the scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray

MIN_POINTS = 20
SAME_PX = 4.0  # a point this near in the keyframe is the same point
AROUND, AROUND_PX = 4, 8.0  # points, and how near, that the depth between them is taken from
ONE_SURFACE = 0.15  # relative: points whose depths differ by more have an edge between them
NEIGHBOUR = 0.03  # relative: depths of such neighbours differ by that, as a whole
MIN_RELIEF = 0.1  # of a wall; the image's width shows the rest
STEP = 0.01  # of a standard deviation: small enough for a derivative


@dataclass(frozen=True, eq=False)
class SceneDepth:
    """Depth of points that a keyframe sees."""

    pixels: FloatArray  # (N, 2)
    depth_m: FloatArray  # (N,)
    sigma: float  # relative, common to all points
    noise: float = 0.0  # relative, of each point
    # (m, N) relative, one standard deviation of what all points have in common besides
    shapes: FloatArray | None = None

    @property
    def far_m(self) -> float:
        """Three quarters are nearer."""
        return float(np.quantile(self.depth_m, 0.75))

    @property
    def relief(self) -> float:
        """Spread of the inverse depth, relative: what shows a motion that a turn does not undo."""
        inverse = 1.0 / self.depth_m
        middle = float(np.median(inverse))
        spread = 1.4826 * float(np.median(np.abs(inverse - middle))) / middle
        return float(np.clip(spread, MIN_RELIEF, 1.0))

    @property
    def shape_sigma(self) -> float:
        """By how much a point may be nearer or further than the others say, in the median."""
        if self.shapes is None:
            return 0.0
        return float(np.median(np.sqrt((self.shapes**2).sum(axis=0))))

    def beside(self, pixels: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """(N,) the known point nearest to each pixel, and whether it is the same point."""
        from scipy.spatial import cKDTree  # 0.1 s to import; needed with odometry only

        apart, index = cKDTree(self.pixels).query(pixels)
        return index, apart < SAME_PX

    def between(self, pixels: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """((N,) depth, NaN = unknown; (m, N) its shapes) between the known points around.

        Interpolated is 1 / z, which is linear on planes.
        """
        from scipy.spatial import cKDTree

        count = min(AROUND, len(self.depth_m))
        apart, index = cKDTree(self.pixels).query(pixels, k=np.arange(1, count + 1))
        near, inverse = apart < AROUND_PX, 1.0 / self.depth_m[index]
        weights = np.where(near, 1.0 / (apart + 1.0) ** 2, 0.0)
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
        middle = (weights * inverse).sum(axis=1)
        high = np.where(near, inverse, -np.inf).max(axis=1)
        low = np.where(near, inverse, np.inf).min(axis=1)
        known = near[:, 0] & (high - low < ONE_SURFACE * middle)
        shapes = None
        if self.shapes is not None:
            shapes = np.where(known, np.einsum("mnk,nk->mn", self.shapes[:, index], weights), 0.0)
        return np.where(known, 1.0 / np.maximum(middle, 1e-12), np.nan), shapes

    def log_ratios(self, other: SceneDepth) -> FloatArray | None:
        """By how much the other is further at each point that both have; None of too few."""
        index, same = self.beside(other.pixels)
        if np.count_nonzero(same) < MIN_POINTS:
            return None
        return np.asarray(np.log(other.depth_m[same] / self.depth_m[index[same]]))

    def log_ratio(self, other: SceneDepth) -> float | None:
        """By how much the other is further, in the median."""
        logs = self.log_ratios(other)
        return None if logs is None else float(np.median(logs))


def shapes_by_motion(
    rays: FloatArray, others: FloatArray, here_from_other: FloatArray, P: FloatArray
) -> tuple[FloatArray, float]:
    """(6, N) relative errors of depths that a motion's covariance P leaves, without their mean.

    Second, the sigma of that mean: of the scale.
    rays, others (N, 3): of the camera whose depths they are, and of the other one. here_from_other:
    4x4, P (6, 6) of it.
    """
    values, vectors = np.linalg.eigh(P)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    depth_m = _meeting_m(rays, others, here_from_other)
    moved = [se3.perturb(here_from_other, STEP * column) for column in root.T]
    shapes = np.array([_meeting_m(rays, others, T) / depth_m - 1.0 for T in moved]) / STEP
    mean = np.median(shapes, axis=1, keepdims=True)
    return np.asarray(shapes - mean), float(np.linalg.norm(mean))


def _meeting_m(rays: FloatArray, others: FloatArray, here_from_other: FloatArray) -> FloatArray:
    """(N,) depth z at which the rays a and b of a match meet: (z a - t) x R b = 0."""
    b, t = others @ here_from_other[:3, :3].T, here_from_other[:3, 3]
    across = np.cross(rays, b)
    return np.asarray((np.cross(t, b) * across).sum(axis=1) / (across**2).sum(axis=1))
