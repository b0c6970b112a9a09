"""Where a camera was at one stamp, and how it moved."""

from __future__ import annotations

from dataclasses import dataclass

from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import FloatArray


@dataclass(frozen=True, eq=False)
class Twist:
    """Linear (m/s), then angular velocity (rad/s), in the axes of what moves."""

    velocity: FloatArray  # (6,)
    covariance: FloatArray  # 6x6

    def seen_from(self, b_from_a: FloatArray) -> Twist:
        """The same motion of a rigid body, at its frame b in place of a."""
        A = se3.adjoint(b_from_a)
        return Twist(A @ self.velocity, A @ self.covariance @ A.T)


@dataclass(frozen=True, eq=False)
class Place:
    """The camera at one stamp."""

    stamp_ns: int
    odom_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    chain: int
    keyframe: int  # id of the keyframe that the next two are relative to
    keyframe_from_camera: FloatArray  # 4x4
    keyframe_covariance: FloatArray  # 6x6
    odometry: OdometrySample | None = None
    twist: Twist | None = None  # None: no pose connects it with the place before
    # How far the whole may be off, of motion that nobody saw: beside its chain
    unseen_m: float = 0.0
    unseen_rad: float = 0.0
