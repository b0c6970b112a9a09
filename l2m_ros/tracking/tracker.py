"""Frame after frame against a kept keyframe: where is the camera, and which keyframe next?

    frame -> encode -> match against the keyframe -> pose -> gates -> keep or replace the keyframe

Expected failure is a value (`Lost`); after it the last few keyframes are tried, one more each
frame, before a new chain begins.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np

from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.pose import PoseOptions, estimate_pose
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.timing import StageTimes
from l2m_ros.tracking import chain
from l2m_ros.tracking.gates import GateOptions, StampedPose, gate, implausible_motion
from l2m_ros.tracking.keyframes import (
    Keyframe,
    KeyframeOptions,
    KeyframePolicy,
    OdometrySample,
    Quality,
    certain_fraction,
    coverage,
    parallax_rad,
)
from l2m_ros.tracking.scale_evidence import scale_evidence, stereo_depth
from l2m_ros.types import (
    Correspondences,
    Features,
    FloatArray,
    Frame,
    Lost,
    MetricPose,
    RelativePose,
)

Outcome = MetricPose | RelativePose | Lost


class TrackState(enum.Enum):
    WAITING = "waiting"  # for a first frame worth keeping
    TRACKING = "tracking"
    LOST = "lost"


@dataclass(frozen=True)
class TrackerOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    max_matches: int = 2000  # more do not make the pose better, only slower
    pose: PoseOptions = field(default_factory=PoseOptions)
    gates: GateOptions = field(default_factory=GateOptions)
    keyframes: KeyframeOptions = field(default_factory=KeyframeOptions)
    kept_keyframes: int = 5  # tried after a loss
    restart_after: int = 15  # frames lost before a new chain begins
    base_from_camera: FloatArray | None = field(default=None, compare=False)  # lever arm of odom


@dataclass(frozen=True, eq=False)
class TrackResult:
    """Everything known of one frame."""

    state: TrackState
    reason: str  # in words, for people
    frame: Frame
    keyframe: Keyframe | None
    outcome: Outcome | None = None  # None: the frame was not matched (it became a keyframe)
    match: Match | None = None
    correspondences: Correspondences | None = None
    odom_from_camera: FloatArray | None = None
    odom_covariance: FloatArray | None = None
    new_keyframe: bool = False
    stages_ms: dict[str, float] = field(default_factory=dict)

    @property
    def pose(self) -> MetricPose | None:
        """The pose that may be published: metric and trusted, or nothing."""
        return self.outcome if isinstance(self.outcome, MetricPose) else None

    @property
    def why_not_posed(self) -> str:
        """One word for counting: keyframe, no_scale, or the reason of `Lost`."""
        if isinstance(self.outcome, Lost):
            return self.outcome.reason.value
        return "no_scale" if isinstance(self.outcome, RelativePose) else "keyframe"


@dataclass(frozen=True, eq=False)
class _EncodedFrame:
    """The frame at hand, encoded."""

    frame: Frame
    odometry: OdometrySample | None
    features: Features
    rejection: str | None  # why it may not become a keyframe
    times: StageTimes


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A frame matched against one keyframe."""

    keyframe: Keyframe
    match: Match
    correspondences: Correspondences
    outcome: Outcome


