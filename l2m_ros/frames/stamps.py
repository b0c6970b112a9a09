"""Checks the stamps and frame ids of an image stream. No ROS.

A camera may stop, a bag may loop, a driver may forget the stamp, two cameras may publish on one
topic. Each case has its message; only a jump back in time, or another camera, asks for a reset. A
jump, in either direction, must be confirmed by the next image: one wrong stamp costs one frame and
no keyframe.
"""

from __future__ import annotations

import enum
import statistics
from collections import deque
from dataclasses import dataclass

JUMP_BACK_NS = 1_000_000_000  # a loop or a new clock; less is a message that was overtaken
JUMP_AHEAD_NS = 2_000_000_000  # more, and more than USUAL_STEPS steps, waits for confirmation
USUAL_STEPS = 10
STEPS_KNOWN = 3  # so many steps are needed before one is called unusual
STRAGGLERS = 5  # that many older images in a row are no stragglers: time went back a little
CAMERA_CHANGE = 20  # images in a row from another camera: the first one has ended


class Verdict(enum.Enum):
    ACCEPTED = "accepted"
    RESET = "reset"  # accepted, but everything from before is obsolete
    REFUSED = "refused"


@dataclass(frozen=True)
class StampCheck:
    verdict: Verdict
    words: str = ""


ACCEPTED = StampCheck(Verdict.ACCEPTED)


def _refused(words: str) -> StampCheck:
    return StampCheck(Verdict.REFUSED, words)


class StampGuard:
    """Checks one stream of images, by stamps and counts alone."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self._suspect_ns: int | None = None  # a jump that the next image must confirm
        self._steps_ns: deque[int] = deque(maxlen=9)
        self._stragglers = 0
        self._frame_id: str | None = None
        self._other_camera = 0

    def check(self, stamp_ns: int, frame_id: str) -> StampCheck:
        if stamp_ns <= 0:
            return _refused(
                "the image's stamp is zero: the driver does not set header.stamp; set it to the "
                "time of exposure"
            )
        if self._frame_id is not None and frame_id != self._frame_id:
            self._other_camera += 1
            if self._other_camera < CAMERA_CHANGE:
                return _refused(
                    f"two cameras on one topic: images of frame {frame_id!r} between those of "
                    f"{self._frame_id!r}, which are kept; remap one of the cameras"
                )
            old = self._frame_id
            self._accept(stamp_ns, frame_id)
            return StampCheck(Verdict.RESET, f"the camera is now {frame_id!r}, it was {old!r}")
        self._other_camera = 0
        return self._check_order(stamp_ns, frame_id)

    def _check_order(self, stamp_ns: int, frame_id: str) -> StampCheck:
        if self._newest_ns is None:
            return self._accepted(stamp_ns, frame_id)
        step_ns = stamp_ns - self._newest_ns
        if step_ns == 0:
            return _refused(
                "images repeat a stamp: is the image published twice, or the driver's clock stuck?"
            )
        if step_ns < -JUMP_BACK_NS or step_ns > self._largest_step_ns():
            return self._check_jump(stamp_ns, frame_id, step_ns)
        if step_ns < 0:
            self._stragglers += 1
            if self._stragglers < STRAGGLERS:
                return _refused(
                    f"an image is {-step_ns / 1e9:.3f} s older than the one before: are there two "
                    "publishers on the topic?"
                )
        return self._accepted(stamp_ns, frame_id)

    def _check_jump(self, stamp_ns: int, frame_id: str, step_ns: int) -> StampCheck:
        """Accepted if this image follows another one that jumped to the same time."""
        suspect, self._suspect_ns = self._suspect_ns, stamp_ns
        if suspect is not None and 0 < stamp_ns - suspect <= self._largest_step_ns():
            return self._accepted(stamp_ns, frame_id)
        seconds = abs(step_ns) / 1e9
        if step_ns > 0:
            return _refused(
                f"an image's stamp is {seconds:.3f} s ahead of the one before: the next image will "
                "tell whether the camera paused or this stamp is wrong"
            )
        return _refused(
            f"time jumped back by {seconds:.3f} s (a looping bag?): starting new as soon as the "
            "next image confirms that this stamp is not merely wrong"
        )

    def _largest_step_ns(self) -> float:
        if len(self._steps_ns) < STEPS_KNOWN:
            return float("inf")
        return max(JUMP_AHEAD_NS, USUAL_STEPS * statistics.median(self._steps_ns))

    def _accepted(self, stamp_ns: int, frame_id: str) -> StampCheck:
        step_ns = 0 if self._newest_ns is None else stamp_ns - self._newest_ns
        self._accept(stamp_ns, frame_id)
        if step_ns > 0:
            self._steps_ns.append(step_ns)
        if step_ns >= 0:
            return ACCEPTED
        return StampCheck(
            Verdict.RESET,
            f"time jumped back by {-step_ns / 1e9:.3f} s (a looping bag?): starting new",
        )

    def _accept(self, stamp_ns: int, frame_id: str) -> None:
        self._newest_ns, self._frame_id, self._suspect_ns = stamp_ns, frame_id, None
        self._stragglers = self._other_camera = 0
