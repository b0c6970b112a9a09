"""Poses one after another, with what is known of each.

A pose a_from_b with covariance P errs as t = t0 + dt, R = exp(dphi) R0, where dt and dphi are
along the fixed axes of a and cov(dt, dphi) = P: the convention of PoseWithCovariance. Then

    dt_ac   = dt_ab + dphi_ab x (R_ab t_bc) + R_ab dt_bc
    dphi_ac = dphi_ab + R_ab dphi_bc
"""

from __future__ import annotations

import numpy as np

from l2m_ros.types import FloatArray


def compose(
    a_from_b: FloatArray, P_ab: FloatArray, b_from_c: FloatArray, P_bc: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(a_from_c, its covariance) from two independent poses."""
    J_ab, J_bc = np.eye(6), np.zeros((6, 6))
    R, lever = a_from_b[:3, :3], a_from_b[:3, :3] @ b_from_c[:3, 3]
    J_ab[:3, 3:] = -_cross(lever)
    J_bc[:3, :3] = J_bc[3:, 3:] = R
    return a_from_b @ b_from_c, J_ab @ P_ab @ J_ab.T + J_bc @ P_bc @ J_bc.T


def between(
    odom_from_a: FloatArray, P_a: FloatArray, odom_from_b: FloatArray, P_b: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(a_from_b, its covariance) where P_b grew out of P_a, as dead reckoning's does.

    b's error is a's carried along plus what was added between, so what was added is
    P_b - J P_a J^T, in odom's axes; never below zero in any direction.
    """
    R_a = odom_from_a[:3, :3]
    J = np.eye(6)
    J[:3, 3:] = -_cross(odom_from_b[:3, 3] - odom_from_a[:3, 3])
    values, vectors = np.linalg.eigh(P_b - J @ P_a @ J.T)
    added = (vectors * np.maximum(values, 0.0)) @ vectors.T
    turn = np.kron(np.eye(2), R_a.T)
    return np.linalg.inv(odom_from_a) @ odom_from_b, turn @ added @ turn.T


def widened(P: FloatArray, *, sigma_m: float, sigma_rad: float) -> FloatArray:
    """The covariance after moving unseen, isotropically."""
    return P + np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)


def _cross(v: FloatArray) -> FloatArray:
    x, y, z = v
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
