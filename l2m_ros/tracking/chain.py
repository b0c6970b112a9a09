"""Places one after another in odom, which never jumps, and where the chain of poses broke.

Metric poses connect the keyframes of one chain. Where no pose connects two of them, the chain
breaks: odom goes on from the newest place by an unseen motion, which odometry may guess, with a
covariance that admits every plausible motion. A chain that is found again after a break is moved to
where odom says the camera is; its keyframes move together.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometryNoise, OdometrySample, step
from l2m_ros.tracking.place import Place
from l2m_ros.types import FloatArray, MetricPose


@dataclass(frozen=True)
class ChainEvent:
    """A chain began, ended or was found again: what ~/chain says."""

    chain: int
    keyframe: int
    stamp_ns: int
    why: str
    before: int | None = None  # the keyframe that no metric pose connects with this one
    before_chain: int | None = None
    bridged_by: str = ""  # odometry, or nothing: odom goes on where it was
    sigma_m: float = 0.0  # of the motion that nobody saw
    sigma_rad: float = 0.0
    anew: bool = False  # after a reset: odom itself begins again

    @property
    def is_break(self) -> bool:
        return self.before is not None or self.anew


@dataclass(frozen=True)
class UnseenMotion:
    """One standard deviation of the camera's motion while there are no poses."""

    speed_m_s: float
    turn_rad_s: float

    def sigmas(self, seconds: float) -> tuple[float, float]:
        """Metres, radians."""
        seconds = max(seconds, 0.0)
        return self.speed_m_s * seconds, min(self.turn_rad_s * seconds, float(np.pi))


@dataclass(frozen=True, eq=False)
class Bridge:
    """Where the camera may be after a gap without poses."""

    odom_from_camera: FloatArray
    covariance: FloatArray
    by: str
    sigma_m: float
    sigma_rad: float


def bridge(
    last: Place | None,
    stamp_ns: int,
    odometry: OdometrySample | None,
    base_from_camera: FloatArray | None,
    unseen: UnseenMotion,
) -> Bridge:
    """From the newest place to a stamp. Odometry guesses the motion; the covariance does not
    shrink by it, so that whoever fuses both does not count the wheels twice."""
    if last is None:
        return Bridge(np.eye(4), np.zeros((6, 6)), "", 0.0, 0.0)
    sigma_m, sigma_rad = unseen.sigmas((stamp_ns - last.stamp_ns) * 1e-9)
    place, by = last.odom_from_camera, "nothing"
    P = last.covariance
    if odometry is not None and last.odometry is not None:
        guess = step(last.odometry, odometry, OdometryNoise(), base_from_camera).a_from_b
        P = se3.compose_covariance(place, P, guess, np.zeros((6, 6)))
        place, by = se3.compose(place, guess), "odometry"
    return Bridge(place, inflated(P, sigma_m=sigma_m, sigma_rad=sigma_rad), by, sigma_m, sigma_rad)


@dataclass(frozen=True, eq=False)
class Located:
    """A camera in odom."""

    odom_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    common_m: FloatArray = field(default_factory=lambda: np.zeros(3))  # see `Keyframe`


def locate(keyframe: Keyframe, pose: MetricPose) -> Located:
    """The camera in odom, with the chain's covariance.

    The scale's error is one and the same in all edges: it adds up by length (`common_m`), while all
    other errors are independent and add up by variance.
    """
    T, before = pose.keyframe_from_camera, keyframe.odom_common_m
    edge_m = pose.scale_sigma * T[:3, 3]
    common_m = before + keyframe.odom_from_keyframe[:3, :3] @ edge_m
    place, P = compose(
        keyframe.odom_from_keyframe,
        _plus_shared(keyframe.odom_covariance, before, -1.0),
        T,
        _plus_shared(pose.covariance, edge_m, -1.0),
    )
    return Located(place, _plus_shared(P, common_m, 1.0), common_m)


def _plus_shared(P: FloatArray, shared_m: FloatArray, sign: float) -> FloatArray:
    """The covariance with (or, sign -1, without) an error of the position along `shared_m`."""
    if not shared_m.any():
        return P
    out = P.copy()
    out[:3, :3] += sign * np.outer(shared_m, shared_m)
    return out


def anchored(keyframe: Keyframe, pose: MetricPose, place: Bridge) -> Keyframe:
    """The keyframe moved to where the pose puts it if the camera is at the bridge's end."""
    T, P = pose.keyframe_from_camera, pose.covariance
    camera_from_keyframe = se3.inverse(T)
    odom_from_keyframe, covariance = compose(
        place.odom_from_camera,
        place.covariance,
        camera_from_keyframe,
        se3.inverse_covariance(T, P),
    )
    return replace(
        keyframe,
        odom_from_keyframe=se3.compose(odom_from_keyframe),
        odom_covariance=covariance,
        odom_common_m=np.zeros(3),  # counted as independent from here on
    )


def moved_along(keyframe: Keyframe, before: Keyframe, after: Keyframe) -> Keyframe:
    """A keyframe of the chain that was moved with `before`, which is now `after`."""
    after_from_keyframe = se3.inverse(before.odom_from_keyframe) @ keyframe.odom_from_keyframe
    odom_from_keyframe, covariance = compose(
        after.odom_from_keyframe, after.odom_covariance, after_from_keyframe, np.zeros((6, 6))
    )
    return replace(
        keyframe,
        odom_from_keyframe=odom_from_keyframe,
        odom_covariance=covariance,
        odom_common_m=np.zeros(3),
    )


def compose(
    a_from_b: FloatArray, P_ab: FloatArray, b_from_c: FloatArray, P_bc: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(a_from_c, its covariance) from two independent poses."""
    return a_from_b @ b_from_c, se3.compose_covariance(a_from_b, P_ab, b_from_c, P_bc)


def inflated(P: FloatArray, *, sigma_m: float, sigma_rad: float) -> FloatArray:
    """The covariance after moving unseen, isotropically."""
    return P + np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)
