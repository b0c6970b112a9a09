"""Frame after frame against a kept keyframe: where is the camera, and which keyframe next?

    frame -> encode -> match against the keyframe -> pose -> gates -> keep or replace the keyframe

Expected failure is a value (`Lost`); after it the last few keyframes are tried, one more each
frame, before a new chain begins.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from l2m_ros.geometry.camera import unproject
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.mono_depth import DepthReader
from l2m_ros.matching.sampling import correspondences
from l2m_ros.matching.subpixel import refined_pairs
from l2m_ros.timing import StageTimes
from l2m_ros.tracking import chain_scale
from l2m_ros.tracking.chain import Located, UnseenMotion, locate
from l2m_ros.tracking.doubts import repeated_image
from l2m_ros.tracking.keyframes import (
    Keyframe,
    KeyframePolicy,
    Quality,
    certain_fraction,
    coverage,
    parallax_rad,
    zoom,
)
from l2m_ros.tracking.odom_frame import OdomFrame, Sighting, moved_chain
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import MatchedFrame, PoseChecks, Remarks
from l2m_ros.tracking.result import Outcome, TrackResult, TrackState
from l2m_ros.tracking.stereo_watch import StereoWatch
from l2m_ros.tracking.torn import Rows, repeated_rows
from l2m_ros.tracking.velocity import twist_between
from l2m_ros.types import (
    Features,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

DEFAULTS = TrackerOptions()


@dataclass(frozen=True, eq=False)
class _EncodedFrame:
    """The frame at hand, encoded."""

    frame: Frame
    odometry: OdometrySample | None
    features: Features
    rejection: str | None  # why it may not become a keyframe
    repeated_rows: Rows | None  # (H,) those that are the image's before
    times: StageTimes


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A frame matched against one keyframe."""

    match: Match
    seen: MatchedFrame
    outcome: Outcome
    remarks: Remarks

    @property
    def keyframe(self) -> Keyframe:
        return self.seen.keyframe


