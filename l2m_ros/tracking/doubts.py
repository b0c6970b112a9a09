"""Two checks that need more than the matches: a repeated image (a frozen driver), and a place that
looks like the keyframe's."""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.frozen import same_bits
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.types import ByteArray, Lost, LostReason, MetricPose

STANDS_M, STANDS_RAD = 2e-3, 2e-3  # odometry that moves less says that the camera stands
UNSEEN_S = 0.5  # after so long without a pose, a place that is matched may be another one
ALIKE_M = 0.3  # nearer to where odometry expects it, it is the same place
SIGMAS = 5.0


def repeated_image(
    rgb: ByteArray,
    before: ByteArray | None,
    odometry: OdometrySample | None,
    odometry_before: OdometrySample | None,
) -> Lost | None:
    """Why an image that is the one before, bit for bit, says nothing of its own moment, or None.

    odometry_before: when that image was first seen (`SeenSince`).
    A sensor's noise differs in each image. A rendered camera that stands has none: odometry that
    stands too clears it.
    """
    if before is None or not same_bits(rgb, before):
        return None
    if stands(odometry, odometry_before):
        return None
    return Lost(
        LostReason.REPEATED_IMAGE,
        "the image is the one before, bit for bit, under a new stamp: is the driver frozen? (a "
        "simulated camera that stands does that too: tracking.accept_repeated)",
    )


def stands(odometry: OdometrySample | None, before: OdometrySample | None) -> bool:
    """Whether odometry says that the base stands."""
    if odometry is None or before is None:
        return False
    way = se3.inverse(before.odom_from_base) @ odometry.odom_from_base
    turn_rad = float(np.linalg.norm(se3.rotation_log(way[:3, :3])))
    return float(np.linalg.norm(way[:3, 3])) < STANDS_M and turn_rad < STANDS_RAD


def looks_alike(pose: MetricPose, step: OdometryStep | None, unseen_s: float) -> Lost | None:
    """Why a place that is matched after a while may only look like the keyframe's, or None.

    step: the camera's way from the keyframe to here, as odometry has it.
    """
    if step is None or unseen_s < UNSEEN_S or pose.scale_source in ("odometry", "scene"):
        return None
    error_m = pose.keyframe_from_camera[:3, 3] - step.a_from_b[:3, 3]
    off_m = float(np.linalg.norm(error_m))
    P = pose.covariance[:3, :3] + step.covariance[:3, :3]
    if off_m < ALIKE_M or off_m**2 < SIGMAS**2 * float(error_m @ P @ error_m) / off_m**2:
        return None
    return Lost(
        LostReason.LOOKS_ALIKE,
        f"it looks like the keyframe's place, but odometry is {off_m:.2f} m away from there after "
        f"{unseen_s:.1f} s without a pose",
    )
