"""Rigid transforms as 4x4 matrices, their tangent space, and covariances that follow them.

    exp(xi) = [ exp(phi)  V(phi) rho ]      xi = (rho, phi): translation part first, as the
              [    0           1     ]      covariance has it

Two ways to perturb a pose a_from_b = (R, t) are in use, and they differ in the translation:

    tangent    exp(xi) (R, t)                      adjoint(T) carries xi to another frame
    fixed axes (exp(phi) R, t + dt), dt = rho + phi x t

Covariances of poses are about the fixed axes, as geometry_msgs/PoseWithCovariance defines them.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import FloatArray

SMALL_ANGLE_RAD = 1e-4  # below: Taylor series, whose error is then under 1e-17


def skew(v: FloatArray) -> FloatArray:
    """[v]x with [v]x w = v x w."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def transform(R: FloatArray, t: FloatArray) -> FloatArray:
    """4x4 of a rotation and a translation."""
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return T


def rotation(phi: FloatArray) -> FloatArray:
    """exp of a rotation vector (Rodrigues)."""
    a, b, _ = _coefficients(float(np.linalg.norm(phi)))
    K = skew(phi)
    return np.asarray(np.eye(3) + a * K + b * K @ K)


def rotation_from_quaternion(q: FloatArray) -> FloatArray:
    """3x3 of a unit quaternion (x, y, z, w)."""
    x, y, z, w = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(R: FloatArray) -> FloatArray:
    """(x, y, z, w), w >= 0: the largest of the four squares is the pivot, so nothing cancels."""
    trace = float(np.trace(R))
    if not np.isfinite(trace):
        raise InvalidInput("rotation holds NaN or infinity")
    outer = np.empty((4, 4))  # 4 q q^T
    outer[:3, :3] = R + R.T + (1 - trace) * np.eye(3)
    outer[3, :3] = outer[:3, 3] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    outer[3, 3] = 1 + trace
    row = outer[int(np.argmax(np.diag(outer)))]
    q: FloatArray = row / np.linalg.norm(row)
    return q if q[3] >= 0 else -q


def angle_rad(R: FloatArray) -> float:
    """The angle of a rotation, in [0, pi]."""
    return float(np.linalg.norm(rotation_log(R)))


def angles_rad(R: FloatArray) -> FloatArray:
    """(...) of rotations (..., 3, 3)."""
    sine = 0.5 * np.linalg.norm(
        np.stack([R[..., i, j] - R[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0))]), axis=0
    )
    cosine = 0.5 * (np.trace(R, axis1=-2, axis2=-1) - 1.0)
    return np.asarray(np.arctan2(sine, cosine))


def rotation_log(R: FloatArray) -> FloatArray:
    """The rotation vector of R, of length in [0, pi]."""
    q = quaternion(R)
    xyz, w = q[:3], q[3]
    sine = float(np.linalg.norm(xyz))
    if sine < 0.5 * SMALL_ANGLE_RAD:
        return 2.0 * xyz * (1.0 + sine**2 / 6.0)
    return xyz * float(2.0 * np.arctan2(sine, w) / sine)


def exp(xi: FloatArray) -> FloatArray:
    """4x4 of a tangent vector (rho, phi)."""
    rho, phi = np.asarray(xi, dtype=np.float64).reshape(2, 3)
    return transform(rotation(phi), _left_jacobian(phi) @ rho)


def log(T: FloatArray) -> FloatArray:
    """(rho, phi) with exp(rho, phi) = T, |phi| <= pi."""
    phi = rotation_log(T[:3, :3])
    return np.concatenate([np.linalg.solve(_left_jacobian(phi), T[:3, 3]), phi])


def inverse(b_from_a: FloatArray) -> FloatArray:
    """a_from_b, exactly orthogonal where b_from_a is; (..., 4, 4)."""
    T = np.zeros(b_from_a.shape)
    R_inverse = np.swapaxes(b_from_a[..., :3, :3], -1, -2)
    T[..., :3, :3] = R_inverse
    T[..., :3, 3] = -(R_inverse @ b_from_a[..., :3, 3:])[..., 0]
    T[..., 3, 3] = 1.0
    return T


