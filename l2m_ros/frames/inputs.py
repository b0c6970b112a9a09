"""From single messages to bundles that a frame can be made of. No ROS, no threads.

    image ──stamps──┐
    depth ──────────┼─ synchroniser ── waits for camera_info (and, lossless, for odom) ── Bundle
    right/image ────┘

Missing and late topics are reported by name.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from l2m_ros.frames.messages import read_odometry, stamp_ns
from l2m_ros.frames.stamps import StampGuard, Verdict
from l2m_ros.frames.synchroniser import MessageSet, make_synchroniser
from l2m_ros.geometry import se3
from l2m_ros.tracking.keyframes import OdometrySample

IMAGE, CAMERA_INFO, DEPTH = "image", "camera_info", "depth"
RIGHT, RIGHT_INFO, ODOM = "right/image", "right/camera_info", "odom"
TOPICS = (IMAGE, CAMERA_INFO, DEPTH, RIGHT, RIGHT_INFO, ODOM)
NEAREST_ODOM_NS = 50_000_000  # an odometry this close stands in where none brackets the image
ODOM_KEPT = 2000  # 10 s at 200 Hz
# Images without a complete set, and nanoseconds by their stamps, before the missing topic is
# reported: on a busy machine messages of one stamp arrive up to 0.4 s apart.
MISSING_AFTER_IMAGES = 3
MISSING_AFTER_NS = 1_000_000_000

Report = Callable[[str, "str | None"], None]  # (key, words or None = good again)


@dataclass(frozen=True)
class InputOptions:
    """Which topics belong to a frame, and how they are joined."""

    depth: bool = False
    right: bool = False
    odom: bool = False
    slop_ns: int = 20_000_000
    lossless: bool = False  # drop nothing, and never depend on the order of arrival

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


class Inputs:
    """Takes messages in any order; gives bundles in the order of the images."""

    def __init__(self, options: InputOptions, report: Report = lambda key, words: None) -> None:
        self.options = options
        self.odometry = OdometryBuffer()
        self.refused = 0
        self._given_up = 0  # images that waited and were let go
        self._report = report
        self._guard = StampGuard()
        self._infos: MessageSet = {}
        self._received_s: dict[int, float] = {}
        self._pending: deque[MessageSet] = deque()
        self._resets: set[int] = set()
        self._unmatched = 0  # images since the last bundle
        self._matched_ns = 0  # stamp of the last bundle, or of the first image
        self._newest_ns: dict[str, int] = {}
        self._make_synchroniser()

    def _make_synchroniser(self) -> None:
        o = self.options
        self._synchroniser = make_synchroniser(
            o.synchronised, slop_ns=o.slop_ns, lossless=o.lossless
        )

    @property
    def unpaired(self) -> int:
        """Images given up because their camera_info, depth or right image did not come in time."""
        return self._given_up + self._synchroniser.unpaired

    def reconfigure(self, options: InputOptions) -> None:
        """Other topics or another slop; half-made sets are given up."""
        self.options = options
        self._given_up += self._synchroniser.unpaired
        self._make_synchroniser()

    def add(self, topic: str, message: Any, received_s: float) -> list[Bundle]:
        """The bundles that this message completed."""
        if topic in (CAMERA_INFO, RIGHT_INFO):
            self._infos[topic] = message
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
            self._pending.clear()
            self._received_s.clear()
            self._matched_ns = stamp
            self._resets = {stamp}
        self._received_s[stamp] = received_s
        if len(self._received_s) > 2000:
            del self._received_s[next(iter(self._received_s))]
        return True

    def _release(self) -> list[Bundle]:
        """Pending sets in order, as far as everything that they wait for is there."""
        bundles = []
        while self._pending and self._complete(stamp_ns(self._pending[0][IMAGE])):
            messages = self._pending.popleft()
            stamp = stamp_ns(messages[IMAGE])
            reset = bool(self._resets)
            self._resets.clear()
            received_s = self._received_s.pop(stamp, 0.0)
            self._unmatched, self._matched_ns = 0, stamp
            bundles.append(Bundle(stamp, messages | self._infos, received_s, reset))
        if not self.options.lossless:
            while len(self._pending) > 1:  # only the newest is of use once camera_info comes
                self._pending.popleft()
                self._given_up += 1
        return bundles

    def _complete(self, stamp: int) -> bool:
        if CAMERA_INFO not in self._infos:
            return False
        if self.options.right and RIGHT_INFO not in self._infos:
            return False
        waits_for_odom = self.options.odom and self.options.lossless
        return not waits_for_odom or self.odometry.newest_ns >= stamp

    def odometry_at(self, stamp: int) -> OdometrySample | None:
        """Odometry at an image's stamp; None where it is unknown or not to be used."""
        return self.odometry.at(stamp) if self.options.odom else None

    def missing(self) -> dict[str, str]:
        """The topics that frames wait for, each with a message for the diagnostics."""
        waited_ns = self._newest_ns.get(IMAGE, 0) - self._matched_ns
        if self._unmatched < MISSING_AFTER_IMAGES or waited_ns < MISSING_AFTER_NS:
            return {}
        o, words = self.options, {}
        if CAMERA_INFO not in self._infos:
            words[CAMERA_INFO] = "no camera_info received: without it there are no poses"
        if o.right and RIGHT_INFO not in self._infos:
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


class OdometryBuffer:
    """Odometry by stamp, interpolated to an image's; one thread adds, another one asks."""

    def __init__(self) -> None:
        self._samples: list[OdometrySample] = []
        self._lock = threading.Lock()

    @property
    def newest_ns(self) -> int:
        with self._lock:
            return self._samples[-1].stamp_ns if self._samples else -1

    def add(self, sample: OdometrySample) -> None:
        with self._lock:
            if self._samples and sample.stamp_ns <= self._samples[-1].stamp_ns:
                if self._samples[-1].stamp_ns - sample.stamp_ns < 1_000_000_000:
                    return  # a straggler or a repeated stamp
                self._samples.clear()  # time jumped back
            self._samples.append(sample)
            del self._samples[:-ODOM_KEPT]

    def forget(self, after_ns: int) -> None:
        with self._lock:
            self._samples = [s for s in self._samples if s.stamp_ns <= after_ns]

    def at(self, stamp: int) -> OdometrySample | None:
        """Between the two samples that bracket the stamp, or the nearest one if it is near."""
        with self._lock:
            samples = self._samples
            after = bisect.bisect_left([s.stamp_ns for s in samples], stamp)
            if 0 < after < len(samples):
                return interpolated(samples[after - 1], samples[after], stamp)
            near = samples[max(0, min(after, len(samples) - 1)) :][:1]
        return near[0] if near and abs(near[0].stamp_ns - stamp) <= NEAREST_ODOM_NS else None


def interpolated(a: OdometrySample, b: OdometrySample, stamp: int) -> OdometrySample:
    weight = (stamp - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    pose = se3.interpolate(a.odom_from_base, b.odom_from_base, weight)
    return OdometrySample(stamp, pose, (1 - weight) * a.covariance + weight * b.covariance)
