"""An image that stands while depth moves: the camera's driver is frozen.

A driver that repeats its last image through an encoder, or a grabber with noise of its own, never
repeats it bit for bit (`frozen`). The image then looks as if the camera stood, and depth, which is
of now, says by how much it moved:

    image thinned -> as the first one of those that stand? -> motion by the ranges since then

A camera that stands has depth that stands, too. Depth that is a little late still moves when the
camera has stopped already: once it stands as well, both are believed again.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry.range_flow import RangeFlow, range_flow
from l2m_ros.tracking.thinned import thinned
from l2m_ros.types import ByteArray, FloatArray, Frame, Lost, LostReason

# Mean difference of the thinned images over their mean gradient. Noise of 4 grey levels makes 0.08,
# coding 0.04, half a pixel of motion 0.06 to 0.13, a hand that holds a camera 0.3 and more.
ALIKE = 0.12
# What ranges must say. Of an office and a kitchen, where the camera moves by less than 10 mm and
# 0.5 degrees, they err by 6 mm and 0.4 degrees at most.
MOVED_M, MOVED_RAD = 0.015, 0.012
SHIFT_PX = 4.0  # at 640 px: by so much the image should have moved
# Of the change of depth, so much may be left; more where the ranges changed by so much more than
# their noise that one step does not explain it (while the camera stands by 0.7 at most).
EXPLAINED, WHOLLY_OTHER = 0.7, 2.0
LATE_NS = 500_000_000  # depth that has stood for so long is of now


class StandingImage:
    """Remembers the first of the images that are alike."""

    def __init__(self) -> None:
        self._first: Frame | None = None
        self._thinned: FloatArray | None = None
        self._lately: Frame | None = None  # whose depth shows whether depth stands by now
        self._found: RangeFlow | None = None  # since the first of them

    def against(self, frame: Frame) -> Lost | None:
        """Every frame. Why its image is not of its own moment, or None."""
        first = self._first
        if first is None or not _comparable(first, frame) or not self._stands(frame.rgb):
            self._begin(frame)
            return None
        flow = _flow(first, frame)
        if flow is not None and _moves(flow, frame.camera.width):
            self._found = flow
        if self._found is None:
            return None
        if self._depth_stands(frame):
            self._begin(frame)
            return None
        since_s = (frame.stamp_ns - first.stamp_ns) * 1e-9
        return Lost(
            LostReason.REPEATED_IMAGE,
            f"the image has not moved for {since_s:.2f} s, but depth shows that the camera moved "
            f"by {self._found.moved_m:.3f} m and {np.degrees(self._found.turned_rad):.1f} degrees "
            "meanwhile: is the image's driver frozen?",
        )

    def _begin(self, frame: Frame) -> None:
        self._first = self._lately = None if frame.depth is None else frame
        self._found = None
        self._thinned = None if frame.depth is None else thinned(frame.rgb)

    def _stands(self, rgb: ByteArray) -> bool:
        assert self._thinned is not None
        gradient = np.hypot(*np.gradient(self._thinned)).mean()
        return bool(np.abs(thinned(rgb) - self._thinned).mean() <= ALIKE * gradient)

    def _depth_stands(self, frame: Frame) -> bool:
        lately = self._lately
        assert lately is not None
        if frame.stamp_ns - lately.stamp_ns < LATE_NS:
            return False
        self._lately = frame
        flow = _flow(lately, frame)
        return lately is not self._first and flow is not None and not _far(flow)


def _comparable(first: Frame, frame: Frame) -> bool:
    if frame.depth is None or first.depth is None or frame.stamp_ns <= first.stamp_ns:
        return False
    return first.rgb.shape == frame.rgb.shape and first.depth.shape == frame.depth.shape


def _flow(first: Frame, frame: Frame) -> RangeFlow | None:
    assert first.depth is not None and frame.depth is not None
    return range_flow(first.depth, frame.depth, frame.camera)


def _far(flow: RangeFlow) -> bool:
    return flow.moved_m > MOVED_M or flow.turned_rad > MOVED_RAD


def _moves(flow: RangeFlow, width: int) -> bool:
    seen = flow.shift_px > SHIFT_PX * width / 640
    otherwise = flow.left < EXPLAINED * flow.changed or flow.changed > WHOLLY_OTHER
    return _far(flow) and seen and otherwise
