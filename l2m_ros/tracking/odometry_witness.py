"""Does odometry side with another motion in view than the one that most matches follow?

A door, a train or a forklift that fills most of the view takes the pose along when it begins to
move. Odometry that does not follow is no sign by itself: wheels slip. But if matches that do not
agree on the pose agree on another motion, and odometry says the same one, then two witnesses that
know nothing of each other speak for it: what fills the view moves, and odometry is right. So it is
where two motions were seen a moment ago, and odometry, which agreed with depth until then, does not
agree with the one that is left. Until a pose agrees with odometry again, those that do not are not
believed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6, squared_apart
from l2m_ros.tracking.odometry import OdometryStep
from l2m_ros.tracking.result import Outcome
from l2m_ros.tracking.second_motion import another_motion
from l2m_ros.types import Correspondences, FloatArray, Frame, Lost, LostReason, MetricPose

LEAST_SHARE = 0.05  # of the other motion's matches, over those of the pose
AGREED_NS = 10_000_000_000  # before two motions were seen: an odometry that is wrong never did
LEAST_WAY_M, LEAST_TURN_RAD = 0.05, 0.05  # of odometry, on which a pose agrees with it again


class OdometryWitness:
    """Remembers whether odometry was right against what most matches follow."""

    def __init__(self) -> None:
        self._right = False
        self._agreed_ns: int | None = None  # when a pose last agreed with it on a way

    def against(
        self,
        pose: MetricPose,
        step: OdometryStep | None,
        pairs: Correspondences,
        query: Frame,
        keyframe: Frame,
        posed: Callable[[Correspondences], Outcome],
        *,
        two_lately: bool = False,
    ) -> Lost | None:
        """Why a pose by depth is not believed. posed: the pose of a part of the matches.

        two_lately: two motions were seen a moment ago.
        """
        if step is None:
            return None
        told = step.a_from_b, step.covariance
        if not _differ((pose.keyframe_from_camera, pose.covariance), told):
            if _moves(step.a_from_b):
                self._right, self._agreed_ns = False, query.stamp_ns
            return None
        left = two_lately and self._agreed_before(query.stamp_ns)
        self._right |= left or _another(pose, step, pairs, query, keyframe, posed)
        if not self._right:
            return None
        return Lost(
            LostReason.TWO_MOTIONS,
            "odometry and a part of the matches agreed on another motion than most of the matches, "
            "and odometry does not agree with this pose: something that fills the view moves",
        )

    def _agreed_before(self, stamp_ns: int) -> bool:
        return self._agreed_ns is not None and 0 <= stamp_ns - self._agreed_ns < AGREED_NS


def _another(
    pose: MetricPose,
    step: OdometryStep,
    pairs: Correspondences,
    query: Frame,
    keyframe: Frame,
    posed: Callable[[Correspondences], Outcome],
) -> bool:
    """Whether matches that do not agree on the pose agree with odometry."""
    other, share = another_motion(pose, pairs, query, keyframe, posed, LEAST_SHARE)
    if not isinstance(other, MetricPose) or share < LEAST_SHARE:
        return False
    its = other.keyframe_from_camera, other.covariance
    if _differ(its, (step.a_from_b, step.covariance)):
        return False
    return _differ(its, (pose.keyframe_from_camera, pose.covariance))


def _differ(one: tuple[FloatArray, FloatArray], other: tuple[FloatArray, FloatArray]) -> bool:
    return squared_apart(*one, *other) > CHI2_999_6


def _moves(T: FloatArray) -> bool:
    turn_rad = float(np.linalg.norm(se3.rotation_log(T[:3, :3])))
    return float(np.linalg.norm(T[:3, 3])) > LEAST_WAY_M or turn_rad > LEAST_TURN_RAD
