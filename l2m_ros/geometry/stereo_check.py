"""Is the stereo calibration still true? Corners of both images, matched without looking at rows.

rows apart            a camera was knocked, or the calibration is of another pair
disparity negative    left and right are swapped
nothing in common     another camera's topic, or images of different moments
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from l2m_ros.geometry.rectification import RectifiedPair
from l2m_ros.types import ByteArray, FloatArray

CORNERS = 500
MAX_BITS = 50  # of 256 that two descriptors of one corner differ in
MIN_MATCHES = 30  # fewer say nothing
MAX_ROWS = 0.1  # of the height: further apart, a match is a chance one
# Good pairs have 0 to 1 (corners lie at whole pixels); a disparity is as wrong as rows are apart.
MAX_ROW_PX = 1.5
BORDER_PX = -2.0  # a disparity of zero, and its noise
MIN_SHARE = 0.3  # of the matches that any calibrated pair has in its rows


@dataclass(frozen=True)
class PairCheck:
    """What the corners of a pair say."""

    matches: int
    forward: float  # share with a disparity that a point before both cameras has
    row_px: float  # how far apart a match's rows are: middle of the absolute differences

    @property
    def unusable(self) -> bool:
        """Whether no calibrated pair looks so: its disparities say nothing."""
        return self.matches >= MIN_MATCHES and self.forward < MIN_SHARE

    @property
    def problem(self) -> str | None:
        """What is wrong with the pair, and what to do, or None."""
        if self.matches < MIN_MATCHES:
            return None
        if self.unusable:
            return (
                f"stereo: {100 * self.forward:.0f} % of {self.matches} matches have a disparity "
                "that a stereo pair can have: are the left and the right topic swapped, or from "
                "different cameras?"
            )
        if self.row_px > MAX_ROW_PX:
            return (
                f"stereo: matches lie {self.row_px:.1f} px above or below their row "
                f"({MAX_ROW_PX:g} is accepted): the pair is not rectified, or a camera has moved; "
                "calibrate the pair anew"
            )
        return None


def check_pair(pair: RectifiedPair) -> PairCheck:
    apart = _differences(pair.left, pair.right)
    if not len(apart):
        return PairCheck(0, 0.0, 0.0)
    height, width = pair.left.shape
    disparity, rows = apart.T
    disparity = disparity - pair.infinity_px
    forward = (disparity > BORDER_PX) & (disparity < width / 4) & (np.abs(rows) < MAX_ROWS * height)
    if not forward.any():
        return PairCheck(len(apart), 0.0, 0.0)
    sorted_px = np.sort(np.abs(rows[forward]))
    middle = sorted_px[len(sorted_px) // 4 : -(-3 * len(sorted_px) // 4)]
    return PairCheck(len(apart), float(forward.mean()), float(middle.mean()))


def _differences(left: ByteArray, right: ByteArray) -> FloatArray:
    """(N, 2): left less right pixel of corners that chose each other."""
    orb = cv2.ORB.create(CORNERS, nlevels=1, fastThreshold=10)
    (a, words_a), (b, words_b) = (orb.detectAndCompute(image, None) for image in (left, right))
    if words_a is None or words_b is None:
        return np.zeros((0, 2))
    found = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(words_a, words_b)
    good = [m for m in found if m.distance < MAX_BITS]
    pairs = [np.subtract(a[m.queryIdx].pt, b[m.trainIdx].pt) for m in good]
    return np.asarray(pairs, np.float64).reshape(-1, 2)
