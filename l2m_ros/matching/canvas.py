"""An image laid on a canvas: turned, scaled, cut; and the way back to its pixels.

canvas pixel = canvas_from_image @ image pixel     (3x3, pixel centres at integers)
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, FloatArray

Size = tuple[int, int]  # (width, height)
GREY = (114, 114, 114)  # where a canvas shows nothing
BORDER_PX = 3  # of a canvas's picture: half interpolated, not matched


@dataclass(frozen=True, eq=False)
class Canvas:
    """What a matcher gets to see of an image."""

    rgb: ByteArray
    shown: npt.NDArray[np.bool_]  # (h, w) where the image is
    canvas_from_image: FloatArray  # 3x3

    def to_image(self, px: FloatArray) -> FloatArray:
        back = np.linalg.inv(self.canvas_from_image)
        return np.asarray(px @ back[:2, :2].T + back[:2, 2])

    @property
    def scale(self) -> float:
        """Canvas pixels per image pixel."""
        return scale_of(self.canvas_from_image)


def untouched(rgb: ByteArray) -> Canvas:
    return Canvas(rgb, np.ones(rgb.shape[:2], bool), np.eye(3))


def laid(rgb: ByteArray, canvas_from_image: FloatArray, canvas: Size) -> Canvas:
    """The image on a canvas of (width, height); smoothed first where it shrinks."""
    scale = scale_of(canvas_from_image)
    smooth = rgb if scale > 0.7 else cv2.GaussianBlur(rgb, (0, 0), 0.4 / scale)
    affine = np.ascontiguousarray(canvas_from_image[:2])
    picture = cv2.warpAffine(smooth, affine, canvas, flags=cv2.INTER_LINEAR, borderValue=GREY)
    full = np.full(rgb.shape[:2], 255, np.uint8)
    shown = cv2.warpAffine(full, affine, canvas, flags=cv2.INTER_NEAREST)
    side = 2 * BORDER_PX + 1
    inner = cv2.erode(shown, np.ones((side, side), np.uint8))
    return Canvas(np.asarray(picture, np.uint8), inner > 0, canvas_from_image)


def turned_to_fit(size: Size, canvas: Size, degrees: float, zoom: float = 1.0) -> FloatArray:
    """3x3 canvas px by image px: turned to the left about the middle, zoom 1: all of it fits."""
    middle = (np.array(size) - 1) / 2
    return _about(middle, size, canvas, degrees, zoom)


def part_to_fit(size: Size, canvas: Size, middle: FloatArray, zoom: float) -> FloatArray:
    """3x3 canvas px by image px: `zoom` times as large as all of it would fit, about `middle`."""
    return _about(middle, size, canvas, 0.0, zoom)


def size_of(rgb: ByteArray) -> Size:
    return rgb.shape[1], rgb.shape[0]


def scale_of(affine: FloatArray) -> float:
    return float(np.sqrt(abs(np.linalg.det(affine[:2, :2]))))


def _about(middle: FloatArray, size: Size, canvas: Size, degrees: float, zoom: float) -> FloatArray:
    c, s = np.round([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 15)
    turn = np.array([[c, s], [-s, c]])
    width, height = np.abs(turn) @ size
    scaled = zoom * min(canvas[0] / width, canvas[1] / height) * turn
    shift = (np.array(canvas) - 1) / 2 - scaled @ middle
    return np.vstack([np.column_stack([scaled, shift]), [0.0, 0.0, 1.0]])
