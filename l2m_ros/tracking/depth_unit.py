"""The unit in which depth comes, over that in which it began: a power of ten.

    log10 (depth of a match in the frame / in the keyframe)   is near 0; near 1 for all matches

where the driver began to write tenths of millimetres. A keyframe's view is a few times as near or
far at most, so matches that are all ten times as far show another unit and no motion. Each image
alone would give poses that agree with everything but their length, so depth is brought back to the
first unit. Whether that was the right one only odometry could tell.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry.depth_image import nearest
from l2m_ros.types import Correspondences, FloatArray, Frame

NEAR = float(np.log10(1.5))  # to a power of ten: the camera moved as well
COMMON = 0.1  # robust standard deviation of log10 among the matches: more is another scene
LEAST = 100  # matches with both depths


class DepthUnit:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._given: FloatArray | None = None
        self._power = 0

    @property
    def words(self) -> str | None:
        if not self._power:
            return None
        return (
            f"depth comes as {10.0**self._power:g} times what it was while the view is the same, "
            "which is taken back: the unit of its driver has changed; set it back, or call ~/reset "
            "if the new one is right"
        )

    def begin(self, frame: Frame) -> Frame:
        """The next frame as it came -> with its depth in the unit of the one before."""
        self._given = frame.depth
        return self._in_first(frame)

    def of(self, frame: Frame, keyframe: Frame, pairs: Correspondences) -> Frame:
        """That frame with its depth in the keyframe's unit, which the matches tell."""
        power = _power(pairs, self._given, keyframe.depth)
        if power is not None and power != self._power:
            self._power = power
            frame = self._in_first(frame)
        return frame

    def _in_first(self, frame: Frame) -> Frame:
        if self._given is None:
            return frame
        factor = np.float32(10.0**-self._power)
        return replace(frame, depth=self._given * factor if self._power else self._given)


def _power(
    pairs: Correspondences, query: FloatArray | None, keyframe: FloatArray | None
) -> int | None:
    """Of ten, by which the query's depth is in another unit; None where the matches do not tell."""
    if query is None or keyframe is None:
        return None
    with np.errstate(invalid="ignore"):
        logs = np.log10(nearest(query, pairs.query_px) / nearest(keyframe, pairs.keyframe_px))
    logs = logs[np.isfinite(logs)]
    if len(logs) < LEAST:
        return None
    middle = float(np.median(logs))
    spread = 1.4826 * float(np.median(np.abs(logs - middle)))
    power = round(middle)
    return power if spread <= COMMON and abs(middle - power) <= NEAR else None
