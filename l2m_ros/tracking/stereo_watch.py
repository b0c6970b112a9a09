"""Depth of keyframes from their right images, and a look at the pair's calibration now and then."""

from __future__ import annotations

from l2m_ros.geometry.rectification import rectified_pair
from l2m_ros.geometry.stereo import StereoDepth, depth_of_pair
from l2m_ros.geometry.stereo_check import PairCheck, check_pair
from l2m_ros.types import Frame

CHECK_EVERY = 10  # keyframes: a check takes 10 ms
AGREE = 2  # checks in a row that find the same fault: one picture may mislead


class StereoWatch:
    """problem: what is wrong with the pair, in words, or None."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._keyframes, self._suspected = 0, 0

    def depth(self, frame: Frame) -> StereoDepth | None:
        """None where the frame has no right image, or one that is not of a calibrated pair."""
        pair = rectified_pair(frame)
        if pair is None:
            return None
        unusable = False
        if self._suspected or self._keyframes % CHECK_EVERY == 0:
            check = check_pair(pair)
            self._heed(check)
            unusable = check.unusable
        self._keyframes += 1
        return None if unusable else depth_of_pair(pair)

    def _heed(self, check: PairCheck) -> None:
        self._suspected = self._suspected + 1 if check.problem else 0
        self.problem = check.problem if self._suspected >= AGREE else None