def compose(*transforms: FloatArray) -> FloatArray:
    """c_from_a = compose(c_from_b, b_from_a), its rotation made orthogonal again."""
    T = np.eye(4)
    for factor in transforms:
        T = T @ factor
    U, _, Vt = np.linalg.svd(T[:3, :3])
    return transform(U @ Vt, T[:3, 3])


def adjoint(T: FloatArray) -> FloatArray:
    """6x6 with T exp(xi) = exp(adjoint(T) xi) T."""
    R, t = T[:3, :3], T[:3, 3]
    A = np.zeros((6, 6))
    A[:3, :3] = A[3:, 3:] = R
    A[:3, 3:] = skew(t) @ R
    return A


def interpolate(T0: FloatArray, T1: FloatArray, s: float) -> FloatArray:
    """T0 at s = 0, T1 at s = 1: rotation at constant rate, translation along the straight line."""
    R0 = T0[:3, :3]
    R = R0 @ rotation(s * rotation_log(R0.T @ T1[:3, :3]))
    return transform(R, (1.0 - s) * T0[:3, 3] + s * T1[:3, 3])


def perturb(T: FloatArray, delta: FloatArray) -> FloatArray:
    """T displaced by (dt, dphi) about the fixed axes."""
    return transform(rotation(delta[3:]) @ T[:3, :3], T[:3, 3] + delta[:3])


def difference(T: FloatArray, T0: FloatArray) -> FloatArray:
    """(dt, dphi) with perturb(T0, difference(T, T0)) = T: the error that a covariance speaks of."""
    return np.concatenate([T[:3, 3] - T0[:3, 3], rotation_log(T[:3, :3] @ T0[:3, :3].T)])


def fixed_from_tangent(T: FloatArray) -> FloatArray:
    """6x6 that turns a tangent perturbation of T (on its left) into one about the fixed axes."""
    J = np.eye(6)
    J[:3, 3:] = -skew(T[:3, 3])
    return J


def transport_covariance(P: FloatArray, b_from_a: FloatArray) -> FloatArray:
    """Covariance of b_from_c = b_from_a a_from_c where P is a_from_c's and b_from_a is exact."""
    A = np.kron(np.eye(2), b_from_a[:3, :3])
    return np.asarray(A @ P @ A.T)


def compose_covariance(
    a_from_b: FloatArray, P_ab: FloatArray, b_from_c: FloatArray, P_bc: FloatArray
) -> FloatArray:
    """Covariance of a_from_c from two independent poses.

    dt = dt_ab + dphi_ab x (R_ab t_bc) + R_ab dt_bc,   dphi = dphi_ab + R_ab dphi_bc
    """
    J = np.eye(6)
    J[:3, 3:] = -skew(a_from_b[:3, :3] @ b_from_c[:3, 3])
    return np.asarray(J @ P_ab @ J.T + transport_covariance(P_bc, a_from_b))


def inverse_covariance(a_from_b: FloatArray, P: FloatArray) -> FloatArray:
    """Covariance of b_from_a: dphi' = -R^T dphi, dt' = R^T (dphi x t - dt)."""
    R, t = a_from_b[:3, :3], a_from_b[:3, 3]
    J = np.kron(np.eye(2), -R.T)
    J[:3, 3:] = -R.T @ skew(t)
    return np.asarray(J @ P @ J.T)


def _left_jacobian(phi: FloatArray) -> FloatArray:
    """V(phi): the integral of exp(s phi) over s in [0, 1]."""
    _, b, c = _coefficients(float(np.linalg.norm(phi)))
    K = skew(phi)
    return np.asarray(np.eye(3) + b * K + c * K @ K)


def _coefficients(angle: float) -> tuple[float, float, float]:
    """sin x / x, (1 - cos x) / x^2, (x - sin x) / x^3."""
    if angle < SMALL_ANGLE_RAD:
        square = angle * angle
        return 1.0 - square / 6.0, 0.5 - square / 24.0, 1.0 / 6.0 - square / 120.0
    sine, half = np.sin(angle), np.sin(0.5 * angle)
    return (
        float(sine / angle),
        float(2.0 * half * half / angle**2),
        float((angle - sine) / angle**3),
    )
