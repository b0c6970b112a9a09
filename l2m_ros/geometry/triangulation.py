"""Triangulation: depth, distance from the epipolar line, and whether a depth is plausible."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.rays import RayPairs, homogeneous
from l2m_ros.geometry.residuals import cross
from l2m_ros.types import FloatArray

USUAL_SHARE, NEARER = 0.9, 2.0  # no match is believed twice as near as the nearest tenth


def triangulated_depth(pairs: RayPairs, T: FloatArray) -> FloatArray:
    """(N,) depth in the keyframe, in units of |t|, where the rays pass each other nearest."""
    k, v = homogeneous(pairs.keyframe), T[:3, :3] @ homogeneous(pairs.query)
    return nearest_depths(k, v, T[:3, 3:4], axis=0)[0]


def behind_a_camera(pairs: RayPairs, T: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) whether the rays pass each other behind the keyframe's camera or the query's."""
    k, v = homogeneous(pairs.keyframe), T[:3, :3] @ homogeneous(pairs.query)
    in_keyframe, in_query, _ = nearest_depths(k, v, T[:3, 3:4], axis=0)
    return (in_keyframe < 0) | (in_query < 0)


def nearest_depths(
    k: FloatArray, v: FloatArray, t: FloatArray, axis: int = -1
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(a, b, sine) of two rays each: a k and t + b v are nearest; sine of the angle between them.

    The axis of 3 is named; the others are any that fit.
    """
    kk, vv, kv = (k * k).sum(axis), (v * v).sum(axis), (k * v).sum(axis)
    kt, vt = (k * t).sum(axis), (v * t).sum(axis)
    det = np.maximum(kk * vv - kv * kv, 1e-12)
    return (vv * kt - kv * vt) / det, (kv * kt - kk * vt) / det, np.sqrt(det / (kk * vv))


def epipolar_distance(pairs: RayPairs, T: FloatArray) -> FloatArray:
    """(N,) in the keyframe, normalised units of the optical axis."""
    line = se3.skew(T[:3, 3]) @ T[:3, :3] @ homogeneous(pairs.query)
    raw = (homogeneous(pairs.keyframe) * line).sum(axis=0)
    return np.asarray(np.abs(raw) / np.hypot(line[0], line[1]) / pairs.stretch[1])


def plausible_depth(
    pairs: RayPairs, T: FloatArray, inlier: npt.NDArray[np.bool_], tolerance: float
) -> npt.NDArray[np.bool_]:
    """(N,) whether a match lies at a depth like the others: in front, and not far too near.

    A random match that happens to lie near its epipolar line has a large parallax, and with it a
    leverage that a hundred true matches do not outweigh: two or three of them in 1,000 matches
    spoil the direction (error 1.4 times the bound, covariance 5 times too small).
    """
    k, v = homogeneous(pairs.keyframe), T[:3, :3] @ homogeneous(pairs.query)
    kt, kv = cross(k, T[:3, 3:4]), cross(k, v)
    length = np.maximum((kt * kt).sum(axis=0), 1e-300)
    inverse_depth = -(kv * kt).sum(axis=0) / length
    slack = 2.0 * tolerance * np.linalg.norm(v, axis=0) / np.sqrt(length)
    ahead = inlier & (inverse_depth > 0)
    if not ahead.any():
        return np.ones(len(pairs), dtype=np.bool_)
    nearest = NEARER * float(np.quantile(inverse_depth[ahead], USUAL_SHARE))
    return np.asarray((inverse_depth > -slack) & (inverse_depth < nearest + slack))
