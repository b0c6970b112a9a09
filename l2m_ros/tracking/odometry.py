"""The base's motion between two stamps by wheels or an IMU, and its covariance.

A message's covariance tells of the way between two stamps only if it grows with the way, as dead
reckoning's does:

    added = P_b - J P_a J^T      J carries a's error along to b

Most drivers publish a constant one, many all zeros, and planar ones 1e6 for the axes that they do
not measure. Then the noise is modelled per metre and per radian instead, and `modelled` says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray

UNMEASURED_VARIANCE = 1e3  # drivers write 1e3 to 1e9 for an axis that nobody measured
MIN_SHARE = 0.002  # of the way: nobody's odometry is better, a covariance that says so is no growth
MOUNTING = 0.02  # of the way: a camera's place on its robot is known to a degree
SHRINKS = 0.05  # of the largest variance: interpolated covariances shrink by less in some direction
MOMENTARY = 2.0  # of the mean speed of a way: what its speed at one moment may be
FLOOR_M = 1e-3
FLOOR_RAD = 1e-3


@dataclass(frozen=True, eq=False)
class OdometrySample:
    """What wheels or an IMU say of the robot's base at one stamp."""

    stamp_ns: int
    odom_from_base: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    # 6x6 besides: what the base may have done between the messages that this was made of
    timing: FloatArray = field(default_factory=lambda: np.zeros((6, 6)))
    delay_ns: int = 0  # it was read of messages that are stamped so much later
    # 6: how the base moves, in its own axes, metres and radians a second
    velocity: FloatArray = field(default_factory=lambda: np.zeros(6))
    delay_sigma_s: float = 0.0  # how well the delay of its stamps is known


@dataclass(frozen=True)
class OdometryNoise:
    """One standard deviation of the way's error, where the message's covariance cannot be used.

    Independent of the drift that a covariance would tell: 5 % is a wheeled robot on a hard floor;
    visual-inertial odometry is at 1 %, skid steering at 10 %.
    """

    sigma_m_per_m: float = 0.05
    sigma_rad_per_rad: float = 0.05

    def __post_init__(self) -> None:
        if min(self.sigma_m_per_m, self.sigma_rad_per_rad) <= 0:
            raise InvalidInput(f"the noise of odometry must be positive, got {self}")

    def covariance(self, a_from_b: FloatArray) -> FloatArray:
        """6x6 covariance of a motion."""
        way_m = float(np.linalg.norm(a_from_b[:3, 3]))
        turn_rad = float(np.linalg.norm(se3.rotation_log(a_from_b[:3, :3])))
        sigma_rad = self.sigma_rad_per_rad * turn_rad + FLOOR_RAD
        sigma_m = self.sigma_m_per_m * way_m + sigma_rad * way_m / 2 + FLOOR_M
        return np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)


@dataclass(frozen=True, eq=False)
class OdometryStep:
    """Where b was in a."""

    a_from_b: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    modelled: str | None  # why the messages' covariance was not used, or None


def step(
    a: OdometrySample,
    b: OdometrySample,
    noise: OdometryNoise = OdometryNoise(),
    base_from_camera: FloatArray | None = None,
) -> OdometryStep:
    """The way of the base from a to b, or of a camera that is mounted on it."""
    a_from_b = se3.inverse(a.odom_from_base) @ b.odom_from_base
    added = _added(a, b)
    modelled = unusable(a, b, added)
    turn = np.kron(np.eye(2), a.odom_from_base[:3, :3].T)
    if modelled is None:
        floor_m = MOUNTING * float(np.linalg.norm(a_from_b[:3, 3]))
        P = turn @ _positive(added) @ turn.T + np.diag([floor_m**2 + 1e-8] * 3 + [0.0] * 3)
    else:
        P = noise.covariance(a_from_b)
    P = P + turn @ (_carried(a.timing, a, b) + b.timing) @ turn.T
    P = P + _read_otherwise(a, b, a_from_b) + _of_delay(a, b, a_from_b)
    if base_from_camera is None:
        return OdometryStep(a_from_b, P, modelled)
    camera_from_base, exact = se3.inverse(base_from_camera), np.zeros((6, 6))
    P = se3.compose_covariance(camera_from_base, exact, a_from_b, P)
    a_from_b = camera_from_base @ a_from_b
    P = se3.compose_covariance(a_from_b, P, base_from_camera, exact)
    return OdometryStep(se3.compose(a_from_b, base_from_camera), P, modelled)


def unusable(a: OdometrySample, b: OdometrySample, added: FloatArray) -> str | None:
    """Why the covariances of a and b do not tell the noise of the way between them, or None."""
    if not a.covariance.any() and not b.covariance.any():
        return "is all zeros"
    if max(np.diag(a.covariance).max(), np.diag(b.covariance).max()) >= UNMEASURED_VARIANCE:
        return f"holds variances of {UNMEASURED_VARIANCE:g} and more, for axes not measured"
    way = b.odom_from_base[:3, 3] - a.odom_from_base[:3, 3]
    values = np.linalg.eigvalsh(added)
    grows = way @ added[:3, :3] @ way >= (MIN_SHARE * (way @ way)) ** 2
    if grows and values[0] >= -SHRINKS * values[-1] - 1e-9:
        return None
    if np.allclose(a.covariance, b.covariance, rtol=1e-6, atol=0):
        return "is constant"
    return "does not grow with the way"


def _read_otherwise(a: OdometrySample, b: OdometrySample, a_from_b: FloatArray) -> FloatArray:
    """6x6: one was read before odometry's delay was learnt, and tells of another moment."""
    if a.delay_ns == b.delay_ns:
        return np.zeros((6, 6))
    share = abs(b.delay_ns - a.delay_ns) / max(abs(b.stamp_ns - a.stamp_ns), 1)
    way = float(np.linalg.norm(a_from_b[:3, 3]))
    turn = float(np.linalg.norm(se3.rotation_log(a_from_b[:3, :3])))
    return (MOMENTARY * share) ** 2 * np.diag([way**2] * 3 + [turn**2] * 3)


def _of_delay(a: OdometrySample, b: OdometrySample, a_from_b: FloatArray) -> FloatArray:
    """6x6: both may tell of another moment by the same time. At a steady speed that is nothing."""
    R, t = a_from_b[:3, :3], a_from_b[:3, 3]
    faster = np.kron(np.eye(2), R) @ b.velocity - a.velocity
    faster[:3] -= np.cross(a.velocity[3:], t)
    return np.asarray(min(a.delay_sigma_s, b.delay_sigma_s) ** 2 * np.outer(faster, faster))


def _added(a: OdometrySample, b: OdometrySample) -> FloatArray:
    """Covariance that was added between a and b, about odom's axes."""
    added = b.covariance - _carried(a.covariance, a, b)
    return np.asarray(0.5 * (added + added.T))


def _carried(P: FloatArray, a: OdometrySample, b: OdometrySample) -> FloatArray:
    """Covariance P of a as it is at b: a turn moves the end of the way."""
    J = np.eye(6)
    J[:3, 3:] = -se3.skew(b.odom_from_base[:3, 3] - a.odom_from_base[:3, 3])
    return np.asarray(J @ P @ J.T)


def _positive(P: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(P)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)
