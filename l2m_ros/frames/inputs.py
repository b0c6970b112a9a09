"""Joins single messages to bundles, one bundle a frame. No ROS, no threads.

    image ──stamps──┐
    depth ──────────┼─ synchroniser ── waits for camera_info (and, lossless, for odom) ── Bundle
    right/image ────┘

Missing and late topics are reported by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from l2m_ros.frames.camera_infos import CameraInfos
from l2m_ros.frames.messages import read_odometry, stamp_ns
from l2m_ros.frames.odometry_buffer import EXTRAPOLATED_NS, MAX_GAP_NS, OdometryBuffer
from l2m_ros.frames.odometry_delay import SIGMA_NS, OdometryDelay
from l2m_ros.frames.stamps import StampGuard, Verdict
from l2m_ros.frames.synchroniser import MAX_BYTES, MessageSet, bytes_of, make_synchroniser
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.result import TrackResult
from l2m_ros.types import FloatArray

IMAGE, CAMERA_INFO, DEPTH = "image", "camera_info", "depth"
RIGHT, RIGHT_INFO, ODOM = "right/image", "right/camera_info", "odom"
TOPICS = (IMAGE, CAMERA_INFO, DEPTH, RIGHT, RIGHT_INFO, ODOM)
# queue: all waits for odometry no longer than this, by the stamps: it may have ended.
ODOM_ENDED_NS = 5_000_000_000
ODOM_ENDED_LIVE_NS = 500_000_000  # live, odometry that is known to be late likewise
# Images without a complete set, and nanoseconds by their stamps, before the missing topic is
# reported: on a busy machine messages of one stamp arrive up to 0.4 s apart.
MISSING_AFTER_IMAGES = 3
MISSING_AFTER_NS = 1_000_000_000

Report = Callable[[str, "str | None"], None]  # (key, words or None = good again)


@dataclass(frozen=True)
class InputOptions:
    """Which topics make a frame, and how they are synchronised."""

    depth: bool = False
    right: bool = False
    odom: bool = False
    slop_ns: int = 20_000_000
    odom_gap_ns: int = MAX_GAP_NS  # odometry is interpolated over no longer gap
    odom_delay_ns: int = 0  # its messages are stamped so much later than what they tell of
    odom_delay_sigma_ns: int = SIGMA_NS  # how well that is known before turns have shown it
    learn_odom_delay: bool = True
    lossless: bool = False  # drop nothing, and never depend on the order of arrival ...
    waiting_bytes: int = MAX_BYTES  # ... as long as the images that wait take no more memory

    @property
    def odom_delay(self) -> tuple[int, int]:
        """As it is given, and one standard deviation of it."""
        return self.odom_delay_ns, self.odom_delay_sigma_ns

    @property
    def joining(self) -> dict[str, Any]:
        """What a synchroniser is made of."""
        return {
            "topics": self.synchronised,
            "slop_ns": self.slop_ns,
            "lossless": self.lossless,
            "max_bytes": self.waiting_bytes,
        }

    @property
    def synchronised(self) -> tuple[str, ...]:
        return (IMAGE, *((DEPTH,) if self.depth else ()), *((RIGHT,) if self.right else ()))


@dataclass(frozen=True)
class Bundle:
    """The messages that make one frame."""

    stamp_ns: int
    messages: MessageSet  # by topic; camera_info included
    received_s: float  # when the image came, by the caller's clock
    reset: bool = False  # time jumped back just before

    @property
    def image_bytes(self) -> int:
        """Memory that its images hold."""
        return sum(map(bytes_of, self.messages.values()))


class Inputs:
    """Takes messages in any order; gives bundles in the order of the images."""

    def __init__(self, options: InputOptions, report: Report = lambda key, words: None) -> None:
        self.options = options
        self.odometry = OdometryBuffer(options.odom_gap_ns)
        self._delay = OdometryDelay(self.odometry, *options.odom_delay)
        self.refused = 0
        self._given_up = 0  # images that waited and were let go
        self._report = report
        self._guard = StampGuard()
        self._infos = {CAMERA_INFO: CameraInfos(), RIGHT_INFO: CameraInfos()}
        self._received_s: dict[int, float] = {}
        self._pending: deque[MessageSet] = deque()
        self._resets: set[int] = set()
        self._unmatched = 0  # images since the last bundle
        self._matched_ns = 0  # stamp of the last bundle, or of the first image
        self._newest_ns: dict[str, int] = {}
        self._make_synchroniser()

    def _make_synchroniser(self) -> None:
        self._synchroniser = make_synchroniser(**self.options.joining)

    @property
    def unpaired(self) -> int:
        """Images dropped because their camera_info, depth or right image did not come in time."""
        return self._given_up + self._synchroniser.unpaired

    def reconfigure(self, options: InputOptions) -> None:
        """Change topics or slop; where sets are joined otherwise, incomplete ones are dropped."""
        joined_alike = options.joining == self.options.joining
        if self.options.odom_delay != options.odom_delay or not options.learn_odom_delay:
            self._delay = OdometryDelay(self.odometry, *options.odom_delay)
        self.options = options
        self.odometry.max_gap_ns = options.odom_gap_ns
        if not joined_alike:
            self._given_up += self._synchroniser.unpaired
            self._make_synchroniser()

    def add(self, topic: str, message: Any, received_s: float) -> list[Bundle]:
        """The bundles that this message completed."""
        if topic in self._infos:
            self._infos[topic].add(message)
            return self._release()
        if topic == ODOM:
            self.odometry.add(read_odometry(message))
            return self._release()
        if topic not in self.options.synchronised:
            return []
        if topic == IMAGE and not self._accept_image(message, received_s):
            return []
        stamp = self._newest_ns[topic] = stamp_ns(message)
        if topic == IMAGE:
            self._unmatched += 1
            self._matched_ns = self._matched_ns or stamp
        self._pending.extend(self._synchroniser.add(topic, message))
        return self._release()

    def _accept_image(self, message: Any, received_s: float) -> bool:
        stamp = stamp_ns(message)
        check = self._guard.check(stamp, message.header.frame_id)
        self._report("stamps", check.words or None)
        if check.verdict is Verdict.REFUSED:
            self.refused += 1
            return False
        if check.verdict is Verdict.RESET:
            self._synchroniser.forget(stamp)
            self.odometry.forget(stamp)
            for infos in self._infos.values():
                infos.forget()
            self._pending.clear()
            self._received_s.clear()
            self._matched_ns = stamp
            self._resets = {stamp}
        self._received_s[stamp] = received_s
        if len(self._received_s) > 2000:
            del self._received_s[next(iter(self._received_s))]
        return True

    def flush(self) -> list[Bundle]:
        """At the end of a bag: the sets that wait for odometry or a camera_info, without it."""
        return self._release(ended=True)

    def _release(self, *, ended: bool = False) -> list[Bundle]:
        """Pending sets in order, up to the first that still waits for something."""
        bundles = []
        while self._pending and self._complete(stamp_ns(self._pending[0][IMAGE]), ended):
            messages = self._pending.popleft()
            stamp = stamp_ns(messages[IMAGE])
            reset = bool(self._resets)
            self._resets.clear()
            received_s = self._received_s.pop(stamp, 0.0)
            self._unmatched, self._matched_ns = 0, stamp
            infos = {topic: info for topic, kept in self._infos.items() if (info := kept.at(stamp))}
            bundles.append(Bundle(stamp, messages | infos, received_s, reset))
        while len(self._pending) > 1 and self._pending_are_too_many():
            self._pending.popleft()
            self._given_up += 1
        return bundles

    def _pending_are_too_many(self) -> bool:
        if not self.options.lossless:
            return not self._infos_are_there  # only the newest is of use once camera_info comes
        waiting = sum(bytes_of(message) for one in self._pending for message in one.values())
        return waiting > self.options.waiting_bytes

    @property
    def _infos_needed(self) -> tuple[str, ...]:
        return (CAMERA_INFO, RIGHT_INFO) if self.options.right else (CAMERA_INFO,)

    @property
    def _infos_are_there(self) -> bool:
        return all(self._infos[topic] for topic in self._infos_needed)

    def _complete(self, stamp: int, ended: bool = False) -> bool:
        if not self._infos_are_there:
            return False
        if ended:
            return True
        if not self.options.lossless:
            return self._odometry_is_near(stamp)
        waited_ns = self._newest_ns.get(IMAGE, stamp) - stamp
        if waited_ns > ODOM_ENDED_NS:
            return True
        infos_come = all(self._infos[topic].has_passed(stamp) for topic in self._infos_needed)
        return infos_come and (not self.options.odom or self._odometry_ahead_ns(stamp) >= 0)

    def _odometry_ahead_ns(self, stamp: int) -> int:
        """From an image to the newest that odometry tells of."""
        return self.odometry.newest_ns - self._delay.at(stamp) - stamp

    def _odometry_is_near(self, stamp: int) -> bool:
        """Live, only odometry that is known to be late is waited for, as long as it comes."""
        if not self.options.odom or self._delay.at(stamp) <= 0:
            return True
        if self._odometry_ahead_ns(stamp) >= -EXTRAPOLATED_NS:
            return True
        return self._odometry_ahead_ns(self._newest_ns.get(IMAGE, stamp)) < -ODOM_ENDED_LIVE_NS

    def odometry_at(self, stamp: int) -> OdometrySample | None:
        """Odometry at an image's stamp; None where it is unknown or not to be used."""
        if not self.options.odom:
            return None
        delay_ns = self._delay.at(stamp)
        sample = self.odometry.at(stamp + delay_ns)
        self._report("odom gap", self.odometry.problem)
        if sample is None:
            return None
        sigma_s = self._delay.sigma_s(stamp)
        return replace(sample, stamp_ns=stamp, delay_ns=delay_ns, delay_sigma_s=sigma_s)

    def learn(self, result: TrackResult, base_from_camera: FloatArray | None) -> None:
        """What a tracked frame shows of odometry's delay."""
        if not (self.options.odom and self.options.learn_odom_delay):
            return
        turn = result.seen_turn
        if turn is not None and result.keyframe is not None and base_from_camera is not None:
            stamps = result.keyframe.frame.stamp_ns, result.frame.stamp_ns
            self._delay.see(*stamps, turn, base_from_camera)
        learnt_ns = self._delay.learnt_ns
        self._report("odom delay", None if learnt_ns is None else _delay_words(learnt_ns))

    def missing(self) -> dict[str, str]:
        """The topics that frames wait for, each with a message for the diagnostics."""
        waited_ns = self._newest_ns.get(IMAGE, 0) - self._matched_ns
        if self._unmatched < MISSING_AFTER_IMAGES or waited_ns < MISSING_AFTER_NS:
            return {}
        o, words = self.options, {}
        if not self._infos[CAMERA_INFO]:
            words[CAMERA_INFO] = "no camera_info received: without it there are no poses"
        if o.right and not self._infos[RIGHT_INFO]:
            words[RIGHT_INFO] = "no right/camera_info received: stereo needs its baseline"
        for topic in o.synchronised[1:]:
            gap_ns = self._newest_ns[IMAGE] - self._newest_ns.get(topic, 0)
            if topic not in self._newest_ns:
                words[topic] = f"no {topic} received yet; frames wait for it"
            elif abs(gap_ns) > max(o.slop_ns, 1_000_000_000):
                words[topic] = (
                    f"{topic} is {gap_ns / 1e9:+.3f} s behind the image: does it still come, and "
                    "with the camera's clock?"
                )
            elif abs(gap_ns) > o.slop_ns:
                words[topic] = (
                    f"{topic} is {gap_ns / 1e9:+.3f} s behind the image: raise sync.slop_s "
                    f"({o.slop_ns / 1e9:g}) or synchronise the cameras"
                )
        if o.odom and o.lossless and self._pending and not self._complete(self._newest_ns[IMAGE]):
            words[ODOM] = "odom is older than the image; queue: all waits for it"
        return words


def _delay_words(delay_ns: int) -> str:
    late = f"{abs(delay_ns) / 1e9:.3f} s {'later' if delay_ns > 0 else 'earlier'}"
    return (
        f"odom is stamped {late} than what it tells of, the camera's turns show, and is read so: "
        "stamp it and the images when they are measured, or set sync.odom_delay_s "
        f"({delay_ns / 1e9:.3f})"
    )
