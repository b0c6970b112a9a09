"""What of a frame is of its own moment, and not of the one before under a new stamp.

the image       repeated bit for bit, standing while depth moves, or of two moments: no pose
rows of it      repeated: no keyframe of it
depth, right    repeated: the frame goes on without
"""

from __future__ import annotations

from dataclasses import dataclass

from l2m_ros.tracking.doubts import repeated_image, stands
from l2m_ros.tracking.frozen import SeenSince, without_frozen
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.seam import Rows
from l2m_ros.tracking.standing_image import StandingImage
from l2m_ros.tracking.torn import TornStream, repeated_rows, two_moments
from l2m_ros.types import Frame, Lost


@dataclass(frozen=True, eq=False)
class FreshFrame:
    """A frame, and what is known of the moment that its parts are of."""

    frame: Frame  # without depth or a right image of another moment
    doubt: Lost | None  # why its image gives no pose
    rejection: str | None  # why it makes no keyframe
    unsent: Rows | None  # rows that may be of the image before
    frozen: str | None  # what the frame goes without, in words


class Freshness:
    """Compares each frame with those before it."""

    def __init__(self) -> None:
        self._before: Frame | None = None
        self._seen_since = SeenSince()
        self._standing = StandingImage()
        self.torn = TornStream()

    def of(
        self, frame: Frame, odometry: OdometrySample | None, *, accept_repeated: bool
    ) -> FreshFrame:
        """Every frame, in order. accept_repeated: of a rendered camera that may stand."""
        doubt, repeated, fresh, frozen = None, None, frame, None
        if not accept_repeated:
            if self._before is not None and frame.stamp_ns > self._before.stamp_ns:
                doubt, repeated = self._repeated(frame, self._before, odometry)
                fresh, frozen = self._without_frozen(frame, self._before, odometry)
            doubt = doubt or self._standing.against(frame)
        self._before = frame
        self._seen_since.see(frame, odometry)
        unsent = self.torn.next_image(repeated, doubt)
        rejection = None
        if repeated is not None:
            rejection = "rows of the image before are in it"
        elif unsent is not None:
            rejection = "the image before was torn, and this one may be"
        return FreshFrame(fresh, doubt, rejection, unsent, frozen)

    def _repeated(
        self, frame: Frame, before: Frame, odometry: OdometrySample | None
    ) -> tuple[Lost | None, Rows | None]:
        """Whether the image, or a part of it, is of the moment before, and which rows repeat."""
        since = self._seen_since.odometry("rgb")
        doubt = repeated_image(frame.rgb, before.rgb, odometry, since)
        rows = repeated_rows(frame.rgb, before.rgb)
        if rows is not None and not stands(odometry, since):
            doubt = two_moments(frame.rgb, before.rgb, rows)
        return doubt, rows

    def _without_frozen(
        self, frame: Frame, before: Frame, odometry: OdometrySample | None
    ) -> tuple[Frame, str | None]:
        """The frame without depth or a right image of another moment, and the words for it."""
        since = self._seen_since.odometry("right_rgb" if frame.depth is None else "depth")
        return (frame, None) if stands(odometry, since) else without_frozen(frame, before)
