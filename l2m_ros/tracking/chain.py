"""Poses one after another, with what is known of each; errors as `geometry.se3` has them."""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray


def compose(
    a_from_b: FloatArray, P_ab: FloatArray, b_from_c: FloatArray, P_bc: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(a_from_c, its covariance) from two independent poses."""
    return a_from_b @ b_from_c, se3.compose_covariance(a_from_b, P_ab, b_from_c, P_bc)


def between(
    odom_from_a: FloatArray, P_a: FloatArray, odom_from_b: FloatArray, P_b: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(a_from_b, its covariance) where P_b grew out of P_a, as dead reckoning's does.

    b's error is a's carried along plus what was added between, so what was added is
    P_b - J P_a J^T, in odom's axes; never below zero in any direction.
    """
    R_a = odom_from_a[:3, :3]
    J = np.eye(6)
    J[:3, 3:] = -se3.skew(odom_from_b[:3, 3] - odom_from_a[:3, 3])
    values, vectors = np.linalg.eigh(P_b - J @ P_a @ J.T)
    added = (vectors * np.maximum(values, 0.0)) @ vectors.T
    turn = np.kron(np.eye(2), R_a.T)
    return np.linalg.inv(odom_from_a) @ odom_from_b, turn @ added @ turn.T


def inflated(P: FloatArray, *, sigma_m: float, sigma_rad: float) -> FloatArray:
    """The covariance after moving unseen, isotropically."""
    return P + np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)
