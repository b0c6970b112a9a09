"""A tracking result in the diagnostics: what happened, and what the user can do about it."""

from __future__ import annotations

from l2m_ros.node.diagnostics import OK, Health
from l2m_ros.tracking.tracker import TrackResult, TrackState
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
    LostReason.IMPLAUSIBLE: "check stamps and camera_info, or raise the bound that it names",
}
NO_SCALE = "matched, but without metres: nothing is published on ~/pose; "
CONNECT = "connect depth, right/image or odom"
MODELLED = (
    "odom's covariance {why}: the noise of its way is modelled by odometry.sigma_m_per_m and "
    "odometry.sigma_rad_per_rad"
)


def report_tracking(health: Health, result: TrackResult) -> None:
    """Problem, counts and facts of one frame."""
    pose = result.pose
    health.report("tracking", tracking_problem(result))
    health.report("odometry", result.remarks.get("odometry"))
    modelled = result.remarks.get("odometry covariance")
    health.report("odometry covariance", modelled and MODELLED.format(why=modelled), OK)
    health.count("posed" if pose is not None else f"unposed_{result.why_not_posed}")
    health.set_facts(
        state=result.state.value,
        reason=result.reason,
        keyframe="none" if result.keyframe is None else result.keyframe.id,
        chain="none" if result.keyframe is None else result.keyframe.chain,
        scale_source="none" if pose is None else pose.scale_source,
        inliers=0 if pose is None else int(pose.inliers.sum()),
    )


def tracking_problem(result: TrackResult) -> str | None:
    """What the user should know or do about this frame, or None."""
    if isinstance(result.outcome, Lost):
        return f"{result.state.value}: {result.reason}; {REMEDIES[result.outcome.reason]}"
    if isinstance(result.outcome, RelativePose):
        return NO_SCALE + (result.outcome.why_not_metric or CONNECT)
    if result.state is TrackState.WAITING:
        return f"waiting: {result.reason}"
    return None
