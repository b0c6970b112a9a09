"""Which images of a stream to believe: stamps, and whose they are. No ROS.

A camera may stop, a bag may loop, a driver may forget the stamp, two cameras may share a topic.
Each is told in words; only a jump backwards asks for a reset.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

JUMP_BACK_NS = 1_000_000_000  # a loop or a new clock; less is a message that was overtaken
STRAGGLERS = 5  # that many older images in a row are no stragglers: time went back a little
TAKE_OVER = 20  # images in a row from another camera: the first one is gone


class Verdict(enum.Enum):
    GOOD = "good"
    RESET = "reset"  # good, but nothing from before is of use
    REFUSED = "refused"


@dataclass(frozen=True)
class Judgement:
    verdict: Verdict
    words: str = ""


GOOD = Judgement(Verdict.GOOD)


def _refused(words: str) -> Judgement:
    return Judgement(Verdict.REFUSED, words)


class StampGuard:
    """Judges one stream of images; deterministic, by stamps and counts alone."""

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self._stragglers = 0
        self._frame_id: str | None = None
        self._foreign = 0

    def judge(self, stamp_ns: int, frame_id: str) -> Judgement:
        if stamp_ns <= 0:
            return _refused(
                "the image's stamp is zero: the driver does not set header.stamp; set it to the "
                "time of exposure"
            )
        if self._frame_id is not None and frame_id != self._frame_id:
            self._foreign += 1
            if self._foreign < TAKE_OVER:
                return _refused(
                    f"two cameras on one topic: images of frame {frame_id!r} between those of "
                    f"{self._frame_id!r}, which are kept; remap one of the cameras"
                )
            old = self._frame_id
            self._accept(stamp_ns, frame_id)
            return Judgement(Verdict.RESET, f"the camera is now {frame_id!r}, it was {old!r}")
        self._foreign = 0
        return self._judge_order(stamp_ns, frame_id)

    def _judge_order(self, stamp_ns: int, frame_id: str) -> Judgement:
        behind_ns = 0 if self._newest_ns is None else self._newest_ns - stamp_ns
        if behind_ns == 0 and self._newest_ns is not None:
            return _refused(
                "images repeat a stamp: is the image published twice, or the driver's clock stuck?"
            )
        if 0 < behind_ns <= JUMP_BACK_NS:
            self._stragglers += 1
            if self._stragglers < STRAGGLERS:
                return _refused(
                    f"an image is {behind_ns / 1e9:.3f} s older than the one before: are there two "
                    "publishers on the topic?"
                )
        self._accept(stamp_ns, frame_id)
        if behind_ns > 0:
            seconds = behind_ns / 1e9
            return Judgement(
                Verdict.RESET, f"time jumped back by {seconds:.3f} s (a looping bag?): starting new"
            )
        return GOOD

    def _accept(self, stamp_ns: int, frame_id: str) -> None:
        self._newest_ns, self._frame_id = stamp_ns, frame_id
        self._stragglers = self._foreign = 0
