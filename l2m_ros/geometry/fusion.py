"""The motion that suits both the matches and odometry, each as sure as it is.

With (R_v, d) the two-view rotation and direction, Q their covariance (5x5, with what the matches'
errors have in common), and (R_o, t_o) odometry's motion:

    min  |across(d) t / |t| ; log(R R_v^T)|^2_Q  +  |t - t_o|^2  +  |log(R R_o^T)|^2

A yaw and a motion to the side move the pixels of a scene nearly alike; a thousand matches that err
together choose between them badly, and odometry's turn over a short time is better. They are
weighed here as estimates, by their whole covariances: as one more row among a thousand residuals
odometry would have no say.

Odometry's turn chooses the motion, but the pose is claimed no surer for it: whoever fuses both
would count it twice. Where the two disagree by more than they admit, the covariance grows by the
ratio of chi-square over its five degrees of freedom (Birge's): one of them is less sure than it
says, and nobody knows which; and odometry's own motion is admitted, the more the less chance
explains the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.covariance import across_direction
from l2m_ros.geometry.scale import TranslationPrior
from l2m_ros.types import FloatArray

ITERATIONS = 10
SETTLED = 1e-8  # metres and radians
FREEDOM = 5  # 5 + 3 + 3 measurements, 6 parameters


@dataclass(frozen=True, eq=False)
class Fused:
    """pose: 4x4 keyframe_from_camera; covariance: 6x6, without odometry's turn."""

    pose: FloatArray
    covariance: FloatArray
    squared: float  # by which the matches and odometry disagree: chi-square of FREEDOM


def fused(start: FloatArray, view: FloatArray, Q: FloatArray, prior: TranslationPrior) -> Fused:
    """start: 4x4 with the length; view: 4x4 with a unit translation; Q: 6x6 of view."""
    across = across_direction(view[:3, 3])  # (6, 5)
    W = np.linalg.inv(across.T @ Q @ across)
    W_t = np.linalg.inv(prior.covariance)
    W_turn = _turn_weight(prior)
    T = start
    for _ in range(ITERATIONS):
        J, off = _against_view(T, view, across)
        off_m, turned = _against_odometry(T, prior)
        A, b = J.T @ W @ J, -J.T @ W @ off
        A[:3, :3] += W_t
        b[:3] += W_t @ off_m
        P = np.linalg.inv(A)
        A[3:, 3:] += W_turn
        b[3:] += W_turn @ turned
        squared = float(off @ W @ off + off_m @ W_t @ off_m + turned @ W_turn @ turned)
        step = np.linalg.solve(A, b)
        T = se3.perturb(T, step)
        if np.linalg.norm(step) < SETTLED:
            break
    return Fused(T, _admitted(P, T, prior, squared), squared)


def _admitted(P: FloatArray, T: FloatArray, prior: TranslationPrior, squared: float) -> FloatArray:
    """P with room for odometry's own motion, as far as the two disagree.

    Ambiguous matches err along a valley that their covariance shows too narrow, so that a factor
    on it does not reach what odometry says.
    """
    R = T[:3, :3] if prior.rotation is None else prior.rotation
    apart = se3.difference(se3.transform(R, prior.translation_m), T)
    excess = max(0.0, 1.0 - FREEDOM / max(squared, 1e-12))
    return np.asarray(P * max(1.0, squared / FREEDOM) + excess * np.outer(apart, apart))


def _against_view(
    T: FloatArray, view: FloatArray, across: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(5, 6) and (5,): how a motion differs from the two-view direction and rotation."""
    t, sides = T[:3, 3], across[:3, :2].T
    length = float(np.linalg.norm(t))
    direction = t / length
    J = np.zeros((5, 6))
    J[:2, :3] = sides @ (np.eye(3) - np.outer(direction, direction)) / length
    J[2:, 3:] = np.eye(3)
    return J, np.concatenate([sides @ direction, se3.rotation_log(T[:3, :3] @ view[:3, :3].T)])


def _against_odometry(T: FloatArray, prior: TranslationPrior) -> tuple[FloatArray, FloatArray]:
    """How far odometry would move the pose, and turn it."""
    turned = np.zeros(3)
    if prior.rotation is not None:
        turned = se3.rotation_log(prior.rotation @ T[:3, :3].T)
    return prior.translation_m - T[:3, 3], turned


def _turn_weight(prior: TranslationPrior) -> FloatArray:
    """(3, 3) information of odometry's turn; zeros where it is not known."""
    P = prior.rotation_covariance
    if prior.rotation is None or P is None:
        return np.zeros((3, 3))
    return np.asarray(np.linalg.inv(P))
