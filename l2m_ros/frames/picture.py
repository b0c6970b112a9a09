"""Draws ~/matches: the frame beside its keyframe, under a line with the tracking state."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.drawing import draw_matches
from l2m_ros.types import ByteArray, Correspondences

BAR_PX = 34
STATE_COLOURS = {"tracking": (60, 190, 90), "lost": (220, 70, 60), "waiting": (230, 170, 50)}


@dataclass(frozen=True)
class Caption:
    """Text of the bar above the images."""

    state: str
    detail: str = ""
    rate_hz: float = 0.0
    scale: str = ""


def tracking_picture(
    frame: ByteArray,
    keyframe: ByteArray,
    pairs: Correspondences,
    inliers: npt.NDArray[np.bool_] | None,
    caption: Caption,
) -> ByteArray:
    """(h, w, 3) uint8: inliers as lines coloured by confidence; all matches where none agree."""
    shown = pairs.select(inliers) if inliers is not None and inliers.any() else pairs
    picture = draw_matches(frame, keyframe, shown)
    bar = np.full((BAR_PX, picture.shape[1], 3), 24, np.uint8)
    _write(bar, caption, f"{len(shown)} of {len(pairs)} matches")
    return np.concatenate([bar, picture])


def _write(bar: ByteArray, caption: Caption, counted: str) -> None:
    colour = STATE_COLOURS.get(caption.state, (180, 180, 180))
    cv2.rectangle(bar, (0, 0), (12, BAR_PX - 1), colour, -1)
    words = [caption.state.upper(), f"{caption.rate_hz:.1f} Hz", f"scale: {caption.scale}", counted]
    if caption.state != "tracking":
        words.append(caption.detail)
    plain = "   ".join(words).encode("ascii", "replace").decode()[:150]
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(bar, plain, (22, 23), font, 0.5, (240, 240, 240), 1, cv2.LINE_AA)
