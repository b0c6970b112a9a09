"""Composition of uncertain poses, against numeric derivatives and Monte Carlo."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from l2m_ros.tracking import chain


def pose(seed):
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.6, 3)).as_matrix()
    T[:3, 3] = rng.normal(0, 2, 3)
    return T


def covariance(seed, size=1e-4):
    A = np.random.default_rng(seed).normal(size=(6, 6))
    return size * (A @ A.T)


def disturbed(T, error):
    out = T.copy()
    out[:3, 3] += error[:3]
    out[:3, :3] = Rotation.from_rotvec(error[3:]).as_matrix() @ T[:3, :3]
    return out


def error_of(T, truth):
    turn = Rotation.from_matrix(T[:3, :3] @ truth[:3, :3].T).as_rotvec()
    return np.concatenate([T[:3, 3] - truth[:3, 3], turn])


def test_compose_against_numeric_derivatives():
    A, B, P_A, P_B = pose(1), pose(2), covariance(3), covariance(4)
    h = 1e-6
    J_A = np.stack([error_of(disturbed(A, h * e) @ B, A @ B) / h for e in np.eye(6)], axis=1)
    J_B = np.stack([error_of(A @ disturbed(B, h * e), A @ B) / h for e in np.eye(6)], axis=1)
    T, P = chain.compose(A, P_A, B, P_B)
    assert pytest.approx(A @ B) == T
    assert pytest.approx(J_A @ P_A @ J_A.T + J_B @ P_B @ J_B.T, rel=1e-4, abs=1e-9) == P


def test_widened_adds_isotropic_variance():
    P = covariance(12)
    wider = chain.inflated(P, sigma_m=2.0, sigma_rad=0.5)
    assert wider - P == pytest.approx(np.diag([4.0] * 3 + [0.25] * 3))
