"""Where the camera can be now, from where it was and how fast it moved then.

A body goes on as it moved, but for its acceleration a over the time t:

    |x - predicted| <= SLACK + SIGMAS sigma_v t + a t^2 / 2        and so for the rotation

Matches cannot tell one door of a corridor from the next; this can, for as long as t is short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.place import Place
from l2m_ros.types import FloatArray, Lost, LostReason

SLACK_M, SLACK_RAD = 0.3, 0.3  # bumps, steps, and what poses err by
SIGMAS = 3.0
UNCHECKED_M = 0.5  # a radius beyond which motion tells no place from another


@dataclass(frozen=True, eq=False)
class Prediction:
    """Where a camera is expected, and how far from there it can be."""

    odom_from_camera: FloatArray  # 4x4
    radius_m: float
    radius_rad: float


def predicted(place: Place | None, stamp_ns: int, options: GateOptions) -> Prediction | None:
    """Where the camera is later; None where its velocity is not known."""
    if place is None or place.twist is None or stamp_ns < place.stamp_ns:
        return None
    seconds, twist = (stamp_ns - place.stamp_ns) * 1e-9, place.twist
    sigma_m_s, sigma_rad_s = (
        float(np.sqrt(np.linalg.eigvalsh(twist.covariance[part, part])[-1]))
        for part in (slice(0, 3), slice(3, 6))
    )
    half = 0.5 * seconds**2
    swung_m = place.unseen_rad * float(np.linalg.norm(place.keyframe_from_camera[:3, 3]))
    radius_m = SIGMAS * sigma_m_s * seconds + options.max_acceleration_m_s2 * half
    radius_rad = SIGMAS * sigma_rad_s * seconds + options.max_turn_acceleration_rad_s2 * half
    return Prediction(
        se3.compose(place.odom_from_camera, se3.exp(twist.velocity * seconds)),
        place.unseen_m + swung_m + radius_m,
        place.unseen_rad + radius_rad,
    )


def open_radius_m(before: Place | None, stamp_ns: int, options: GateOptions) -> float:
    """How far from where it is expected the camera can be; infinite where nothing is known."""
    expected = predicted(before, stamp_ns, options)
    return float("inf") if expected is None else expected.radius_m


def unexpected(
    before: Place | None, stamp_ns: int, odom_from_camera: FloatArray, options: GateOptions
) -> Lost | None:
    """Why a camera cannot be there, or None."""
    expected = predicted(before, stamp_ns, options)
    if expected is None:
        return None
    off = se3.inverse(expected.odom_from_camera) @ odom_from_camera
    off_m, off_rad = float(np.linalg.norm(off[:3, 3])), se3.angle_rad(off[:3, :3])
    most_m, most_rad = SLACK_M + expected.radius_m, SLACK_RAD + expected.radius_rad
    if off_m <= most_m and off_rad <= most_rad:
        return None
    return Lost(
        LostReason.IMPLAUSIBLE,
        f"{off_m:.2f} m, {off_rad:.2f} rad from where its velocity led; accepted are "
        f"{most_m:.2f} m, {most_rad:.2f} rad, by "
        f"tracking.max_acceleration_m_s2 {options.max_acceleration_m_s2:g}, "
        f"tracking.max_turn_acceleration_rad_s2 {options.max_turn_acceleration_rad_s2:g}",
    )
