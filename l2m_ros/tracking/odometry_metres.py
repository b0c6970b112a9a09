"""Metres by odometry and, while it errs or is silent, by the scene that its way has shown.

    odometry's way since the keyframe -> against what is seen of it -> the outcome, or
        wrong or absent -> the matches alone -> with the metres of the scene, if it is known

What a known scene is good for is in `scene_scale.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from l2m_ros.geometry.scene_depth import SceneDepth
from l2m_ros.tracking import odometry as wheels
from l2m_ros.tracking import parallax, scene_scale
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.known_scenes import KnownScenes
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.odometry import OdometryStep
from l2m_ros.tracking.odometry_speed import OdometrySpeed
from l2m_ros.tracking.odometry_trust import OdometryTrust
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.result import Outcome
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import Lost, MetricPose, RelativePose

WARY_NS = 2_000_000_000  # how long odometry is not believed unchecked after it was contradicted
# ... and for how long then its ways may be as wrong as slip makes them: what slipped slips again.
PROBATION_NS = 10_000_000_000
LEAPT = f"odometry sped up as no base does, and nothing can check it here: {parallax.REMEDY}"
WARY = f"odometry was contradicted a moment ago and nothing can check it here: {parallax.REMEDY}"


class Estimate(Protocol):
    """The pose of the frame at hand; sources: None for those of the options."""

    def __call__(
        self,
        step: OdometryStep | None,
        sources: tuple[str, ...] | None = None,
        scene: SceneDepth | None = None,
    ) -> Outcome: ...


class OdometryMetres:
    """Remembers where odometry erred, and the scenes that it has shown."""

    def __init__(self) -> None:
        self._scenes = KnownScenes()
        self._anchors: dict[int, scene_scale.Anchor] = {}  # by keyframe, after a slip
        self.forget_odometry()

    def forget_odometry(self) -> None:
        """What was held against it: from now on it is read of another moment."""
        self._slipped_ns: int | None = None  # when the scene last contradicted odometry
        self._trust = OdometryTrust()
        self._speed = OdometrySpeed()

    def step(self, seen: MatchedFrame, options: TrackerOptions) -> OdometryStep | None:
        """Odometry's way since the keyframe; None where there is none to be believed."""
        if seen.odometry is not None:
            self._speed.see(seen.odometry, options.gates.max_acceleration_m_s2)
        anchor = self._anchors.get(seen.keyframe.id)
        start = seen.keyframe.odometry if anchor is None else anchor.odometry
        if start is None or seen.odometry is None or self.slips(seen):
            return None
        step = wheels.step(start, seen.odometry, options.odometry, options.base_from_camera)
        if self._scenes.of(seen.keyframe) is None and self._may_slip(seen):
            step = scene_scale.turn_alone(step)
        return step if anchor is None else anchor.followed_by(step)

    def slips(self, seen: MatchedFrame) -> bool:
        """Odometry was wrong a moment ago, and no scene of known depth can check it here."""
        return self._scenes.of(seen.keyframe) is None and self._slipped_within(WARY_NS, seen)

    def _may_slip(self, seen: MatchedFrame) -> bool:
        """Whether odometry's length is not believed where no known scene checks it."""
        return self._slipped_within(PROBATION_NS, seen) or self._speed.suspect(seen.frame.stamp_ns)

    def _slipped_within(self, time_ns: int, seen: MatchedFrame) -> bool:
        return self._slipped_ns is not None and seen.frame.stamp_ns - self._slipped_ns < time_ns

    def checked(
        self,
        seen: MatchedFrame,
        step: OdometryStep | None,
        outcome: Outcome,
        estimate: Estimate,
        trust: TrustOptions,
    ) -> tuple[Outcome, str | None]:
        """The outcome after odometry was held against what is seen, and what contradicts."""
        if isinstance(outcome, Lost):
            return outcome, None
        if step is None:
            return self._by_scene(seen, outcome, None, estimate, trust), None
        against = self._trust.against(seen.keyframe.id, outcome)
        if against is not None:
            self._slipped_ns = seen.frame.stamp_ns
            return self._by_scene(seen, estimate(None), step, estimate, trust), against
        scene, moved_m = self._scenes.of(seen.keyframe), step.a_from_b[:3, 3]
        judged = parallax.check(seen.keyframe, seen.frame, seen.pairs, outcome, scene, moved_m)
        if judged.outcome is None:
            self._slipped_ns = seen.frame.stamp_ns
        leapt = self._speed.suspect(seen.frame.stamp_ns)
        doubted = leapt or self._slipped_within(WARY_NS, seen)
        if judged.outcome is None or (judged.unchecked and doubted):
            alone = self._by_scene(seen, estimate(None), step, estimate, trust)
            return alone, judged.contradiction or (LEAPT if leapt else WARY)
        if judged.agreed:
            self._speed.agree()
            self._scenes.agree(seen)
        by_scene = self._by_scene(seen, judged.outcome, step, estimate, trust)
        return by_scene, judged.contradiction

    def _by_scene(
        self,
        seen: MatchedFrame,
        outcome: Outcome,
        step: OdometryStep | None,
        estimate: Estimate,
        trust: TrustOptions,
    ) -> Outcome:
        """In metres by the scene's known depth, where odometry's length is wrong or absent.

        step: odometry's way, if there is one: its turn must agree, slip lengthens ways only.
        """
        scene = self._scenes.in_metres(seen)
        if scene is None or not isinstance(outcome, RelativePose):
            return outcome
        pose: Outcome | None = None
        if not scene_scale.is_vague(scene):
            pose = estimate(None, (scene_scale.SOURCE,), scene)
        else:
            pose = _length_by_scene(seen, outcome, step, estimate, scene)
        if not isinstance(pose, MetricPose) or scene_scale.contradicted(pose, trust):
            return outcome
        if step is not None and scene_scale.turned_otherwise(pose, step):
            return outcome
        return pose

    def learn(self, seen: MatchedFrame, pose: MetricPose) -> None:
        """A pose is believed; odometry anew from here on, where the scene gave the metres."""
        if pose.scale_source == scene_scale.SOURCE and seen.odometry is not None:
            anchor = scene_scale.Anchor(pose.keyframe_from_camera, pose.covariance, seen.odometry)
            self._anchors[seen.keyframe.id] = anchor
            self._trust.restart(seen.keyframe.id)
        self._scenes.learn(seen, pose)

    def hand_over(self, seen: MatchedFrame, pose: MetricPose, keyframe: Keyframe) -> None:
        """A posed frame became a keyframe: what its own keyframe knew is passed on to it."""
        self._scenes.hand_over(seen, pose, keyframe)

    def keyframe_due(self, seen: MatchedFrame, pose: MetricPose, wanted: bool) -> bool:
        """Whether to take this frame as a keyframe."""
        return self._scenes.keyframe_due(seen, pose, wanted)

    def forget_all_but(self, keyframes: Iterable[int]) -> None:
        kept = set(keyframes)
        self._scenes.forget_all_but(kept)
        self._anchors = {id: anchor for id, anchor in self._anchors.items() if id in kept}
        self._trust.forget_all_but(kept)


def _length_by_scene(
    seen: MatchedFrame,
    outcome: RelativePose,
    step: OdometryStep | None,
    estimate: Estimate,
    scene: SceneDepth,
) -> MetricPose | None:
    """The scene's metres for a motion that odometry's turn chose, or the scene's relief."""
    views = seen.keyframe, seen.frame, seen.pairs
    if step is not None:
        turned = estimate(scene_scale.turn_alone(step), (parallax.SOURCE,))
        if isinstance(turned, MetricPose):
            pose = scene_scale.length_by_scene(*views, scene_scale.of_length_1(turned), scene)
            return None if pose is None else replace(pose, seen_turn=turned.seen_turn)
    if scene.relief < scene_scale.MIN_RELIEF_ALONE:
        return None
    return scene_scale.length_by_scene(*views, outcome, scene)