class Tracker:
    """Tracks a camera against keyframes: one `process` per frame.

    No ROS, no threads; the same frames give the same results.
    """

    def __init__(
        self,
        matcher: Matcher,
        options: TrackerOptions = DEFAULTS,
        depth_reader: DepthReader | None = None,
    ) -> None:
        """depth_reader: reads metres from keyframes that have no depth of their own."""
        self._matcher, self._depth_reader = matcher, depth_reader
        self.options = options
        self._policy = KeyframePolicy(options.keyframes)
        self._next_id = 0
        self._odom, self._checks = OdomFrame(), PoseChecks(options)
        self._stereo = StereoWatch()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame begins a new chain at the origin."""
        self._keyframe: Keyframe | None = None
        self._kept: deque[Keyframe] = deque(maxlen=self.options.kept_keyframes)
        self._checks.reset()
        self._odom.reset()
        self._before: tuple[Frame, OdometrySample | None] | None = None
        self._lost = 0
        self._requested = False
        self._policy.forget()

    @property
    def keyframe(self) -> Keyframe | None:
        """What the next frame is matched against."""
        return self._keyframe

    def set_keyframe(self) -> None:
        """The next frame becomes the keyframe (chained to the old one where it is posed)."""
        self._requested = True

    def reconfigure(self, options: TrackerOptions) -> None:
        """Other bounds from the next frame on; the keyframe stays."""
        if options.keyframes != self.options.keyframes:
            self._policy = KeyframePolicy(options.keyframes)
        if options.kept_keyframes != self.options.kept_keyframes:
            self._kept = deque(self._kept, maxlen=options.kept_keyframes)
        self.options = self._checks.options = options

    def process(self, frame: Frame, odometry: OdometrySample | None = None) -> TrackResult:
        times = StageTimes()
        doubt, rows = self._repeated(frame, odometry)
        self._before = frame, odometry
        if doubt is not None:
            return TrackResult(
                TrackState.LOST, _words(doubt), frame, self._keyframe, doubt, stages_ms=times.ms
            )
        with times.stage("encode"):
            features = self._matcher.encode(frame.rgb)
        rejection = self._policy.rejection(frame.rgb)
        if rows is not None:
            rejection = rejection or "rows of the image before are in it"
        now = _EncodedFrame(frame, odometry, features, rejection, rows, times)
        if self._keyframe is None:
            return self._start_chain(now, "the first frame")
        self._requested |= _gains_depth(self._keyframe, frame)
        attempt = self._attempt(now, self._keyframe)
        if isinstance(attempt.outcome, Lost):
            attempt = self._recover(now, attempt)
        if isinstance(attempt.outcome, Lost):
            return self._after_loss(now, attempt, attempt.outcome)
        return self._after_success(now, attempt)

    def _repeated(
        self, frame: Frame, odometry: OdometrySample | None
    ) -> tuple[Lost | None, Rows | None]:
        """Whether the image, or which of its rows, are those of the image before."""
        if self._before is None or self.options.accept_repeated:
            return None, None
        before, odometry_before = self._before
        if frame.stamp_ns <= before.stamp_ns:
            return None, None
        doubt = repeated_image(frame.rgb, before.rgb, odometry, odometry_before)
        rows = repeated_rows(frame.rgb, before.rgb)
        return doubt, None if rows is None or rows.all() else rows

    def _attempt(self, now: _EncodedFrame, keyframe: Keyframe) -> _Attempt:
        with now.times.stage("match"):
            match = self._matcher.match(now.features, keyframe.reference)
            pairs = correspondences(match, limit=self.options.max_matches)
        if self.options.subpixel:
            with now.times.stage("subpixel"):
                pairs = refined_pairs(match, pairs, now.frame.rgb, keyframe.frame.rgb)
        seen = MatchedFrame(now.frame, now.odometry, keyframe, pairs, now.repeated_rows)
        with now.times.stage("pose"):
            outcome, remarks = self._checks.pose(seen, self._odom.newest(keyframe.chain))
        return _Attempt(match, seen, outcome, {**remarks, "stereo": self._stereo.problem})

    def _recover(self, now: _EncodedFrame, failed: _Attempt) -> _Attempt:
        """Try one of the earlier keyframes, another one each frame, the newest first."""
        others = [kept for kept in reversed(self._kept) if kept is not failed.keyframe]
        if not others:
            return failed
        attempt = self._attempt(now, others[self._lost % len(others)])
        return failed if isinstance(attempt.outcome, Lost) else attempt

    def _after_loss(self, now: _EncodedFrame, attempt: _Attempt, lost: Lost) -> TrackResult:
        self._lost += 1
        reason = _words(lost)
        elsewhere = lost.reason is LostReason.LOOKS_ALIKE
        patience = self._policy.patience(self.options.restart_after)
        if self._requested or elsewhere or self._lost >= patience:
            return self._start_chain(now, f"lost for {self._lost} frames ({reason})")
        return _result(TrackState.LOST, reason, now, attempt)

    def _after_success(self, now: _EncodedFrame, attempt: _Attempt) -> TrackResult:
        found = attempt.keyframe is not self._keyframe
        self._lost, self._keyframe = 0, attempt.keyframe
        if found:
            self._policy.restart()
        reason = f"found again at keyframe {attempt.keyframe.id}" if found else "tracking"
        if isinstance(attempt.outcome, MetricPose):
            result = self._place(now, attempt, attempt.outcome, reason)
        else:
            result = _result(TrackState.TRACKING, reason, now, attempt)
        wanted = self._policy.wants_keyframe(_quality(now.frame, attempt)) or self._requested
        if not wanted or now.rejection is not None:
            return result
        if isinstance(attempt.outcome, MetricPose):
            self._make_connected_keyframe(now, attempt, attempt.outcome)
            return replace(result, new_keyframe=True)
        assert isinstance(attempt.outcome, RelativePose)
        taken = self._make_unconnected_keyframe(now, (attempt.keyframe, attempt.outcome))
        event = self._odom.event(taken, self._sighting(now), "no pose in metres connects it")
        return replace(result, new_keyframe=True, chain_event=event)

    def _place(
        self, now: _EncodedFrame, attempt: _Attempt, pose: MetricPose, reason: str
    ) -> TrackResult:
        """The result of a posed frame, with its place in odom and its velocity."""
        sighting, keyframe = self._sighting(now), attempt.keyframe
        before = self._odom.newest(keyframe.chain)
        moved = self._odom.rejoin(keyframe, pose, sighting)
        event = self._odom.event(moved, sighting, reason)
        if moved is not keyframe:
            self._kept = deque(moved_chain(self._kept, keyframe, moved), self._kept.maxlen)
            self._keyframe = moved
        place, seen = (
            self._odom.publish(moved, pose, sighting),
            replace(attempt.seen, keyframe=moved),
        )
        self._checks.learn_scene(seen, pose)
        return replace(
            _result(TrackState.TRACKING, reason, now, replace(attempt, seen=seen)),
            odom_from_camera=place.odom_from_camera,
            odom_covariance=place.covariance,
            twist=twist_between(before, place),
            chain_event=event,
        )

    def _sighting(self, now: _EncodedFrame) -> Sighting:
        o = self.options
        unseen = UnseenMotion(o.gates.max_speed_m_s, o.gates.max_turn_rad_s)
        return Sighting(now.frame.stamp_ns, now.odometry, o.base_from_camera, unseen)

    def _start_chain(self, now: _EncodedFrame, why: str) -> TrackResult:
        """Start a new chain at this frame, where the last one is thought to have ended."""
        if now.rejection is not None:
            state = TrackState.WAITING if self._keyframe is None else TrackState.LOST
            reason = f"no keyframe yet: {now.rejection}"
            return TrackResult(state, reason, now.frame, self._keyframe, stages_ms=now.times.ms)
        taken = self._make_unconnected_keyframe(now, None)
        reason = f"new chain {taken.chain} at keyframe {taken.id}: {why}"
        return TrackResult(
            TrackState.TRACKING,
            reason,
            now.frame,
            taken,
            new_keyframe=True,
            chain_event=self._odom.event(taken, self._sighting(now), why),
            stages_ms=now.times.ms,
        )

    def _make_connected_keyframe(
        self, now: _EncodedFrame, attempt: _Attempt, pose: MetricPose
    ) -> None:
        """This frame becomes the next keyframe of its chain."""
        before = self._keyframe
        assert before is not None  # the one that the pose is relative to
        seen = replace(attempt.seen, keyframe=before)
        taken = self._make_keyframe(now, before.chain, locate(before, pose), (seen, pose))
        self._checks.hand_over(seen, pose, taken)

    def _make_unconnected_keyframe(
        self, now: _EncodedFrame, seen: tuple[Keyframe, RelativePose] | None
    ) -> Keyframe:
        """This frame begins a new chain."""
        chain, start = self._odom.begin(self._sighting(now), seen)
        return self._make_keyframe(now, chain, Located(start.odom_from_camera, start.covariance))

    def _make_keyframe(
        self,
        now: _EncodedFrame,
        chain: int,
        place: Located,
        joins: tuple[MatchedFrame, MetricPose] | None = None,
    ) -> Keyframe:
        """joins: how the frame was posed against the keyframe before it in the chain."""
        with now.times.stage("reference"):
            reference = self._matcher.reference(now.features)
        stereo = None
        if now.frame.right_rgb is not None and now.frame.depth is None:
            with now.times.stage("stereo"):
                stereo = self._stereo.depth(now.frame)
        mono = None
        if self._depth_reader is not None and stereo is None and now.frame.depth is None:
            with now.times.stage("mono_depth"):
                mono = self._depth_reader.read(now.frame.rgb, now.frame.camera, now.features)
                if joins is not None:
                    seen, pose = joins
                    carried = chain_scale.carried_scale(seen.keyframe, mono, seen.pairs, pose)
                    mono = chain_scale.joined(mono, carried)
        taken = Keyframe(
            id=self._next_id,
            chain=chain,
            frame=now.frame,
            reference=reference,
            odom_from_keyframe=place.odom_from_camera,
            odom_covariance=place.covariance,
            odom_common_m=place.common_m,
            stereo=stereo,
            mono_depth=mono,
            odometry=now.odometry,
        )
        self._next_id += 1
        self._keyframe = taken
        self._kept.append(taken)
        self._odom.keep(taken, now.odometry)
        self._odom.forget_all_but(kept.chain for kept in self._kept)
        self._checks.forget_all_but(kept.id for kept in self._kept)
        self._lost, self._requested = 0, False
        self._policy.restart()
        return taken


def _words(lost: Lost) -> str:
    return f"{lost.reason.value}: {lost.detail}"


def _gains_depth(keyframe: Keyframe, frame: Frame) -> bool:
    """A keyframe taken before depth came has none: a new one makes poses metric."""
    has_depth = frame.depth is not None or frame.right_rgb is not None
    return has_depth and keyframe.frame.depth is None and keyframe.stereo_depth is None


def _result(state: TrackState, reason: str, now: _EncodedFrame, attempt: _Attempt) -> TrackResult:
    return TrackResult(
        state,
        reason,
        now.frame,
        attempt.keyframe,
        attempt.outcome,
        attempt.match,
        attempt.seen.pairs,
        remarks=attempt.remarks,
        stages_ms=now.times.ms,
    )


def _quality(frame: Frame, attempt: _Attempt) -> Quality:
    outcome = attempt.outcome
    assert not isinstance(outcome, Lost)
    inliers = attempt.seen.pairs.select(outcome.inliers)
    rays = (
        unproject(frame.camera, inliers.query_px),
        unproject(attempt.keyframe.frame.camera, inliers.keyframe_px),
    )
    R = outcome.keyframe_from_camera[:3, :3]
    return Quality(
        coverage=coverage(inliers.query_px, frame.camera.size),
        inliers=len(inliers),
        certain=certain_fraction(attempt.match),
        parallax_rad=parallax_rad(*rays, R),
        zoom=zoom(*rays, R),
    )
