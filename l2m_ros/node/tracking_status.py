"""A tracking result in the diagnostics: what happened, and what the user can do about it."""

from __future__ import annotations

from l2m_ros.node.diagnostics import OK, WARN, Health
from l2m_ros.tracking.remedies import problems
from l2m_ros.tracking.result import TrackResult

NO_COMPLAINT = ("odometry covariance",)  # said, but nothing is wrong


def report_tracking(health: Health, result: TrackResult) -> None:
    """Problem, counts and facts of one frame."""
    pose = result.pose
    for key, words in problems(result).items():
        health.report(key, words, OK if key in NO_COMPLAINT else WARN)
    health.count("posed" if pose is not None else f"unposed_{result.why_not_posed}")
    if pose is not None:
        health.count(f"scale_from_{pose.scale_source}")
    health.set_facts(
        state=result.state.value,
        reason=result.reason,
        keyframe="none" if result.keyframe is None else result.keyframe.id,
        chain="none" if result.keyframe is None else result.keyframe.chain,
        scale_source="none" if pose is None else pose.scale_source,
        inliers=0 if pose is None else int(pose.inliers.sum()),
    )
