"""A frame becomes a keyframe: its reference, and its depth where it has none of its own."""

from __future__ import annotations

from l2m_ros.geometry.stereo import StereoDepth
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.mono_depth import DepthReader, MonoDepth
from l2m_ros.tracking import chain_scale
from l2m_ros.tracking.attempt import EncodedFrame
from l2m_ros.tracking.chain import Located
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.stereo_watch import StereoWatch
from l2m_ros.types import MetricPose

Joins = tuple[MatchedFrame, MetricPose]  # how a frame was posed against the keyframe before it


class KeyframeMaker:
    """Numbers keyframes from 0 on."""

    def __init__(self, matcher: Matcher, depth_reader: DepthReader | None) -> None:
        self._matcher, self._depth_reader = matcher, depth_reader
        self._stereo = StereoWatch()
        self._next_id = 0

    @property
    def stereo_problem(self) -> str | None:
        """What is wrong with the stereo pair, in words."""
        return self._stereo.problem

    def make(
        self, now: EncodedFrame, chain: int, place: Located, joins: Joins | None = None
    ) -> Keyframe:
        """joins: to the keyframe before it in the chain."""
        with now.times.stage("reference"):
            reference = self._matcher.reference(now.features)
        stereo = self._stereo_depth(now)
        mono = self._mono_depth(now, joins) if stereo is None else None
        self._next_id += 1
        return Keyframe(
            id=self._next_id - 1,
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

    def _stereo_depth(self, now: EncodedFrame) -> StereoDepth | None:
        if now.frame.right_rgb is None or now.frame.depth is not None:
            return None
        with now.times.stage("stereo"):
            return self._stereo.depth(now.frame)

    def _mono_depth(self, now: EncodedFrame, joins: Joins | None) -> MonoDepth | None:
        """Read from the image alone; its scale is joined with what the chain carries."""
        if self._depth_reader is None or now.frame.depth is not None:
            return None
        with now.times.stage("mono_depth"):
            mono = self._depth_reader.read(now.frame.rgb, now.frame.camera, now.features)
            if joins is None:
                return mono
            seen, pose = joins
            carried = chain_scale.carried_scale(
                seen.keyframe, mono, seen.pairs, pose, now.frame.camera
            )
            return chain_scale.joined(mono, carried)
