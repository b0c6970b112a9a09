"""Frame after frame against a kept keyframe: where is the camera, and which keyframe next?

    frame -> encode -> match against the keyframe -> pose -> gates -> keep or replace the keyframe

Expected failure is a value (`Lost`); after it the frame before and the last few keyframes are tried
(`recovery`), before a new chain begins.
"""

from __future__ import annotations

import os
from dataclasses import replace

from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.mono_depth import DepthReader
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.attempt import (
    Attempt,
    EncodedFrame,
    brings_metres,
    gains_depth,
    gains_odometry,
    loses_depth,
    words,
)
from l2m_ros.tracking.depth_unit import DepthUnit
from l2m_ros.tracking.frame_poser import FramePoser
from l2m_ros.tracking.freshness import Freshness
from l2m_ros.tracking.keyframe_maker import KeyframeMaker
from l2m_ros.tracking.keyframe_placer import KeyframePlacer
from l2m_ros.tracking.keyframes import Keyframe, KeyframePolicy, certain_fraction
from l2m_ros.tracking.motion import open_radius_m
from l2m_ros.tracking.movers import View
from l2m_ros.tracking.odom_frame import OdomFrame, Sighting, moved_chain, sighting_of
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.pose_checks import PoseChecks
from l2m_ros.tracking.recovery import Latest, Recovery, out_of_sight
from l2m_ros.tracking.result import TrackResult, TrackState
from l2m_ros.tracking.scenery import Scenery
from l2m_ros.types import Features, Frame, Lost, LostReason, MetricPose, RelativePose

DEFAULTS = TrackerOptions()
CORES_TO_ENCODE_AHEAD = 2


