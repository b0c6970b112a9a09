"""Closed forms of SE(3) against numeric derivatives and series."""

import numpy as np
import pytest
import scipy.linalg

from l2m_ros.geometry import se3

rng = np.random.default_rng(0)
TWISTS = [
    np.zeros(6),
    np.array([1.0, -2, 3, 1e-9, 2e-9, 0]),
    np.array([1.0, -2, 3, 9.9e-5, 0, 0]),
    np.array([1.0, -2, 3, 1.1e-4, 0, 0]),
    np.array([0.3, 0.2, -0.1, 0.5, -1.0, 0.7]),
    np.array([0.3, 0.2, -0.1, np.pi - 1e-7, 0, 0]),
    np.array([2.0, 0, 0, 0, np.pi, 0]),
    *rng.normal(size=(8, 6)),
]


def hat(xi):
    M = np.zeros((4, 4))
    M[:3, :3], M[:3, 3] = se3.skew(xi[3:]), xi[:3]
    return M


def pose():
    return se3.exp(rng.normal(size=6))


def covariance():
    A = rng.normal(size=(6, 6)) * 1e-3
    return A @ A.T


@pytest.mark.parametrize("xi", TWISTS)
def test_exp_is_the_matrix_exponential(xi):
    assert np.allclose(se3.exp(xi), scipy.linalg.expm(hat(xi)), atol=1e-13)


@pytest.mark.parametrize("xi", TWISTS)
def test_log_undoes_exp(xi):
    assert np.allclose(se3.exp(se3.log(se3.exp(xi))), se3.exp(xi), atol=1e-12)
    if np.linalg.norm(xi[3:]) < np.pi - 1e-3:
        assert np.allclose(se3.log(se3.exp(xi)), xi, atol=1e-9)


def test_log_at_half_turns_about_every_axis():
    for axis in np.vstack([np.eye(3), -np.eye(3), rng.normal(size=(20, 3))]):
        phi = np.pi * axis / np.linalg.norm(axis)
        back = se3.rotation_log(se3.rotation(phi))
        assert np.allclose(se3.rotation(back), se3.rotation(phi), atol=1e-12)
        assert np.linalg.norm(back) == pytest.approx(np.pi)


def test_inverse_and_compose():
    a, b = pose(), pose()
    assert np.allclose(se3.inverse(a) @ a, np.eye(4), atol=1e-14)
    assert np.allclose(se3.compose(a, b, se3.inverse(b)), a, atol=1e-13)


def test_compose_stays_a_rotation_over_a_long_chain():
    step, T = pose(), np.eye(4)
    for _ in range(3000):
        T = se3.compose(T, step)
    assert np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() < 1e-14


def test_adjoint_carries_a_twist_across():
    T, xi = pose(), rng.normal(size=6)
    assert np.allclose(T @ se3.exp(xi), se3.exp(se3.adjoint(T) @ xi) @ T, atol=1e-12)


def test_interpolation_ends_where_it_should_and_turns_evenly():
    a, b = pose(), pose()
    assert np.allclose(se3.interpolate(a, b, 0.0), a) and np.allclose(se3.interpolate(a, b, 1.0), b)
    half = se3.interpolate(a, b, 0.5)
    turn = [se3.rotation_log(x[:3, :3].T @ y[:3, :3]) for x, y in ((a, half), (half, b))]
    assert np.allclose(*turn)


def test_perturb_and_difference_are_inverse():
    T, delta = pose(), 0.3 * rng.normal(size=6)
    assert np.allclose(se3.difference(se3.perturb(T, delta), T), delta)


def numeric(function, size=6, h=1e-6):
    """Jacobian of a 6-vector function at zero by central differences."""
    columns = [(function(h * e) - function(-h * e)) / (2 * h) for e in np.eye(size)]
    return np.stack(columns, axis=1)


def test_fixed_from_tangent_by_differences():
    T = pose()
    J = numeric(lambda xi: se3.difference(se3.exp(xi) @ T, T))
    assert np.allclose(J, se3.fixed_from_tangent(T), atol=1e-8)


def test_transport_by_differences():
    T, b_from_a, P = pose(), pose(), covariance()
    J = numeric(lambda d: se3.difference(b_from_a @ se3.perturb(T, d), b_from_a @ T))
    assert np.allclose(J @ P @ J.T, se3.transport_covariance(P, b_from_a), atol=1e-12)


def test_composition_by_differences():
    A, B, P, Q = pose(), pose(), covariance(), covariance()
    J = numeric(lambda d: se3.difference(se3.perturb(A, d) @ B, A @ B))
    M = numeric(lambda d: se3.difference(A @ se3.perturb(B, d), A @ B))
    assert np.allclose(J @ P @ J.T + M @ Q @ M.T, se3.compose_covariance(A, P, B, Q), atol=1e-12)


def test_inverse_covariance_by_differences_and_twice():
    T, P = pose(), covariance()
    J = numeric(lambda d: se3.difference(se3.inverse(se3.perturb(T, d)), se3.inverse(T)))
    once = se3.inverse_covariance(T, P)
    assert np.allclose(J @ P @ J.T, once, atol=1e-12)
    assert np.allclose(se3.inverse_covariance(se3.inverse(T), once), P, atol=1e-15)


def test_composition_by_sampling():
    """What the formulas promise is what errors drawn from the covariances do."""
    A, B, P, Q = pose(), pose(), covariance(), covariance()
    errors = [
        se3.difference(se3.perturb(A, a) @ se3.perturb(B, b), A @ B)
        for a, b in zip(
            rng.multivariate_normal(np.zeros(6), P, 4000),
            rng.multivariate_normal(np.zeros(6), Q, 4000),
            strict=True,
        )
    ]
    promised = se3.compose_covariance(A, P, B, Q)
    assert np.allclose(np.cov(np.array(errors).T), promised, atol=0.08 * np.abs(promised).max())


def test_angles_of_many_rotations_are_those_of_each_also_the_smallest_and_half_turns():
    rng = np.random.default_rng(4)
    sizes = np.array([[0.0, 1e-9, 1e-4], [1.0, 3.0, np.pi]])
    axes = rng.normal(size=(2, 3, 3))
    phi = sizes[..., None] * axes / np.linalg.norm(axes, axis=-1, keepdims=True)
    R = np.array([[se3.rotation(x) for x in row] for row in phi])
    assert np.allclose(se3.angles_rad(R), sizes, rtol=1e-9, atol=1e-12)
    assert np.allclose(se3.angles_rad(R[1]), [se3.angle_rad(x) for x in R[1]])
