"""The pose of a frame in its keyframe, and every check that it passes before it is believed.

    matches -> pose -> odometry against parallax -> bounds -> independent evidence
            -> plausible motion -> a place that only looks alike

Each check answers with the outcome, or with `Lost` that names the check and its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.late_depth import DepthMoments
from l2m_ros.geometry.metric_pose import is_final
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.scene_depth import SceneDepth
from l2m_ros.tracking import parallax, scene_scale, two_depths
from l2m_ros.tracking.chain import locate
from l2m_ros.tracking.depth_odometry import MOST_EXCESS, FirstAgreement, ScaleAgainstOdometry
from l2m_ros.tracking.depth_trust import DEPTH, MOST_LEFT_OVER_STEREO, STEREO, DepthTrust
from l2m_ros.tracking.doubts import looks_alike
from l2m_ros.tracking.gates import StampedPose, gate, implausible_motion
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.mirrored import MirrorWatch
from l2m_ros.tracking.motion import predicted, unexpected
from l2m_ros.tracking.newcomers import newcomer_moves
from l2m_ros.tracking.odometry import OdometryStep
from l2m_ros.tracking.odometry_metres import WARY, Estimate, OdometryMetres
from l2m_ros.tracking.odometry_witness import OdometryWitness
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.place import Place
from l2m_ros.tracking.readout import ShutterWatch
from l2m_ros.tracking.result import Outcome
from l2m_ros.tracking.scale_evidence import floor_below, scale_evidence
from l2m_ros.tracking.seam import Rows
from l2m_ros.tracking.second_motion import TwoMotions, second_motion
from l2m_ros.tracking.torn_check import TornCheck
from l2m_ros.tracking.trust import (
    contradicted_content,
    contradicted_rest,
    contradicted_scale,
    on_a_strip,
)
from l2m_ros.tracking.turns import Turns
from l2m_ros.types import Correspondences, Frame, Lost, LostReason, MetricPose, RelativePose

# Of the bound on a second motion, without depth: bad matches suit epipolar lines, too.
BY_LINES = 2.0
Remarks = dict[str, str | None]  # by what they are about; None: all is well with it


@dataclass(frozen=True, eq=False)
class Before:
    """Where the camera was, in the odom of the keyframe's chain."""

    chain: Place | None  # the newest place of the chain
    newest: Place | None  # or of a keyframe beside it, if that is newer


