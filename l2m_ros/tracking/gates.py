"""Checks that a pose must pass before it is published: better no pose than a wrong one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray, Lost, LostReason, MetricPose, RelativePose


@dataclass(frozen=True)
class GateOptions:
    """Bounds of a pose that is trusted."""

    min_inliers: int = 20
    max_sigma_m: float = 0.5  # largest standard deviation of the position
    max_sigma_rad: float = 0.1
    max_speed_m_s: float = 20.0
    max_turn_rad_s: float = 12.0
    # By what a pose may differ from the velocity before it (`motion`). A hand that walks has 0.5
    # and 0.8 (RMS).
    max_acceleration_m_s2: float = 2.5
    max_turn_acceleration_rad_s2: float = 10.0


@dataclass(frozen=True, eq=False)
class StampedPose:
    """A pose and its stamp, compared with the next one."""

    stamp_ns: int
    odom_from_camera: FloatArray


def gate(
    outcome: MetricPose | RelativePose | Lost, options: GateOptions
) -> MetricPose | RelativePose | Lost:
    """The outcome, or the reason why it is not trusted."""
    if isinstance(outcome, Lost):
        return outcome
    inliers = int(np.count_nonzero(outcome.inliers))
    if inliers < options.min_inliers:
        return Lost(
            LostReason.TOO_FEW_INLIERS,
            f"{inliers} inliers, tracking.min_inliers asks for {options.min_inliers}",
        )
    if isinstance(outcome, RelativePose):
        return outcome
    sigma_m = float(np.sqrt(np.linalg.eigvalsh(outcome.covariance[:3, :3])[-1]))
    sigma_rad = float(np.sqrt(np.linalg.eigvalsh(outcome.covariance[3:, 3:])[-1]))
    if sigma_m > options.max_sigma_m or sigma_rad > options.max_sigma_rad:
        return Lost(
            LostReason.UNCERTAIN,
            f"standard deviation {sigma_m:.3f} m, {sigma_rad:.4f} rad; accepted are "
            f"tracking.max_sigma_m {options.max_sigma_m:g}, "
            f"tracking.max_sigma_rad {options.max_sigma_rad:g}",
        )
    return outcome


def implausible_motion(
    before: StampedPose | None, now: StampedPose, options: GateOptions
) -> Lost | None:
    """Why this motion is implausible, or None. Frames with equal stamps are not checked."""
    if before is None or now.stamp_ns <= before.stamp_ns:
        return None
    seconds = (now.stamp_ns - before.stamp_ns) * 1e-9
    step = se3.inverse(before.odom_from_camera) @ now.odom_from_camera
    speed_m_s = float(np.linalg.norm(step[:3, 3])) / seconds
    cosine = np.clip((np.trace(step[:3, :3]) - 1) / 2, -1, 1)
    turn_rad_s = float(np.arccos(cosine)) / seconds
    if speed_m_s <= options.max_speed_m_s and turn_rad_s <= options.max_turn_rad_s:
        return None
    return Lost(
        LostReason.IMPLAUSIBLE,
        f"moved {speed_m_s:.1f} m/s, {turn_rad_s:.1f} rad/s since the last pose; accepted are "
        f"tracking.max_speed_m_s {options.max_speed_m_s:g}, "
        f"tracking.max_turn_rad_s {options.max_turn_rad_s:g}",
    )