class Tracker:
    """Matcher and options in, one `process` per frame; no ROS, no threads, deterministic."""

    def __init__(self, matcher: Matcher, options: TrackerOptions = TrackerOptions()) -> None:
        self._matcher = matcher
        self.options = options
        self._policy = KeyframePolicy(options.keyframes)
        self._next_id = 0
        self._chain = 0
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame begins a new chain at the origin."""
        self._keyframe: Keyframe | None = None
        self._kept: deque[Keyframe] = deque(maxlen=self.options.kept_keyframes)
        self._motion: StampedPose | None = None
        self._motion_covariance: FloatArray = np.zeros((6, 6))
        self._lost = 0
        self._requested = False
        self._policy.forget()

    def set_keyframe(self) -> None:
        """The next frame becomes the keyframe (chained to the old one where it is posed)."""
        self._requested = True

    def reconfigure(self, options: TrackerOptions) -> None:
        """Other bounds from the next frame on; the keyframe stays."""
        if options.keyframes != self.options.keyframes:
            self._policy = KeyframePolicy(options.keyframes)
        if options.kept_keyframes != self.options.kept_keyframes:
            self._kept = deque(self._kept, maxlen=options.kept_keyframes)
        self.options = options

    def process(self, frame: Frame, odometry: OdometrySample | None = None) -> TrackResult:
        times = StageTimes()
        with times.stage("encode"):
            features = self._matcher.encode(frame.rgb)
        now = _EncodedFrame(frame, odometry, features, self._policy.rejection(frame.rgb), times)
        if self._keyframe is None:
            return self._start_chain(now, "the first frame")
        self._requested |= _gains_depth(self._keyframe, frame)
        attempt = self._attempt(now, self._keyframe)
        if isinstance(attempt.outcome, Lost):
            attempt = self._recover(now, attempt)
        if isinstance(attempt.outcome, Lost):
            return self._after_loss(now, attempt, attempt.outcome)
        return self._after_success(now, attempt)

    def _attempt(self, now: _EncodedFrame, keyframe: Keyframe) -> _Attempt:
        with now.times.stage("match"):
            match = self._matcher.match(now.features, keyframe.reference)
            pairs = correspondences(match, limit=self.options.max_matches)
        with now.times.stage("pose"):
            evidence = scale_evidence(keyframe, now.odometry, self.options.base_from_camera)
            outcome = gate(
                estimate_pose(pairs, now.frame, keyframe.frame, self.options.pose, evidence),
                self.options.gates,
            )
            if isinstance(outcome, MetricPose):
                motion = StampedPose(now.frame.stamp_ns, _odom(keyframe, outcome)[0])
                outcome = implausible_motion(self._motion, motion, self.options.gates) or outcome
        return _Attempt(keyframe, match, pairs, outcome)

    def _recover(self, now: _EncodedFrame, failed: _Attempt) -> _Attempt:
        """Try one of the earlier keyframes, another one each frame, the newest first."""
        others = [kept for kept in reversed(self._kept) if kept is not failed.keyframe]
        if not others:
            return failed
        attempt = self._attempt(now, others[self._lost % len(others)])
        return failed if isinstance(attempt.outcome, Lost) else attempt

    def _after_loss(self, now: _EncodedFrame, attempt: _Attempt, lost: Lost) -> TrackResult:
        self._lost += 1
        reason = f"{lost.reason.value}: {lost.detail}"
        if self._requested or self._lost >= self.options.restart_after:
            return self._start_chain(now, f"lost for {self._lost} frames ({reason})")
        return _result(TrackState.LOST, reason, now, attempt)

    def _after_success(self, now: _EncodedFrame, attempt: _Attempt) -> TrackResult:
        found = attempt.keyframe is not self._keyframe
        self._lost, self._keyframe = 0, attempt.keyframe
        if found:
            self._policy.restart()
        reason = f"found again at keyframe {attempt.keyframe.id}" if found else "tracking"
        result = _result(TrackState.TRACKING, reason, now, attempt)
        if isinstance(attempt.outcome, MetricPose):
            pose, covariance = _odom(attempt.keyframe, attempt.outcome)
            self._motion, self._motion_covariance = (
                StampedPose(now.frame.stamp_ns, pose),
                covariance,
            )
            result = replace(result, odom_from_camera=pose, odom_covariance=covariance)
        wanted = self._policy.wants_keyframe(_quality(now.frame, attempt)) or self._requested
        if wanted and now.rejection is None:
            self._make_keyframe(now, connected=isinstance(attempt.outcome, MetricPose))
            result = replace(result, new_keyframe=True)
        return result

    def _start_chain(self, now: _EncodedFrame, why: str) -> TrackResult:
        """Start a new chain at this frame, where the last one is thought to have ended."""
        if now.rejection is not None:
            state = TrackState.WAITING if self._keyframe is None else TrackState.LOST
            reason = f"no keyframe yet: {now.rejection}"
            return TrackResult(state, reason, now.frame, self._keyframe, stages_ms=now.times.ms)
        self._motion_covariance = self._covariance_after_gap(now.frame.stamp_ns)
        taken = self._make_keyframe(now, connected=False)
        return TrackResult(
            TrackState.TRACKING,
            f"new chain {self._chain} at keyframe {taken.id}: {why}",
            now.frame,
            taken,
            new_keyframe=True,
            stages_ms=now.times.ms,
        )

    def _covariance_after_gap(self, stamp_ns: int) -> FloatArray:
        """The last place's covariance after moving unseen at up to the plausible speed."""
        if self._motion is None:
            return self._motion_covariance
        seconds = max(0.0, (stamp_ns - self._motion.stamp_ns) * 1e-9)
        gates = self.options.gates
        return chain.inflated(
            self._motion_covariance,
            sigma_m=gates.max_speed_m_s * seconds,
            sigma_rad=min(gates.max_turn_rad_s * seconds, np.pi),
        )

    def _make_keyframe(self, now: _EncodedFrame, *, connected: bool) -> Keyframe:
        """This frame becomes the keyframe."""
        with now.times.stage("reference"):
            reference = self._matcher.reference(now.features)
        depth = None
        if now.frame.right_rgb is not None and now.frame.depth is None:
            with now.times.stage("stereo"):
                depth = stereo_depth(self._matcher, now.features, now.frame)
        self._chain += 0 if connected else 1
        place = np.eye(4) if self._motion is None else self._motion.odom_from_camera
        taken = Keyframe(
            id=self._next_id,
            chain=self._chain,
            frame=now.frame,
            reference=reference,
            odom_from_keyframe=place,
            odom_covariance=self._motion_covariance,
            stereo_depth=depth,
            odometry=now.odometry,
        )
        self._next_id += 1
        self._keyframe, self._motion = taken, StampedPose(now.frame.stamp_ns, place)
        self._kept.append(taken)
        self._lost, self._requested = 0, False
        self._policy.restart()
        return taken


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
        attempt.correspondences,
        stages_ms=now.times.ms,
    )


def _odom(keyframe: Keyframe, pose: MetricPose) -> tuple[FloatArray, FloatArray]:
    """The camera in odom, with the chain's covariance."""
    return chain.compose(
        keyframe.odom_from_keyframe,
        keyframe.odom_covariance,
        pose.keyframe_from_camera,
        pose.covariance,
    )


def _quality(frame: Frame, attempt: _Attempt) -> Quality:
    outcome = attempt.outcome
    assert not isinstance(outcome, Lost)
    inliers = attempt.correspondences.select(outcome.inliers)
    return Quality(
        coverage=coverage(inliers.query_px, frame.camera.size),
        inliers=len(inliers),
        certain=certain_fraction(attempt.match),
        parallax_rad=parallax_rad(
            unproject(frame.camera, inliers.query_px),
            unproject(attempt.keyframe.frame.camera, inliers.keyframe_px),
            outcome.keyframe_from_camera[:3, :3],
        ),
    )
