"""Does a metric pose agree with what the same matches say without any depth?

Two-view geometry knows the rotation and the direction of the translation. With h(x) those of a
metric pose x, J its derivative, P and Q the covariances of both:

    nu = h(two views) - h(x)        squared = nu^T (J P J^T + Q)^-1 nu        5 degrees of freedom
    apart = P J^T (J P J^T)^-1 nu   how far the pose would have to move to agree

The two share their matches, so P and Q are not independent; the sum errs on the careful side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.covariance import across_direction
from l2m_ros.types import FloatArray

CHI2_999_5 = 20.52  # 99.9 % of chi-square with five degrees of freedom
CHI2_999_6 = 22.46  # with six


def squared_apart(one: FloatArray, P: FloatArray, other: FloatArray, Q: FloatArray) -> float:
    """Chi-square of two estimates of one motion, 4x4, with their covariances: six degrees."""
    apart = se3.difference(other, one)
    return float(apart @ np.linalg.solve(P + Q, apart))


@dataclass(frozen=True, eq=False)
class Disagreement:
    """Between a metric pose and the two-view geometry of its matches."""

    squared: float  # in standard deviations, five degrees of freedom
    apart: FloatArray  # (6,) how far the pose would have to move


def disagreement(
    pose: FloatArray, P: FloatArray, two_view: FloatArray, Q: FloatArray
) -> Disagreement:
    """pose, two_view: 4x4 keyframe_from_camera, the latter with a unit translation; P, Q: 6x6."""
    t, direction = pose[:3, 3], two_view[:3, 3]
    length = max(float(np.linalg.norm(t)), 1e-9)
    across = across_direction(t)[:3, :2].T  # (2, 3)
    J = np.zeros((5, 6))
    J[:3, 3:] = np.eye(3)
    J[3:, :3] = across / length
    turned = se3.difference(_only_rotation(two_view), _only_rotation(pose))[3:]
    nu = np.concatenate([turned, _angle_between(across, t / length, direction)])
    to_five = np.zeros((5, 6))
    to_five[:3, 3:], to_five[3:, :3] = np.eye(3), across
    own = J @ P @ J.T
    squared = float(nu @ np.linalg.solve(own + to_five @ Q @ to_five.T, nu))
    return Disagreement(squared, P @ J.T @ np.linalg.lstsq(own, nu, rcond=1e-9)[0])


def _only_rotation(T: FloatArray) -> FloatArray:
    return se3.transform(T[:3, :3], np.zeros(3))


def _angle_between(across: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """(2,) the angle from a to b, along the two axes across a."""
    off = across @ b
    sine = float(np.linalg.norm(off))
    angle = float(np.arctan2(sine, a @ b))
    return np.asarray(off * angle / sine if sine > 1e-12 else np.array([angle, 0.0]))
