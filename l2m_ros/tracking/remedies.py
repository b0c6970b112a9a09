"""Explains a tracking result to the user; node and replay use the same words."""

from __future__ import annotations

from l2m_ros.tracking.result import TrackResult, TrackState
from l2m_ros.types import Lost, LostReason, RelativePose

REMEDIES = {
    LostReason.TOO_FEW_MATCHES: "too little in common with the keyframe: move slower, or raise the "
    "frame rate",
    LostReason.NOT_CONFIDENT: "nothing is matched with confidence: blur, darkness, another place?",
    LostReason.INVALID_INPUT: "the model's output is not finite: try another backend",
    LostReason.DEGENERATE: "the matches do not determine a pose: a blank wall, or no motion?",
    LostReason.TOO_FEW_INLIERS: "matches contradict each other: moving objects? check camera_info",
    LostReason.NO_DEPTH: "depth is unknown where the matches are: check its range and registration",
    LostReason.NO_SCALE: "connect depth, right/image or odom for metres",
    LostReason.UNCERTAIN: "more texture, or more motion across the view, would help",
    LostReason.REPEATED_IMAGE: "restart the camera's driver, or look at its link",
    LostReason.LOOKS_ALIKE: "a new chain begins; if the place is the same, odometry is wrong",
    LostReason.CONTRADICTED: "is depth of this camera, registered to it, of the same time? "
    "does this matcher suit such motion?",
    LostReason.TWO_MOTIONS: "something moves close to the camera, or a part of the robot is in "
    "view (tracking.mask leaves it out)",
    LostReason.IMPLAUSIBLE: "check stamps and camera_info, or raise the bound that it names",
}
NO_SCALE = "matched, but without metres: nothing is published on ~/pose; "
CONNECT = "connect depth, right/image or odom"
MODELLED = (
    "odom's covariance {why}: the noise of its way is modelled by odometry.sigma_m_per_m and "
    "odometry.sigma_rad_per_rad"
)


def problems(result: TrackResult) -> dict[str, str | None]:
    """Problem by subject; None where there is none."""
    modelled = result.remarks.get("odometry covariance")
    return {
        "tracking": tracking_problem(result),
        **result.remarks,
        "odometry covariance": modelled and MODELLED.format(why=modelled),
    }


def tracking_problem(result: TrackResult) -> str | None:
    """What the user should know or do about this frame, or None."""
    if isinstance(result.outcome, Lost):
        return f"{result.state.value}: {result.reason}; {REMEDIES[result.outcome.reason]}"
    if isinstance(result.outcome, RelativePose):
        refused = result.remarks.get("odometry") or result.remarks.get("stereo")
        return NO_SCALE + (result.outcome.why_not_metric or refused or CONNECT)
    if result.state is TrackState.WAITING:
        return f"waiting: {result.reason}"
    return None
