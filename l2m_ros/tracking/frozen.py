"""Depth, or a right image, that is the one before, bit for bit: it is of another moment.

A sensor's noise differs in each image. What repeats was taken before, when the camera was
elsewhere, and only looks like a measurement of now: the frame goes on without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Frame

WORDS = (
    "{what} is the one before, bit for bit, under a new stamp, and is not used: is its driver "
    "frozen, or slower than the images?"
)
CONTENT = ("rgb", "depth", "right_rgb")


class SeenSince:
    """What odometry said when an image, a depth image or a right image was first as it is now.

    From one frame to the next a slow base hardly moves: a driver that is frozen for a second would
    pass for a camera that stands.
    """

    def __init__(self) -> None:
        self._before: Frame | None = None
        self._odometry: dict[str, OdometrySample | None] = {}

    def see(self, frame: Frame, odometry: OdometrySample | None) -> None:
        for name in CONTENT:
            before = None if self._before is None else getattr(self._before, name)
            if not _same(getattr(frame, name), before):
                self._odometry[name] = odometry
        self._before = frame

    def odometry(self, name: str) -> OdometrySample | None:
        """name: of CONTENT."""
        return self._odometry.get(name)


def without_frozen(frame: Frame, before: Frame) -> tuple[Frame, str | None]:
    """The frame with what is of its own moment, and what is not, in words."""
    if _same(frame.depth, before.depth) and np.isfinite(np.asarray(frame.depth)).any():
        return replace(frame, depth=None), WORDS.format(what="the depth image")
    if _same(frame.right_rgb, before.right_rgb):
        alone = replace(frame, right_rgb=None, right_camera=None, right_from_camera=None)
        return alone, WORDS.format(what="the right image")
    return frame, None


def _same(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> bool:
    return a is not None and b is not None and same_bits(a, b)


def same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    """Whether two images are equal, NaN and all."""
    some = slice(None, None, 32)  # rows that nearly always differ, before all of them are read
    nan = a.dtype.kind == "f"
    return np.array_equal(a[some], b[some], equal_nan=nan) and np.array_equal(a, b, equal_nan=nan)
