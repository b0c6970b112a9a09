"""Where a new keyframe lies in odom, and what in it moved into view.

connected      by the metric pose that joins it to the keyframe before it, in the same chain
unconnected    where a new chain begins
beside         of no chain yet: where the velocity led; `beginning` makes it the first of one
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.tracking.attempt import EncodedFrame
from l2m_ros.tracking.chain import Located, locate
from l2m_ros.tracking.depth_trust import DEPTH, STEREO
from l2m_ros.tracking.keyframe_maker import KeyframeMaker
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.motion import predicted
from l2m_ros.tracking.movers import Stillness, View
from l2m_ros.tracking.odom_frame import BESIDE, OdomFrame, sighting_of
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import PoseChecks
from l2m_ros.tracking.scenery import Scenery
from l2m_ros.types import MetricPose, RelativePose


class KeyframePlacer:
    def __init__(
        self, maker: KeyframeMaker, odom: OdomFrame, scenery: Scenery, checks: PoseChecks
    ) -> None:
        self._maker, self._odom, self._scenery, self._checks = maker, odom, scenery, checks

    @property
    def _options(self) -> TrackerOptions:
        return self._checks.options

    def connected(self, now: EncodedFrame, seen: MatchedFrame, pose: MetricPose) -> Keyframe:
        """The frame, posed against the newest keyframe of its chain."""
        before = seen.keyframe
        taken = self._maker.make(now, before.chain, locate(before, pose), (seen, pose))
        return self._without_movers(taken, before, pose)

    def unconnected(
        self, now: EncodedFrame, before: Keyframe | None, turn: tuple[Keyframe, RelativePose] | None
    ) -> Keyframe:
        """The frame begins a new chain. before: the last keyframe; turn: since a keyframe."""
        at = sighting_of(now.frame, now.odometry, self._options)
        chain, start = self._odom.begin(at, turn)
        taken = self._maker.make(now, chain, Located(start.odom_from_camera, start.covariance))
        return self._without_movers(taken, before, None)

    def beside(self, missed: EncodedFrame, before: Keyframe) -> Keyframe | None:
        """A frame that matched nothing, to be tried as a keyframe of no chain.

        None where something moved through the view just before, and may fill it: the next frames
        would be given its motion for the camera's.
        """
        at = sighting_of(missed.frame, missed.odometry, self._options)
        place = self._odom.begin_beside(at, before.chain, self._options.gates)
        taken = self._maker.make(missed, BESIDE, Located(place, np.zeros((6, 6))))
        stillness = self._stillness(taken, before, None)
        return None if stillness.unsure else _with(taken, stillness)

    def beginning(self, beside: Keyframe) -> Keyframe:
        """The keyframe beside the chain begins a new one."""
        at = sighting_of(beside.frame, beside.odometry, self._options)
        chain, start = self._odom.begin(at, None)
        return replace(
            beside,
            chain=chain,
            odom_from_keyframe=start.odom_from_camera,
            odom_covariance=start.covariance,
        )

    def shows_movers(self, pose: MetricPose | None) -> bool:
        """Whether depth is to be asked what moves: of another camera or moment, everything does.

        pose: by the frame at hand, if there is one; odometry's says nothing of its depth.
        """
        by_depth = pose is None or pose.scale_source in (DEPTH, STEREO)
        asked = self._options.leave_out_movers and not self._checks.depth_doubted
        return by_depth and asked

    def _without_movers(
        self, taken: Keyframe, before: Keyframe | None, pose: MetricPose | None
    ) -> Keyframe:
        """The keyframe that knows what in it moved into view; pose: that connects it, if any."""
        return _with(taken, self._stillness(taken, before, pose))

    def _stillness(
        self, taken: Keyframe, before: Keyframe | None, pose: MetricPose | None
    ) -> Stillness:
        depth, frame = taken.seen_depth, taken.frame
        if depth is None or not self.shows_movers(pose):
            return Stillness()
        view = View(frame.stamp_ns, frame.camera, depth, taken.chain, taken.odom_from_keyframe)
        if pose is None and before is not None:
            newest = self._odom.newest(before.chain)
            expected = predicted(newest, frame.stamp_ns, self._options.gates)
            if newest is None or expected is None:
                return Stillness()
            view = replace(
                view,
                chain=newest.chain,
                odom_from_camera=expected.odom_from_camera,
                unseen_ns=frame.stamp_ns - newest.stamp_ns,
            )
        return self._scenery.stillness(view)


def _with(taken: Keyframe, stillness: Stillness) -> Keyframe:
    return replace(taken, still=stillness.still, seen_before=stillness.seen_before)