class Tracker:
    """Tracks a camera against keyframes: one `process` per frame.

    No ROS, no threads of its own; the same frames give the same results.
    """

    def __init__(
        self,
        matcher: Matcher,
        options: TrackerOptions = DEFAULTS,
        depth_reader: DepthReader | None = None,
    ) -> None:
        """depth_reader: reads metres from keyframes that have no depth of their own."""
        self.options = options
        self._matcher, self._policy = matcher, KeyframePolicy(options.keyframes)
        self._odom, self._checks = OdomFrame(), PoseChecks(options)
        self._scenery, self._depth_unit = Scenery(), DepthUnit()
        maker = KeyframeMaker(matcher, depth_reader)
        parts = self._odom, self._scenery, self._checks
        self._placer = KeyframePlacer(maker, *parts)
        self._poser = FramePoser(matcher, maker, *parts, self._depth_unit)
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next frame begins a new chain at the origin."""
        self._keyframe: Keyframe | None = None
        self._recovery = Recovery(self.options.kept_keyframes)
        self._checks.reset()
        self._odom.reset()
        self._scenery.reset()
        self._depth_unit.reset()
        self._freshness = Freshness()
        self._requested = False
        self._delay_ns = 0  # by which odometry is read
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
            self._recovery.resize(options.kept_keyframes)
        self.options = self._checks.options = options

    @property
    def may_encode_ahead(self) -> bool:
        """Whether one thread may encode while another matches: on a CPU with cores to spare.

        While one is posed, by a single thread, the other core encodes. A GPU works off one after
        the other, and capturing a CUDA graph bears no work beside it.
        """
        backend = getattr(self._matcher, "backend", None)
        on_cpu = backend is None or backend.device == "cpu"
        return on_cpu and len(os.sched_getaffinity(0)) >= CORES_TO_ENCODE_AHEAD

    def encode(self, frame: Frame) -> Features:
        """Features to give to `process`; any thread may encode the next frame meanwhile."""
        return self._matcher.encode(frame.rgb)

    def process(
        self,
        frame: Frame,
        odometry: OdometrySample | None = None,
        features: Features | None = None,
    ) -> TrackResult:
        """features: of `encode`, where they are there already."""
        result = self._processed(frame, odometry, features)
        return replace(result, used=self._scenery.used)

    def _processed(
        self, frame: Frame, odometry: OdometrySample | None, features: Features | None
    ) -> TrackResult:
        times = StageTimes()
        self._take_delay(odometry)
        fresh = self._freshness.of(frame, odometry, accept_repeated=self.options.accept_repeated)
        frame = fresh.frame
        if fresh.doubt is not None:
            lost = fresh.doubt
            return TrackResult(
                TrackState.LOST, words(lost), frame, self._keyframe, lost, stages_ms=times.ms
            )
        frame = self._depth_unit.begin(frame)
        looks = self.options.leave_out_movers
        self._scenery.see(frame, odometry, self.options.mask, look=looks)
        if features is None:
            with times.stage("encode"):
                features = self.encode(frame)
        rejection = self._policy.rejection(frame.rgb) or fresh.rejection
        now = EncodedFrame(frame, odometry, features, rejection, fresh.unsent, fresh.frozen, times)
        if self._keyframe is None:
            return self._start_chain(now, "the first frame")
        self._requested |= gains_depth(self._keyframe, frame)
        self._checks.next_frame()
        beside = self._attempt_beside(now)
        attempt = self._attempt(now, self._keyframe)
        self._freshness.torn.found(self._checks.torn_rows(frame))
        now = replace(now, frame=attempt.seen.frame)  # its depth in the keyframe's unit
        if attempt.failed and fresh.unsent is None:
            attempt = beside or self._recover(now, attempt)
        if isinstance(attempt.outcome, Lost):
            return self._after_loss(now, attempt, attempt.outcome)
        return self._after_success(now, attempt)

    def _take_delay(self, odometry: OdometrySample | None) -> None:
        """A keyframe whose odometry was read by another delay is of little use."""
        if odometry is not None and odometry.delay_ns != self._delay_ns:
            self._delay_ns, self._requested = odometry.delay_ns, True
            self._checks.forget_odometry()

    def _attempt(self, now: EncodedFrame, keyframe: Keyframe) -> Attempt:
        attempt = self._poser.attempt(now, keyframe)
        after = attempt.keyframe
        if after is not keyframe:  # something in it moves, and is left out from now on
            self._keyframe = after if self._keyframe is keyframe else self._keyframe
            self._recovery.replace(keyframe, after)
        return attempt

    def _recover(self, now: EncodedFrame, failed: Attempt) -> Attempt:
        """Against the frame before, or one of the earlier keyframes.

        The frame before first, if it has metres of its own: odometry's want a way between the two.
        """
        latest, ways = self._recovery.latest, [self._by_kept, self._by_latest]
        if latest is not None and brings_metres(latest.encoded.frame):
            ways.reverse()
        for way in ways:
            attempt = way(now, failed)
            if attempt is not None:
                return attempt
        self._recovery.claim = None
        self._recovery.nothing_matched(now)
        return failed

    def _by_kept(self, now: EncodedFrame, failed: Attempt) -> Attempt | None:
        keyframe = self._recovery.next_kept(failed.keyframe)
        attempt = None if keyframe is None else self._attempt(now, keyframe)
        if attempt is None or attempt.failed:
            return None
        newest = self._odom.newest_beside(attempt.keyframe.chain)
        open_m = open_radius_m(newest, now.frame.stamp_ns, self.options.gates)
        return self._recovery.witnessed(attempt, open_m)

    def _by_latest(self, now: EncodedFrame, failed: Attempt) -> Attempt | None:
        """Where the view has left the keyframe since the frame before, which was posed."""
        latest, self._recovery.latest = self._recovery.latest, None
        leaves = out_of_sight(failed) and self._policy.leaves(certain_fraction(failed.match))
        if latest is None or not leaves:
            return None
        posed = latest.attempt
        assert isinstance(posed.outcome, MetricPose)
        taken = self._placer.connected(latest.encoded, posed.seen, posed.outcome)
        self._checks.hand_over(posed.seen, posed.outcome, taken)
        attempt = self._attempt(now, taken)
        if attempt.failed:
            return None
        self._adopt(taken)
        return attempt

    def _attempt_beside(self, now: EncodedFrame) -> Attempt | None:
        """The frame against the keyframe beside the chain, if there is one and it serves.

        First, because it tells where the chain's own keyframe may be found again.
        """
        keyframe = self._recovery.keyframe_beside(self._make_keyframe_beside)
        if keyframe is None:
            return None
        attempt = self._attempt(now, keyframe)
        if out_of_sight(attempt) and self._recovery.latest_beside is not None:
            keyframe = self._recovery.next_beside(self._make_keyframe_beside)
            if keyframe is None:
                return None
            attempt = self._attempt(now, keyframe)
        if isinstance(attempt.outcome, MetricPose):
            self._odom.go_on_beside(keyframe, attempt.outcome, self._sighting(now))
        return None if attempt.failed else attempt

    def _make_keyframe_beside(self, missed: EncodedFrame) -> Keyframe | None:
        assert self._keyframe is not None
        self._policy.restart()
        return self._placer.beside(missed, self._keyframe)

    def _after_loss(self, now: EncodedFrame, attempt: Attempt, lost: Lost) -> TrackResult:
        self._recovery.lost += 1
        reason = words(lost)
        elsewhere = lost.reason is LostReason.LOOKS_ALIKE
        if self._requested or elsewhere or self._patience_ended:
            return self._start_chain(now, f"lost for {self._recovery.lost} frames ({reason})")
        return attempt.result(TrackState.LOST, reason, now)

    @property
    def _patience_ended(self) -> bool:
        return self._recovery.lost >= self._policy.patience(self.options.restart_after)

    def _after_success(self, now: EncodedFrame, attempt: Attempt) -> TrackResult:
        if attempt.keyframe is self._recovery.beside:
            return self._beside(now, attempt)
        found = attempt.keyframe is not self._keyframe
        if found or self._recovery.beside is not None:
            self._policy.restart()
        if not attempt.failed:
            self._recovery.found()
        self._keyframe = attempt.keyframe
        reason = f"found again at keyframe {attempt.keyframe.id}" if found else "tracking"
        return self._tracked(now, attempt, reason)

    def _beside(self, now: EncodedFrame, attempt: Attempt) -> TrackResult:
        """Posed against the keyframe beside the chain: published without a place in odom."""
        self._recovery.lost += 1
        self._recovery.latest_beside = now if now.rejection is None else None
        wanted = self._policy.wants_keyframe(attempt.quality) or self._requested
        if not wanted and not self._patience_ended:
            assert self._keyframe is not None
            reason = f"beside the chain: keyframe {self._keyframe.id} is not seen"
            return attempt.result(TrackState.TRACKING, reason, now)
        why = f"keyframe {attempt.keyframe.id} is tracked, the one before it is not"
        kept = self._adopt(self._placer.beginning(attempt.keyframe))
        return self._tracked(now, attempt.against(kept), why, wanted)

    def _tracked(
        self, now: EncodedFrame, attempt: Attempt, reason: str, wanted: bool | None = None
    ) -> TrackResult:
        """wanted: a new keyframe; None: not asked yet."""
        if isinstance(attempt.outcome, MetricPose):
            result = self._place(now, attempt, attempt.outcome, reason)
        else:
            result = attempt.result(TrackState.TRACKING, reason, now)
            self._requested |= gains_odometry(attempt.keyframe, now)
        if wanted is None:
            wanted = self._policy.wants_keyframe(attempt.quality)
        if isinstance(attempt.outcome, MetricPose):
            wanted = self._checks.keyframe_due(attempt.seen, attempt.outcome, wanted)
        if now.rejection is not None or self._would_end_metres(now, attempt):
            return result
        if not (wanted or self._requested):
            if isinstance(attempt.outcome, MetricPose):
                assert self._keyframe is not None
                self._recovery.latest = Latest(now, attempt.against(self._keyframe))
            return result
        if isinstance(attempt.outcome, MetricPose):
            assert self._keyframe is not None
            seen = attempt.against(self._keyframe).seen  # where odom has put it by now
            taken = self._adopt(self._placer.connected(now, seen, attempt.outcome))
            self._checks.hand_over(seen, attempt.outcome, taken)
            return replace(result, new_keyframe=True)
        assert isinstance(attempt.outcome, RelativePose)
        turn = attempt.keyframe, attempt.outcome
        taken = self._adopt(self._placer.unconnected(now, self._keyframe, turn))
        event = self._odom.event(taken, self._sighting(now), "no pose in metres connects it")
        return replace(result, new_keyframe=True, chain_event=event)

    def _would_end_metres(self, now: EncodedFrame, attempt: Attempt) -> bool:
        """Whether to go on by the old keyframe's depth, as long as it serves."""
        by_depth = isinstance(attempt.outcome, MetricPose)
        by_depth = by_depth and now.odometry is None and not self._requested
        return by_depth and loses_depth(attempt.keyframe, now.frame)

    def _place(
        self, now: EncodedFrame, attempt: Attempt, pose: MetricPose, reason: str
    ) -> TrackResult:
        """The result of a posed frame, with its place in odom and its velocity."""
        sighting, keyframe = self._sighting(now), attempt.keyframe
        moved = self._odom.rejoin(keyframe, pose, sighting)
        event = self._odom.event(moved, sighting, reason)
        if moved is not keyframe:
            self._recovery.replace_kept(moved_chain(self._recovery.kept, keyframe, moved))
            self._scenery.forget_places()
            self._keyframe = moved
        before = self._odom.newest(moved.chain)
        place, attempt = self._odom.publish(moved, pose, sighting), attempt.against(moved)
        self._checks.learn(attempt.seen, pose, before)
        depth, at = now.frame.depth, (moved.chain, place.odom_from_camera)
        if depth is not None and self._placer.shows_movers(pose):
            view = View(now.frame.stamp_ns, now.frame.camera, depth, *at)
            self._scenery.believe(view)
        return replace(
            attempt.result(TrackState.TRACKING, reason, now),
            odom_from_camera=place.odom_from_camera,
            odom_covariance=place.covariance,
            twist=place.twist,
            chain_event=event,
        )

    def _sighting(self, now: EncodedFrame) -> Sighting:
        return sighting_of(now.frame, now.odometry, self.options)

    def _start_chain(self, now: EncodedFrame, why: str) -> TrackResult:
        """Start a new chain at this frame, where the last one is thought to have ended."""
        if now.rejection is not None:
            state = TrackState.WAITING if self._keyframe is None else TrackState.LOST
            reason = f"no keyframe yet: {now.rejection}"
            return TrackResult(state, reason, now.frame, self._keyframe, stages_ms=now.times.ms)
        taken = self._adopt(self._placer.unconnected(now, self._keyframe, None))
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

    def _adopt(self, taken: Keyframe) -> Keyframe:
        """The keyframe that the next frame is matched against."""
        self._keyframe = taken
        self._recovery.kept.append(taken)
        self._odom.keep(taken, taken.odometry)
        self._odom.forget_all_but(kept.chain for kept in self._recovery.kept)
        self._checks.forget_all_but(kept.id for kept in self._recovery.kept)
        self._requested = False
        self._recovery.found()
        self._policy.restart()
        return taken
