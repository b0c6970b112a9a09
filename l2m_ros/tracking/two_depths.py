"""Do the depth images of the two frames agree with each other?

Each alone gives a pose by the same matches. With right depth as many matches agree with a pose by
both as with either one's (95 % of them and more, in 186 pairs of three cameras). Depth of another
moment is consistent with itself, so either image alone fits; a pose by both lies between, and the
matches agree with it only here and there (7 wrong poses by late depth: 33 to 76 %).

Asked only where ranges misfit: the answer takes two more estimates.
"""

from __future__ import annotations

from dataclasses import replace

from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.tracking.depth_trust import DEPTH
from l2m_ros.types import Correspondences, Frame, Lost, LostReason, MetricPose

ASKED_MISFIT = 1.0  # of `DepthCheck`; right depth: one pose in ten
LEAST_SHARE = 0.85


def contradict(
    pose: MetricPose,
    pairs: Correspondences,
    query: Frame,
    keyframe: Frame,
    options: PoseOptions,
    evidence: ScaleEvidence,
) -> Lost | None:
    """Why the two depth images speak against this pose by both, or None."""
    check = pose.depth_check
    both = query.depth is not None and keyframe.depth is not None
    if pose.scale_source != DEPTH or not both or check is None or check.misfit < ASKED_MISFIT:
        return None
    by_depth = replace(options, sources=(DEPTH,))
    alone = [
        estimate_pose(pairs, *frames, by_depth, evidence)
        for frames in (
            (replace(query, depth=None), keyframe),
            (query, replace(keyframe, depth=None)),
        )
    ]
    supports = [other.support for other in alone if isinstance(other, MetricPose)]
    if len(supports) < 2 or pose.support >= LEAST_SHARE * min(supports):
        return None
    return Lost(
        LostReason.CONTRADICTED,
        f"two depths: {100 * pose.support:.0f} % of the matches agree with both depth images, "
        f"{100 * min(supports):.0f} % with each alone: they are of different moments",
    )
