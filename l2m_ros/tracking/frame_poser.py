"""One frame against one keyframe: matched, refined, posed.

What moves in either image is left out of the matches. A keyframe whose newcomer (somebody who came
into view with it) turns out to move is replaced by one that has only what was seen before.
"""

from __future__ import annotations

from dataclasses import replace

from l2m_ros.matching.mask import only_used
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.matching.subpixel import refined_pairs
from l2m_ros.tracking.attempt import Attempt, EncodedFrame
from l2m_ros.tracking.depth_unit import DepthUnit
from l2m_ros.tracking.keyframe_maker import KeyframeMaker
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.odom_frame import OdomFrame
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import Before, PoseChecks, Remarks
from l2m_ros.tracking.scenery import Scenery
from l2m_ros.types import Correspondences


class FramePoser:
    def __init__(
        self,
        matcher: Matcher,
        maker: KeyframeMaker,
        odom: OdomFrame,
        scenery: Scenery,
        checks: PoseChecks,
        depth_unit: DepthUnit,
    ) -> None:
        self._matcher, self._maker, self._odom = matcher, maker, odom
        self._scenery, self._checks, self._depth_unit = scenery, checks, depth_unit

    @property
    def _options(self) -> TrackerOptions:
        return self._checks.options

    def attempt(self, now: EncodedFrame, keyframe: Keyframe) -> Attempt:
        """Against this keyframe, or against what of it does not move."""
        match, pairs = self._matched(now, keyframe)
        frame = self._depth_unit.of(now.frame, keyframe.frame, pairs)
        seen = MatchedFrame(frame, now.odometry, keyframe, pairs, now.unsent)
        with now.times.stage("pose"):
            chain, gates = keyframe.chain, self._options.gates
            before = Before(self._odom.newest(chain), self._odom.moving(chain, gates))
            moves = self._checks.newcomer_moves(seen, before.chain)
        if moves:
            return self.attempt(now, _without_newcomer(keyframe))
        with now.times.stage("pose"):
            outcome, remarks = self._checks.pose(seen, before)
        return Attempt(match, seen, outcome, {**remarks, **self._remarks(now, seen, remarks)})

    def _matched(self, now: EncodedFrame, keyframe: Keyframe) -> tuple[Match, Correspondences]:
        with now.times.stage("match"):
            match = self._matcher.match(now.features, keyframe.reference)
            match = only_used(match, self._scenery.used, self._scenery.used)
            match = only_used(match, None, keyframe.still)
            pairs = correspondences(match, limit=self._options.max_matches)
        if self._options.subpixel:
            with now.times.stage("subpixel"):
                pairs = refined_pairs(match, pairs, now.frame.rgb, keyframe.frame.rgb)
        return match, pairs

    def _remarks(self, now: EncodedFrame, seen: MatchedFrame, of_pose: Remarks) -> Remarks:
        return {
            "frozen": now.frozen,
            "moving": _moving_words(seen.keyframe),
            "own parts": self._scenery.own_parts,
            "depth unit": self._depth_unit.words,
            "stereo": self._maker.stereo_problem or of_pose.get("stereo"),
        }


def _without_newcomer(before: Keyframe) -> Keyframe:
    """The keyframe, of which only what was seen before is matched."""
    assert before.seen_before is not None
    still = before.seen_before if before.still is None else before.seen_before & before.still
    return replace(before, still=still, seen_before=None)


def _moving_words(keyframe: Keyframe) -> str | None:
    if keyframe.still is None:
        return None
    share = 1.0 - float(keyframe.still.mean())
    return (
        f"{100 * share:.0f} % of keyframe {keyframe.id} moved into view and is not matched "
        "(tracking.leave_out_movers)"
    )
