"""The pose of a frame in its keyframe, and every check that it passes before it is believed.

    matches -> pose -> odometry against parallax -> bounds -> independent evidence
            -> plausible motion -> a place that only looks alike

Each check answers with the outcome, or with `Lost` that names the check and its numbers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.metric_pose import is_final
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.scene_depth import SceneDepth
from l2m_ros.tracking import odometry as wheels
from l2m_ros.tracking import parallax, scene_scale, two_depths
from l2m_ros.tracking.chain import locate
from l2m_ros.tracking.depth_odometry import ScaleAgainstOdometry
from l2m_ros.tracking.depth_trust import DEPTH, MOST_LEFT_OVER_STEREO, STEREO, DepthTrust
from l2m_ros.tracking.doubts import looks_alike
from l2m_ros.tracking.gates import StampedPose, gate, implausible_motion
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.motion import unexpected
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.tracking.odometry_trust import OdometryTrust
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.place import Place
from l2m_ros.tracking.readout import ShutterWatch
from l2m_ros.tracking.result import Outcome
from l2m_ros.tracking.scale_evidence import floor_below, scale_evidence
from l2m_ros.tracking.seam import Rows, seam
from l2m_ros.tracking.torn import Posed, Sign, after_torn, two_poses, unsupported_part
from l2m_ros.tracking.trust import contradicted_content, contradicted_scale, on_a_strip
from l2m_ros.types import Correspondences, Frame, Lost, LostReason, MetricPose, RelativePose

WARY_NS = 2_000_000_000  # how long odometry is not believed unchecked after it was contradicted
WARY = "odometry was contradicted a moment ago and nothing can check it here: the wheels may slip"
Remarks = dict[str, str | None]  # by what they are about; None: all is well with it


@dataclass(frozen=True, eq=False)
class MatchedFrame:
    """A frame matched against one keyframe."""

    frame: Frame
    odometry: OdometrySample | None
    keyframe: Keyframe
    pairs: Correspondences
    unsent: Rows | None = None  # (H,) rows that the image before, which was torn, lacked
    motion: ImageMotion | None = None


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
        self._scenes: dict[int, SceneDepth] = {}  # by keyframe, as odometry measured them
        self._sharpest = -1, 0.0  # a keyframe, and the least shape sigma of frames posed by it
        self._anchors: dict[int, scene_scale.Anchor] = {}  # by keyframe, after a slip
        self._slipped_ns: int | None = None  # when the scene last contradicted odometry
        self._agreed_ns = self._learned_ns = 0  # when it last agreed; when the scene became known
        self._depth_trust = {DEPTH: DepthTrust(), STEREO: DepthTrust(MOST_LEFT_OVER_STEREO)}
        self._wheels = OdometryTrust()
        self._scale = ScaleAgainstOdometry()
        self._shutter = ShutterWatch(self.options.pose.shutter_sigma_s)
        self._whole: Posed | None = None  # the newest image that was surely of one moment
        self._two_moments: tuple[int, Lost] | None = None  # the stamp of a torn image, and why
        self.torn_rows: Rows | None = None  # of the frame at hand, that are of another moment

    def pose(self, seen: MatchedFrame, before: Before) -> tuple[Outcome, Remarks]:
        """The pose, if it may be believed.

        Where depth is contradicted, odometry is asked.
        """
        step = self._odometry_step(seen)
        if self._shutter.prior_sigma_s != self.options.pose.shutter_sigma_s:
            self._shutter = ShutterWatch(self.options.pose.shutter_sigma_s)
        motion = self._shutter.motion(seen.keyframe, before.chain, seen.frame.stamp_ns)
        seen = replace(seen, motion=motion)
        outcome, remarks = self._checked(seen, before, step, self._pose_options)
        known = step is not None and parallax.SOURCE in self.options.pose.sources
        against_depth = remarks.get(DEPTH) or remarks.get(STEREO) or self._depth_spoils(outcome)
        if not known or not against_depth:
            return outcome, remarks
        alone = replace(self.options.pose, sources=(parallax.SOURCE,))
        other, others = self._checked(seen, before, step, alone)
        if isinstance(other, MetricPose):
            return other, {**remarks, **others}
        return outcome, remarks

    def _depth_spoils(self, outcome: Outcome) -> bool:
        """Whether no pose was found, with depth that was contradicted lately.

        Such depth says nothing of the matches.
        """
        doubted = any(record.doubted(self.options.trust) for record in self._depth_trust.values())
        return doubted and isinstance(outcome, Lost) and is_final(outcome)

    def _checked(
        self,
        seen: MatchedFrame,
        before: Before,
        step: OdometryStep | None,
        options: PoseOptions,
    ) -> tuple[Outcome, Remarks]:
        outcome = self._estimated(seen, step, options)
        outcome, slip = self._against_parallax(seen, step, outcome, options)
        slip = slip or (WARY if self._slips(seen) else None)
        remarks = {
            "odometry": slip,
            "odometry covariance": step.modelled if step else None,
            "depth scale": self._scale_words,
        }
        if not isinstance(outcome, Lost):
            outcome = self._torn(seen, outcome, step, options) or outcome
        if isinstance(outcome, MetricPose):
            against = self._against_scale(outcome, seen, step, options)
            if against is not None:
                return against, {**remarks, outcome.scale_source: against.detail}
        outcome = gate(outcome, self.options.gates)
        if not isinstance(outcome, Lost):
            frames = seen.frame, seen.keyframe.frame
            against = on_a_strip(outcome, seen.pairs, *frames)
            outcome = against or contradicted_content(outcome, seen.pairs, *frames) or outcome
        if isinstance(outcome, MetricPose):
            outcome = self._implausible(seen, outcome, before) or outcome
        if isinstance(outcome, MetricPose) and before.chain is not None:
            unseen_s = (seen.frame.stamp_ns - before.chain.stamp_ns) * 1e-9
            outcome = looks_alike(outcome, step, unseen_s) or outcome
        return outcome, remarks

    def _torn(
        self,
        seen: MatchedFrame,
        outcome: MetricPose | RelativePose,
        step: OdometryStep | None,
        options: PoseOptions,
    ) -> Lost | None:
        """Why the image is of two moments; once known, also against other keyframes."""
        stamp_ns, min_support = seen.frame.stamp_ns, self.options.trust.min_support
        if self._two_moments is not None and self._two_moments[0] == stamp_ns:
            return self._two_moments[1]
        rows, sign = seam(seen.frame.rgb, seen.keyframe.frame.rgb, seen.pairs), Sign.SEAM
        if seen.unsent is not None:
            lost = self._after_torn(outcome, seen, rows, seen.unsent)
            if lost is not None:
                self.torn_rows = seen.unsent
                return lost
            rows, sign = seen.unsent, Sign.AFTER_TORN
        if rows is None:
            return None

        def posed(pairs: Correspondences) -> Outcome:
            part = replace(seen, pairs=pairs)
            pose = self._estimated(part, step, options)
            if isinstance(pose, Lost):  # its depth may say nothing: of a sky
                pose = self._estimated(part, None, replace(options, sources=()))
            return pose

        lost = two_poses(seen.pairs, rows, sign, min_support=min_support, posed=posed)
        self._two_moments = None if lost is None else (stamp_ns, lost)
        self.torn_rows = None if lost is None else rows
        return lost

    def _after_torn(
        self, outcome: MetricPose | RelativePose, seen: MatchedFrame, below: Rows | None, rows: Rows
    ) -> Lost | None:
        """Why the image after a torn one is torn, too, without a look at the poses of its parts.

        below (H,): a seam, if there is one; rows (H,): that the image before lacked.
        """
        if below is not None and below.argmax() >= rows.argmax() - 1:
            return after_torn(rows, f"a seam runs across it at row {below.argmax()}")
        min_support = self.options.trust.min_support
        return unsupported_part(outcome, seen.pairs, rows, min_support, self._whole)

    @property
    def _pose_options(self) -> PoseOptions:
        """With a scale of the depth as unsure as odometry shows it to be."""
        options = self.options.pose
        excess = self._scale.excess(options.depth_scale_sigma)
        return replace(options, depth_scale_sigma=min(excess, 1.0)) if excess else options

    @property
    def _scale_words(self) -> str | None:
        excess = self._scale.excess(self.options.pose.depth_scale_sigma)
        if not excess:
            return None
        return (
            f"ways by depth and by odometry differ by {100 * excess:.0f} %, which is admitted: is "
            "depth's unit right? is odom's?"
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
        self.torn_rows = None
        for record in self._depth_trust.values():
            record.next_frame()

    def learn(self, seen: MatchedFrame, pose: MetricPose, before: Place | None) -> None:
        """A pose is believed. before: the newest place of its chain before it."""
        if seen.unsent is None:
            self._whole = pose, seen.pairs
        self._shutter.learn(seen.keyframe, pose, before, seen.frame.stamp_ns)
        if pose.scale_source == DEPTH:
            step = self._odometry_step(seen)
            self._scale.learn(seen.keyframe.id, pose, step, self.options.odometry)
        self._learn_scene(seen, pose)

    def _learn_scene(self, seen: MatchedFrame, pose: MetricPose) -> None:
        """The depth of a keyframe's scene, once a motion that odometry measured shows it."""
        keyframe = seen.keyframe
        if pose.scale_source == scene_scale.SOURCE and seen.odometry is not None:
            anchor = scene_scale.Anchor(pose.keyframe_from_camera, pose.covariance, seen.odometry)
            self._anchors[keyframe.id] = anchor
            self._wheels.restart(keyframe.id)
        if pose.scale_source != parallax.SOURCE or keyframe.id in self._scenes:
            return
        scene = parallax.learned_scene(keyframe, seen.frame, seen.pairs, pose)
        if scene is not None:
            self._scenes[keyframe.id] = scene
            self._agreed_ns = self._learned_ns = seen.frame.stamp_ns

    def hand_over(self, seen: MatchedFrame, pose: MetricPose, keyframe: Keyframe) -> None:
        """A posed frame became a keyframe: what its own keyframe knew is passed on to it."""
        self._shutter.take(keyframe)
        scene = self._scene_in_query(seen, pose)
        if scene is None:
            return
        self._scenes[keyframe.id] = scene
        if seen.keyframe.id not in self._scenes:
            self._agreed_ns = self._learned_ns = seen.frame.stamp_ns

    def keyframe_due(self, seen: MatchedFrame, pose: MetricPose, wanted: bool) -> bool:
        """Whether to take this frame as a keyframe.

        Where a known scene alone gives the metres: while the frame knows the scene well enough.
        """
        if pose.scale_source != scene_scale.SOURCE or seen.odometry is not None:
            return wanted
        scene = self._scene_in_query(seen, pose)
        keyframe, best = self._sharpest
        if scene is not None:
            new = scene.shape_sigma
            best = min(new, best) if keyframe == seen.keyframe.id else new
            self._sharpest = seen.keyframe.id, best
        return scene_scale.keyframe_due(scene, best, wanted)

    def _scene_in_query(self, seen: MatchedFrame, pose: MetricPose) -> SceneDepth | None:
        """What a posed frame knows of the scene that its keyframe knew."""
        known = self._scenes.get(seen.keyframe.id)
        scene, views = None, (seen.keyframe, seen.frame, seen.pairs, pose)
        if pose.scale_source == parallax.SOURCE:
            scene = parallax.depth_in_query(*views, known)
        elif pose.scale_source == scene_scale.SOURCE:
            scene = parallax.depth_in_query(*views, None)  # its metres are the known scene's own
        if scene is None and known is not None:
            scene = scene_scale.carried_scene(*views, known)
        return scene

    def forget_all_but(self, keyframes: Iterable[int]) -> None:
        kept = set(keyframes)
        self._scenes = {id: scene for id, scene in self._scenes.items() if id in kept}
        self._anchors = {id: anchor for id, anchor in self._anchors.items() if id in kept}
        self._shutter.forget_all_but(kept)
        self._wheels.forget_all_but(kept)

    def _odometry_step(self, seen: MatchedFrame) -> OdometryStep | None:
        o, anchor = self.options, self._anchors.get(seen.keyframe.id)
        start = seen.keyframe.odometry if anchor is None else anchor.odometry
        if start is None or seen.odometry is None or self._slips(seen):
            return None
        step = wheels.step(start, seen.odometry, o.odometry, o.base_from_camera)
        return step if anchor is None else anchor.followed_by(step)

    def _slips(self, seen: MatchedFrame) -> bool:
        """Odometry was wrong a moment ago, and no scene of known depth can check it here."""
        return seen.keyframe.id not in self._scenes and self._slipped_lately(seen)

    def _slipped_lately(self, seen: MatchedFrame) -> bool:
        return self._slipped_ns is not None and seen.frame.stamp_ns - self._slipped_ns < WARY_NS

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
            floor=floor_below(self.options),
            scene=scene,
            depth_noise=self._depth_trust[DEPTH].noise.factor,
        )

    def _against_parallax(
        self,
        seen: MatchedFrame,
        step: OdometryStep | None,
        outcome: Outcome,
        options: PoseOptions,
    ) -> tuple[Outcome, str | None]:
        """The outcome after odometry was held against what is seen, and what contradicts."""
        if isinstance(outcome, Lost):
            return outcome, None
        if step is None:
            return self._by_scene(seen, outcome, None, options), None
        against = self._wheels.against(seen.keyframe.id, outcome)
        if against is not None:
            self._slipped_ns = seen.frame.stamp_ns
            alone = self._estimated(seen, None, options)
            return self._by_scene(seen, alone, step, options), against
        scene, moved_m = self._scenes.get(seen.keyframe.id), step.a_from_b[:3, 3]
        judged = parallax.check(seen.keyframe, seen.frame, seen.pairs, outcome, scene, moved_m)
        if judged.outcome is None:
            self._slipped_ns = seen.frame.stamp_ns
        if judged.outcome is None or (judged.unchecked and self._slipped_lately(seen)):
            alone = self._estimated(seen, None, options)
            return self._by_scene(seen, alone, step, options), judged.contradiction or WARY
        if judged.agreed:
            self._agreed_ns = seen.frame.stamp_ns
        return self._by_scene(seen, judged.outcome, step, options), judged.contradiction

    def _by_scene(
        self,
        seen: MatchedFrame,
        outcome: Outcome,
        step: OdometryStep | None,
        options: PoseOptions,
    ) -> Outcome:
        """In metres by the scene's known depth, where odometry's length is wrong or absent.

        step: odometry's way, if there is one: its turn must agree, slip lengthens ways only.
        """
        scene = self._known_scene(seen)
        if scene is None or not isinstance(outcome, RelativePose):
            return outcome
        by_scene = replace(options, sources=(scene_scale.SOURCE,))
        pose: Outcome | None = None
        if not scene_scale.is_vague(scene):
            pose = self._estimated(seen, None, by_scene, scene)
        else:
            pose = self._length_by_scene(seen, outcome, step, options, scene)
        if not isinstance(pose, MetricPose) or scene_scale.contradicted(pose, self.options.trust):
            return outcome
        if step is not None and scene_scale.turned_otherwise(pose, step):
            return outcome
        return pose

    def _length_by_scene(
        self,
        seen: MatchedFrame,
        outcome: RelativePose,
        step: OdometryStep | None,
        options: PoseOptions,
        scene: SceneDepth,
    ) -> MetricPose | None:
        """The scene's metres for a motion that odometry's turn chose, or the scene's relief."""
        views = seen.keyframe, seen.frame, seen.pairs
        if step is not None:
            by_turn = replace(options, sources=(parallax.SOURCE,))
            turned = self._estimated(seen, scene_scale.turn_alone(step), by_turn)
            if isinstance(turned, MetricPose):
                return scene_scale.length_by_scene(*views, scene_scale.of_length_1(turned), scene)
        if scene.relief < scene_scale.MIN_RELIEF_ALONE:
            return None
        return scene_scale.length_by_scene(*views, outcome, scene)

    def _known_scene(self, seen: MatchedFrame) -> SceneDepth | None:
        """Of the keyframe, if odometry has agreed with it for long enough, and not long ago."""
        scene = self._scenes.get(seen.keyframe.id)
        if scene is None:
            return None
        established = self._agreed_ns - self._learned_ns >= scene_scale.ESTABLISHED_NS
        carried_ns = seen.frame.stamp_ns - self._agreed_ns
        return scene if established and carried_ns <= scene_scale.MAX_CARRIED_NS else None

    def _implausible(self, seen: MatchedFrame, pose: MetricPose, before: Before) -> Lost | None:
        stamp_ns, gates = seen.frame.stamp_ns, self.options.gates
        here = locate(seen.keyframe, pose).odom_from_camera
        fast = None
        if before.chain is not None:
            last = StampedPose(before.chain.stamp_ns, before.chain.odom_from_camera)
            fast = implausible_motion(last, StampedPose(stamp_ns, here), gates)
        return fast or unexpected(before.newest, stamp_ns, here, gates)
