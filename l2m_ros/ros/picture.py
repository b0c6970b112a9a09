"""The picture of ~/matches: the frame beside its keyframe, matches coloured by confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, Correspondences

WIDTH_PX = 640  # of each half: readable in RViz, and quick to draw and to send
BAR_PX = 34
LINES = 120  # more lines hide the images
STATE_COLOURS = {"tracking": (60, 190, 90), "lost": (220, 70, 60), "waiting": (230, 170, 50)}


@dataclass(frozen=True)
class Caption:
    """What the bar above the images says."""

    state: str
    detail: str = ""
    rate_hz: float = 0.0
    scale: str = ""


def draw_matches(
    frame: ByteArray,
    keyframe: ByteArray,
    pairs: Correspondences,
    inliers: npt.NDArray[np.bool_] | None,
    caption: Caption,
) -> ByteArray:
    """(BAR_PX + h, 2 WIDTH_PX, 3) uint8: inliers as lines, yellow = sure, violet = doubtful."""
    left, left_scale = _fitted(frame)
    right, right_scale = _fitted(keyframe)
    height = max(left.shape[0], right.shape[0])
    picture = np.full((BAR_PX + height, 2 * WIDTH_PX, 3), 24, np.uint8)
    picture[BAR_PX : BAR_PX + left.shape[0], :WIDTH_PX] = left
    picture[BAR_PX : BAR_PX + right.shape[0], WIDTH_PX:] = right
    shown = pairs.select(inliers) if inliers is not None and inliers.any() else pairs
    a = shown.query_px * left_scale + (0, BAR_PX)
    b = shown.keyframe_px * right_scale + (WIDTH_PX, BAR_PX)
    _lines(picture, a, b, shown.confidence)
    _bar(picture, caption, len(shown), len(pairs))
    return picture


def _fitted(image: ByteArray) -> tuple[ByteArray, float]:
    scale = WIDTH_PX / image.shape[1]
    size = (WIDTH_PX, max(1, round(image.shape[0] * scale)))
    # Darker than the original, so that the lines stand out.
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA) * 0.75, np.uint8), scale


def _lines(picture: ByteArray, a: Any, b: Any, confidence: Any) -> None:
    """The lines are spread over the list, which the sampler has spread over the image."""
    if not len(a):
        return
    chosen = np.linspace(0, len(a) - 1, min(LINES, len(a))).astype(int)
    ramp = (np.clip(confidence[chosen], 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(ramp[:, None], cv2.COLORMAP_PLASMA)[:, 0, ::-1]
    ends = np.rint(np.stack([a[chosen], b[chosen]], axis=1)).astype(int)
    for ((u0, v0), (u1, v1)), colour in zip(ends.tolist(), colours.tolist(), strict=True):
        cv2.line(picture, (u0, v0), (u1, v1), colour, 1, cv2.LINE_AA)
        cv2.circle(picture, (u0, v0), 2, colour, -1, cv2.LINE_AA)
        cv2.circle(picture, (u1, v1), 2, colour, -1, cv2.LINE_AA)


def _bar(picture: ByteArray, caption: Caption, shown: int, all_pairs: int) -> None:
    colour = STATE_COLOURS.get(caption.state, (180, 180, 180))
    cv2.rectangle(picture, (0, 0), (12, BAR_PX - 1), colour, -1)
    words = f"{caption.state.upper()}   {caption.rate_hz:.1f} Hz   scale: {caption.scale}   " + (
        f"{shown} of {all_pairs} matches"
    )
    if caption.state != "tracking":
        words += f"   {caption.detail}"
    plain = words.encode("ascii", "replace").decode()
    cv2.putText(
        picture, plain[:150], (22, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (240, 240, 240), 1,
        cv2.LINE_AA,
    )  # fmt: skip
