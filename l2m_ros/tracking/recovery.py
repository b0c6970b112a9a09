"""What a frame is tried against that does not match the current keyframe.

    beside    the newest frame that matched nothing: a camera that turned away in a moment is
              tracked against it from its next frame on
    kept      the last few keyframes, another one each frame, the newest first
    latest    the frame before, where it was posed in metres and could be a keyframe
    claim     a kept keyframe that one frame found, where motion could not check it: blurred images
              agree on false places, so it is believed when a second frame finds it too

A pose beside the chain is right in its keyframe and is published; where that keyframe lies in odom
is not known until the chain is found again, or given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from l2m_ros.tracking.attempt import Attempt, EncodedFrame
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.motion import UNCHECKED_M
from l2m_ros.types import Lost, LostReason, MetricPose

# Of a view that has left its keyframe. What contradicts a pose may be in the image itself: it is
# torn, or something fills the view and moves. A nearer view would contradict it less.
OUT_OF_SIGHT = (
    LostReason.TOO_FEW_MATCHES,
    LostReason.NOT_CONFIDENT,
    LostReason.TOO_FEW_INLIERS,
    LostReason.DEGENERATE,
    LostReason.UNCERTAIN,
)


def out_of_sight(failed: Attempt) -> bool:
    """Whether a frame was lost because it sees too little of its keyframe."""
    return isinstance(failed.outcome, Lost) and failed.outcome.reason in OUT_OF_SIGHT


@dataclass(frozen=True, eq=False)
class Latest:
    """A frame that was posed in metres and is no keyframe yet."""

    encoded: EncodedFrame
    attempt: Attempt


class Recovery:
    """lost: frames since the chain's last pose."""

    def __init__(self, most: int) -> None:
        self.kept: deque[Keyframe] = deque(maxlen=most)
        self.found()

    def resize(self, most: int) -> None:
        """most: keyframes that are kept from now on."""
        self.kept = deque(self.kept, maxlen=most)

    def replace_kept(self, keyframes: Iterable[Keyframe]) -> None:
        self.kept = deque(keyframes, self.kept.maxlen)

    def found(self) -> None:
        """The chain goes on, or a new one does."""
        self.lost = 0
        self.beside: Keyframe | None = None
        self.claim: Keyframe | None = None
        self.latest: Latest | None = None
        self.latest_beside: EncodedFrame | None = None
        self._candidate: EncodedFrame | None = None

    def replace(self, before: Keyframe, after: Keyframe) -> None:
        """More is known of a keyframe."""
        self.replace_kept(after if kept is before else kept for kept in self.kept)
        self.beside = after if self.beside is before else self.beside
        self.claim = after if self.claim is before else self.claim

    def nothing_matched(self, now: EncodedFrame) -> None:
        """This frame matched no keyframe; if it is sharp, the next one is tried against it."""
        if now.rejection is None:
            self.beside, self._candidate, self.latest_beside = None, now, None

    def keyframe_beside(self, make: Callable[[EncodedFrame], Keyframe | None]) -> Keyframe | None:
        """The newest frame that matched nothing, as a keyframe; None where there is none."""
        if self.beside is None and self._candidate is not None:
            self.beside, self._candidate = make(self._candidate), None
        return self.beside

    def next_beside(self, make: Callable[[EncodedFrame], Keyframe | None]) -> Keyframe | None:
        """The frame before, which was posed beside the chain, as the keyframe there."""
        self.beside, self._candidate, self.latest_beside = None, self.latest_beside, None
        return self.keyframe_beside(make)

    def next_kept(self, failed: Keyframe) -> Keyframe | None:
        """One of the earlier keyframes, first that which waits for a second frame."""
        others = [kept for kept in reversed(self.kept) if kept is not failed]
        if any(kept is self.claim for kept in others):
            return self.claim
        return others[self.lost % len(others)] if others else None

    def witnessed(self, found: Attempt, open_m: float) -> Attempt:
        """The kept keyframe that a frame found, or that a second frame must find it too.

        open_m: how far from where it was the camera may be by now.
        """
        keyframe = found.keyframe
        checked = open_m <= UNCHECKED_M or keyframe is self.claim
        if checked or not isinstance(found.outcome, MetricPose):
            return found
        self.claim = keyframe
        doubt = Lost(
            LostReason.UNCERTAIN,
            f"found again at keyframe {keyframe.id} by one frame, and motion leaves "
            f"{open_m:.1f} m open: a second frame must find it too",
        )
        return replace(found, outcome=doubt)