class PoseChecks:
    """Remembers of each keyframe what a later pose is held against."""

    def __init__(self, options: TrackerOptions) -> None:
        self.options = options
        self.reset()

    def reset(self) -> None:
        self._metres = OdometryMetres()
        self.forget_odometry()
        self._depth_trust = {DEPTH: DepthTrust(), STEREO: DepthTrust(MOST_LEFT_OVER_STEREO)}
        self._shutter = ShutterWatch(self.options.pose.shutter_sigma_s)
        self._turns = Turns()
        self._torn = TornCheck()
        self._motions = TwoMotions()

    def forget_odometry(self) -> None:
        """What was held against it: from now on it is read of another moment."""
        self._metres.forget_odometry()
        self._scale, self._first = ScaleAgainstOdometry(), FirstAgreement()
        self._mirrored, self._witness = MirrorWatch(), OdometryWitness()

    def pose(self, seen: MatchedFrame, before: Before) -> tuple[Outcome, Remarks]:
        """The pose, if it may be believed.

        Where depth is contradicted, odometry is asked.
        """
        step = self._metres.step(seen, self.options)
        if self._shutter.prior_sigma_s != self.options.pose.shutter_sigma_s:
            self._shutter = ShutterWatch(self.options.pose.shutter_sigma_s)
        motion = self._shutter.motion(seen.keyframe, before.chain, seen.frame.stamp_ns)
        seen = replace(seen, motion=motion, moments=self._depth_moments(seen))
        outcome, remarks = self._checked(seen, before, step, self._pose_options)
        known = step is not None and parallax.SOURCE in self.options.pose.sources
        against_depth = remarks.get(DEPTH) or remarks.get(STEREO) or self._depth_spoils(outcome)
        if known and against_depth:
            alone = replace(self.options.pose, sources=(parallax.SOURCE,))
            other, others = self._checked(seen, before, step, alone)
            if isinstance(other, MetricPose):
                outcome, remarks = other, {**remarks, **others}
        return self._as_both_say(outcome, seen), remarks

    def _as_both_say(self, outcome: Outcome, seen: MatchedFrame) -> Outcome:
        """The outcome no surer of its metres than depth and odometry agree on them.

        Without metres where they are too far apart, or one is the other's mirror image; depth is
        held against odometry all the same, so that a slip is forgotten.
        """
        excess, mirrored = self._scale_excess, self._mirrored.words
        if isinstance(outcome, MetricPose) and mirrored:
            return replace(scene_scale.of_length_1(outcome), why_not_metric=mirrored)
        if not isinstance(outcome, MetricPose) or not excess:
            return outcome
        by_depth = outcome.scale_source == DEPTH
        if not by_depth and outcome.scale_source not in (parallax.SOURCE, scene_scale.SOURCE):
            return outcome
        self._learn_scale(seen, outcome)
        if excess > MOST_EXCESS:
            return replace(scene_scale.of_length_1(outcome), why_not_metric=self._scale_words or "")
        if by_depth:
            return outcome  # its covariance has it already
        t = outcome.keyframe_from_camera[:3, 3]
        P = outcome.covariance.copy()
        P[:3, :3] += excess**2 * np.outer(t, t)
        unsure = float(np.hypot(outcome.scale_sigma, excess))
        return gate(replace(outcome, covariance=P, scale_sigma=unsure), self.options.gates)

    def newcomer_moves(self, seen: MatchedFrame, before: Place | None) -> bool:
        """Whether what came near in the keyframe's view, where nothing was seen before, moves.

        Depth that was contradicted lately is not asked. before: the newest place of its chain.
        """
        if seen.keyframe.seen_before is None or self.depth_doubted:
            return False
        posed = partial(self._part, seen, None, self._pose_options)
        motion = predicted(before, seen.frame.stamp_ns, self.options.gates)
        expected = None
        if motion is not None:
            expected = se3.inverse(seen.keyframe.odom_from_keyframe) @ motion.odom_from_camera
        bound = self.options.trust.max_second_motion
        return newcomer_moves(seen.pairs, seen.frame, seen.keyframe, posed, bound, expected)

    def _depth_moments(self, seen: MatchedFrame) -> DepthMoments:
        """How the camera turned while both were taken, where their depth is of other moments."""
        keyframe, frame = seen.keyframe, seen.frame
        if not (frame.depth_late_s or keyframe.frame.depth_late_s):
            return DepthMoments()
        self._turns.see(keyframe, frame, seen.pairs)
        return DepthMoments(self._turns.of_keyframe(keyframe), self._turns.of_frame(frame))

    def _depth_spoils(self, outcome: Outcome) -> bool:
        """Whether no pose was found, with depth that was contradicted lately.

        Such depth says nothing of the matches.
        """
        return self.depth_doubted and isinstance(outcome, Lost) and is_final(outcome)

    @property
    def depth_doubted(self) -> bool:
        """Whether depth, or that of a stereo pair, was contradicted lately."""
        return any(record.doubted(self.options.trust) for record in self._depth_trust.values())

    def _checked(
        self,
        seen: MatchedFrame,
        before: Before,
        step: OdometryStep | None,
        options: PoseOptions,
    ) -> tuple[Outcome, Remarks]:
        outcome = self._estimated(seen, step, options)
        estimate = self._estimate(seen, options)
        outcome, slip = self._metres.checked(seen, step, outcome, estimate, self.options.trust)
        slip = slip or (WARY if self._metres.slips(seen) else None)
        remarks = {
            "odometry": slip,
            "odometry covariance": step.modelled if step else None,
            "depth scale": self._scale_words,
        }
        if not isinstance(outcome, Lost):
            parts = partial(self._part, seen, step, options)
            least = self.options.trust.min_support
            outcome = self._torn.against(seen, outcome, parts, least) or outcome
        if isinstance(outcome, MetricPose):
            against = self._against_scale(outcome, seen, step, options)
            if against is not None:
                return against, {**remarks, outcome.scale_source: against.detail}
        outcome = gate(outcome, self.options.gates)
        if not isinstance(outcome, Lost):
            frames = seen.frame, seen.keyframe.frame
            against = on_a_strip(outcome, seen.pairs, *frames)
            outcome = against or contradicted_content(outcome, seen.pairs, *frames) or outcome
        if not isinstance(outcome, Lost):
            rest = partial(self._part, seen, None, options)
            outcome = self._beside_another(seen, outcome, rest, step) or outcome
        if isinstance(outcome, MetricPose):
            outcome = self._implausible(seen, outcome, before) or outcome
        if isinstance(outcome, MetricPose) and before.chain is not None:
            unseen_s = (seen.frame.stamp_ns - before.chain.stamp_ns) * 1e-9
            outcome = looks_alike(outcome, step, unseen_s) or outcome
        if isinstance(outcome, MetricPose) and outcome.scale_source in self._depth_trust:
            gates, stamp_ns = self.options.gates, seen.frame.stamp_ns
            self._mirrored.see(seen.keyframe.id, outcome, step)
            outcome = self._first.admitted(outcome, step, stamp_ns, gates)
        return outcome, remarks

    def _beside_another(
        self,
        seen: MatchedFrame,
        outcome: MetricPose | RelativePose,
        posed: Callable[[Correspondences], Outcome],
        step: OdometryStep | None,
    ) -> Lost | None:
        """Why the pose is not believed beside a second motion."""
        by_depth = isinstance(outcome, MetricPose) and outcome.scale_source in (DEPTH, STEREO)
        if not by_depth:
            frames = seen.frame, seen.keyframe.frame
            if against := contradicted_rest(outcome, seen.pairs, *frames):
                return against
        most = self.options.trust.max_second_motion * (1.0 if by_depth else BY_LINES)
        views = seen.pairs, seen.frame, seen.keyframe.frame
        share = second_motion(outcome, *views, posed, most)
        lost = self._motions.against(outcome, seen.pairs, seen.frame, share, most)
        if lost is None and by_depth and isinstance(outcome, MetricPose):
            two = self._motions.lately(seen.frame.stamp_ns)
            return self._witness.against(outcome, step, *views, posed, two_lately=two)
        return lost

    def _part(
        self,
        seen: MatchedFrame,
        step: OdometryStep | None,
        options: PoseOptions,
        pairs: Correspondences,
    ) -> Outcome:
        """The pose by a part of the matches."""
        part = replace(seen, pairs=pairs)
        pose = self._estimated(part, step, options)
        if isinstance(pose, Lost):  # its depth may say nothing: of a sky
            pose = self._estimated(part, None, replace(options, sources=()))
        return pose

    def torn_rows(self, frame: Frame) -> Rows | None:
        """(H,) of a frame whose matches show that it is torn: rows of another moment."""
        return self._torn.rows(frame.stamp_ns)

    @property
    def _pose_options(self) -> PoseOptions:
        """With a scale of the depth as unsure as odometry shows it to be."""
        options, excess = self.options.pose, self._scale_excess
        admitted = min(excess, MOST_EXCESS)
        return replace(options, depth_scale_sigma=admitted) if excess else options

    @property
    def _scale_excess(self) -> float:
        """By how much ways by depth and by odometry differ; depth in doubt is no witness."""
        sigma = self.options.pose.depth_scale_sigma
        return 0.0 if self.depth_doubted else self._scale.excess(sigma)

    @property
    def _scale_words(self) -> str | None:
        excess = self._scale_excess
        if not excess:
            return None
        differ = f"ways by depth and by odometry differ by {100 * np.expm1(excess):.0f} %"
        if excess <= MOST_EXCESS:
            return f"{differ}, which is admitted: is depth's unit right? is odom's?"
        return (
            f"{differ}, and neither is believed: is depth's unit right? is odom's, and is it this "
            "robot's? depth: ignore or odom: ignore leaves one out"
        )

    def _against_scale(
        self,
        pose: MetricPose,
        seen: MatchedFrame,
        step: OdometryStep | None,
        options: PoseOptions,
    ) -> Lost | None:
        trust, keyframe = self.options.trust, seen.keyframe.id
        against = contradicted_scale(pose, trust) or two_depths.contradict(
            pose, seen.pairs, seen.frame, seen.keyframe.frame, options, self._evidence(seen, step)
        )
        record = self._depth_trust.get(pose.scale_source)
        if record is None:
            return against
        doubted = record.doubted(trust)
        contradicted = against is not None
        against = record.against(pose, trust, keyframe, contradicted) or against
        if against is None and doubted and step is not None:
            words = f"{pose.scale_source} was contradicted lately: odometry is used"
            return Lost(LostReason.CONTRADICTED, words)
        return against

    def next_frame(self) -> None:
        """What follows is of another frame than what came before."""
        for record in self._depth_trust.values():
            record.next_frame()

    def learn(self, seen: MatchedFrame, pose: MetricPose, before: Place | None) -> None:
        """A pose is believed. before: the newest place of its chain before it."""
        self._torn.believe(seen, pose)
        self._shutter.learn(seen.keyframe, pose, before, seen.frame.stamp_ns)
        self._learn_scale(seen, pose)
        self._metres.learn(seen, pose)

    def _learn_scale(self, seen: MatchedFrame, pose: MetricPose) -> None:
        if pose.scale_source == DEPTH:
            step = self._metres.step(seen, self.options)
            self._scale.learn(seen.keyframe.id, pose, step, self.options.odometry)

    def hand_over(self, seen: MatchedFrame, pose: MetricPose, keyframe: Keyframe) -> None:
        """A posed frame became a keyframe: what its own keyframe knew is passed on to it."""
        self._shutter.take(keyframe)
        self._metres.hand_over(seen, pose, keyframe)

    def keyframe_due(self, seen: MatchedFrame, pose: MetricPose, wanted: bool) -> bool:
        """Whether to take this frame as a keyframe."""
        return self._metres.keyframe_due(seen, pose, wanted)

    def forget_all_but(self, keyframes: Iterable[int]) -> None:
        kept = set(keyframes)
        self._metres.forget_all_but(kept)
        self._shutter.forget_all_but(kept)
        self._turns.forget_all_but(kept)

    def _estimate(self, seen: MatchedFrame, options: PoseOptions) -> Estimate:
        def estimate(
            step: OdometryStep | None,
            sources: tuple[str, ...] | None = None,
            scene: SceneDepth | None = None,
        ) -> Outcome:
            asked = options if sources is None else replace(options, sources=sources)
            return self._estimated(seen, step, asked, scene)

        return estimate

    def _estimated(
        self,
        seen: MatchedFrame,
        step: OdometryStep | None,
        options: PoseOptions,
        scene: SceneDepth | None = None,
    ) -> Outcome:
        evidence = self._evidence(seen, step, scene)
        return estimate_pose(seen.pairs, seen.frame, seen.keyframe.frame, options, evidence)

    def _evidence(
        self, seen: MatchedFrame, step: OdometryStep | None, scene: SceneDepth | None = None
    ) -> ScaleEvidence:
        return replace(
            scale_evidence(seen.keyframe, step),
            motion=seen.motion,
            moments=seen.moments,
            floor=floor_below(self.options),
            scene=scene,
            depth_noise=self._depth_trust[DEPTH].noise.factor,
        )

    def _implausible(self, seen: MatchedFrame, pose: MetricPose, before: Before) -> Lost | None:
        stamp_ns, gates = seen.frame.stamp_ns, self.options.gates
        here = locate(seen.keyframe, pose).odom_from_camera
        fast = None
        if before.chain is not None:
            last = StampedPose(before.chain.stamp_ns, before.chain.odom_from_camera)
            fast = implausible_motion(last, StampedPose(stamp_ns, here), gates)
        return fast or unexpected(before.newest, stamp_ns, here, gates)
