"""Errors of poses, homographies and matches against the truth, and what they sum up to.

AUC as the literature counts it (SuperGlue, glue-factory): the area under recall(error), by the
trapezoid rule between the errors themselves, up to a threshold and divided by it. A pair without
a pose has an infinite error, so it lowers every figure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.types import FloatArray
from l2m_ros.workshop.evaluation.scenes import Pair, Size, View

STANDING_STILL = 1e-9  # a shorter true translation has no direction to be wrong in
HIDDEN_RATIO = 0.05  # a surface nearer than the point by this share hides it


def auc_percent(errors: Sequence[float] | FloatArray, thresholds: Sequence[float]) -> list[float]:
    """Area under the recall curve up to each threshold, in percent; failures are infinite."""
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    recall = np.concatenate([[0.0], np.arange(1, len(ordered) + 1) / max(len(ordered), 1)])
    ordered = np.concatenate([[0.0], ordered])
    areas = []
    for threshold in thresholds:
        last = int(np.searchsorted(ordered, threshold))
        x = np.append(ordered[:last], threshold)
        y = np.append(recall[:last], recall[last - 1])
        areas.append(100.0 * float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum()) / threshold)
    return areas


def rotation_error_deg(estimate: FloatArray, truth: FloatArray) -> float:
    """Angle of the turn between two 4x4."""
    return float(np.degrees(se3.angle_rad(turn_between(estimate, truth))))


def turn_between(estimate: FloatArray, truth: FloatArray) -> FloatArray:
    """R_estimate R_truth^T, about the axes of the frame that the poses are expressed in."""
    return np.asarray(estimate[:3, :3] @ truth[:3, :3].T)


def direction_error_deg(estimate: FloatArray, truth: FloatArray) -> float:
    """Angle between two translations, 0 to 180: to move backwards is wrong.

    0 where the truth stands still; infinite where the estimate does and the truth does not.
    """
    a, b = estimate[:3, 3], truth[:3, 3]
    if np.linalg.norm(b) < STANDING_STILL:
        return 0.0
    if np.linalg.norm(a) < STANDING_STILL:
        return float("inf")
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def nees(estimate: FloatArray, covariance: FloatArray, truth: FloatArray) -> float:
    """e^T P^-1 e over x, y, z and rotation about the fixed axes: 6 on average where P is honest."""
    turn = se3.rotation_log(turn_between(estimate, truth))
    error = np.concatenate([estimate[:3, 3] - truth[:3, 3], turn])
    return float(error @ np.linalg.pinv(covariance, hermitian=True) @ error)


def nees_interval(share: float = 0.95) -> tuple[float, float]:
    """Where the NEES of one honest pose lies with this probability."""
    tail = (1.0 - share) / 2
    return float(chi2.ppf(tail, 6)), float(chi2.ppf(1 - tail, 6))


def corner_error_px(estimate: FloatArray, truth: FloatArray, size: Size) -> float:
    """Mean distance in b of image a's four corner pixels under two homographies."""
    w, h = size
    corners = np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], dtype=np.float64)
    gap = mapped(estimate, corners) - mapped(truth, corners)
    return float(np.linalg.norm(gap, axis=1).mean())


def mapped(H: FloatArray, px: FloatArray) -> FloatArray:
    """(N, 2) pixels through a homography; NaN at its horizon."""
    moved = np.column_stack([px, np.ones(len(px))]) @ np.asarray(H).T
    with np.errstate(divide="ignore", invalid="ignore"):
        out = moved[:, :2] / moved[:, 2:]
    return np.where(np.isfinite(out), out, np.nan)


def true_keyframe_px(query_px: FloatArray, pair: Pair, a: View, b: View) -> FloatArray | None:
    """Where pixels of a lie in b, by the homography between these views or by a's depth.

    None = the scene does not know. NaN = the depth is unknown there. Infinity = the point is not
    to be seen in b (behind it, beside the image, hidden), so that no match of it can be right.
    """
    if pair.homography is not None:
        truth = mapped(pair.homography, query_px)
        impossible = ~visible_on(truth, b.size)
    elif pair.b_from_a is None or a.depth is None or a.camera is None or b.camera is None:
        return None
    else:
        z = nearest_depth(a.depth, query_px)
        points = unproject(a.camera, query_px) * z[:, None]
        in_b = points @ pair.b_from_a[:3, :3].T + pair.b_from_a[:3, 3]
        truth = project(b.camera, in_b)
        hidden = ~visible_on(truth, b.size) | _hidden(truth, in_b[:, 2], b.depth)
        impossible = np.isfinite(z) & hidden
    truth[impossible] = np.inf
    return truth


def nearest_depth(depth: FloatArray, px: FloatArray) -> FloatArray:
    """(N,) metres at the nearest pixel; NaN where unknown or off the image."""
    z = np.full(len(px), np.nan)
    inside = visible_on(px, (depth.shape[1], depth.shape[0]))
    column, row = np.rint(px[inside]).astype(int).T
    z[inside] = depth[row, column]
    return z


def _hidden(px: FloatArray, z: FloatArray, depth: FloatArray | None) -> npt.NDArray[np.bool_]:
    """Where b sees a nearer surface at these pixels; unknown depth hides nothing."""
    if depth is None:
        return np.zeros(len(px), dtype=bool)
    return np.asarray(nearest_depth(depth, px) < z * (1 - HIDDEN_RATIO))


def visible_on(px: FloatArray, size: Size) -> npt.NDArray[np.bool_]:
    """Which pixels are finite and on the image."""
    u, v = px.T
    return np.asarray((u > -0.5) & (u < size[0] - 0.5) & (v > -0.5) & (v < size[1] - 0.5))


def match_errors_px(keyframe_px: FloatArray, truth_px: FloatArray) -> FloatArray:
    """(N,) distances in b; infinite where the point is not to be seen in b, NaN where unknown."""
    impossible = np.asarray(np.isinf(truth_px)).any(axis=1)
    finite = np.where(impossible[:, None], 0.0, truth_px)
    return np.where(impossible, np.inf, np.linalg.norm(keyframe_px - finite, axis=1))


def precision_percent(errors_px: FloatArray, thresholds: Sequence[float]) -> list[float] | None:
    """Of the matches whose truth is known: how many lie within each threshold."""
    known = np.asarray(errors_px)[np.isfinite(errors_px) | np.isinf(errors_px)]
    if not len(known):
        return None
    return [100.0 * float((known <= t).mean()) for t in thresholds]
