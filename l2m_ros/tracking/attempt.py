"""A frame on its way through the tracker: encoded, then matched against a keyframe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry.camera import unproject
from l2m_ros.matching.matcher import Match
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.keyframes import (
    Keyframe,
    Quality,
    certain_fraction,
    coverage,
    parallax_rad,
    zoom,
)
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.pose_checks import Remarks
from l2m_ros.tracking.result import Outcome, TrackResult, TrackState
from l2m_ros.tracking.seam import Rows
from l2m_ros.types import Features, Frame, Lost, RelativePose


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """The frame at hand, encoded."""

    frame: Frame
    odometry: OdometrySample | None
    features: Features
    rejection: str | None  # why it may not become a keyframe
    unsent: Rows | None  # (H,) rows that the image before, which was torn, lacked
    frozen: str | None  # what stood still in it and was taken away, in words
    times: StageTimes


@dataclass(frozen=True, eq=False)
class Attempt:
    """A frame matched against one keyframe."""

    match: Match
    seen: MatchedFrame
    outcome: Outcome
    remarks: Remarks

    @property
    def keyframe(self) -> Keyframe:
        return self.seen.keyframe

    @property
    def failed(self) -> bool:
        """No pose, or none in metres although the keyframe's depth is there: matches of another
        place agree on some rotation, too."""
        known = self.keyframe.frame.depth is not None or self.keyframe.stereo is not None
        relative = isinstance(self.outcome, RelativePose)
        return isinstance(self.outcome, Lost) or (relative and known)

    def against(self, keyframe: Keyframe) -> Attempt:
        """The same after the keyframe was placed elsewhere in odom."""
        return replace(self, seen=replace(self.seen, keyframe=keyframe))

    @property
    def quality(self) -> Quality:
        """How well the frame matches its keyframe; of an attempt that gave a pose."""
        outcome, frame = self.outcome, self.seen.frame
        assert not isinstance(outcome, Lost)
        inliers = self.seen.pairs.select(outcome.inliers)
        rays = (
            unproject(frame.camera, inliers.query_px),
            unproject(self.keyframe.frame.camera, inliers.keyframe_px),
        )
        R = outcome.keyframe_from_camera[:3, :3]
        return Quality(
            coverage=coverage(inliers.query_px, frame.camera.size),
            inliers=len(inliers),
            certain=certain_fraction(self.match),
            parallax_rad=parallax_rad(*rays, R),
            zoom=zoom(*rays, R),
        )

    def result(self, state: TrackState, reason: str, now: EncodedFrame) -> TrackResult:
        return TrackResult(
            state,
            reason,
            now.frame,
            self.keyframe,
            self.outcome,
            self.match,
            self.seen.pairs,
            remarks=self.remarks,
            stages_ms=now.times.ms,
        )


def words(lost: Lost) -> str:
    return f"{lost.reason.value}: {lost.detail}"


def gains_depth(keyframe: Keyframe, frame: Frame) -> bool:
    """A keyframe taken before depth came has none: a new one makes poses metric.

    A right image that gave the keyframe no depth (of another camera, say) would give none again.
    """
    right = frame.right_rgb is not None and keyframe.frame.right_rgb is None
    return (_has_depth(frame) or right) and not _gives_metres(keyframe)


def gains_odometry(keyframe: Keyframe, now: EncodedFrame) -> bool:
    """A keyframe taken before odometry came tells no way since: a new one does."""
    return keyframe.odometry is None and now.odometry is not None


def loses_depth(keyframe: Keyframe, frame: Frame) -> bool:
    """Depth paused: this frame as a keyframe would end the metres."""
    return _gives_metres(keyframe) and not brings_metres(frame)


def brings_metres(frame: Frame) -> bool:
    """Of its own: odometry's want a way."""
    return _has_depth(frame) or frame.right_rgb is not None


def _gives_metres(keyframe: Keyframe) -> bool:
    return _has_depth(keyframe.frame) or keyframe.stereo_depth is not None


def _has_depth(frame: Frame) -> bool:
    return frame.depth is not None and bool(np.isfinite(frame.depth).any())
