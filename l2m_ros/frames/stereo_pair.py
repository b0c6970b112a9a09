"""A stereo pair's cameras from both camera_infos, and the maps that rectify raw images by them.

    rectified already     cameras of P, baseline of the right P: images as they are
    raw                   K, D -> R -> P: both images are turned into the rectified cameras, as
                          stereo_image_proc does; poses are the rectified left camera's

What cannot be right is refused in words (InvalidInput), each with its remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.messages import read_camera, read_right_from_camera
from l2m_ros.frames.rectified import camera_info_bytes, is_rectified, matrix
from l2m_ros.geometry.rectification import rectifying_maps
from l2m_ros.types import ByteArray, Camera, FloatArray

LEFT, RIGHT = "camera_info", "right/camera_info"
SAME_PX = 0.5  # focal lengths and rows of the two P of one calibration agree to less
FOCAL_CHANGE = 3.0  # a rectified focal length is not further than this factor from the raw one
LEAVE_OUT = "or leave right/image unconnected"


@dataclass(frozen=True, eq=False)
class StereoPair:
    """What both images are turned into; raw: their own cameras and rotations, None if rectified."""

    left: Camera
    right: Camera
    right_from_left: FloatArray  # 4x4
    raw: tuple[tuple[Camera, FloatArray], tuple[Camera, FloatArray]] | None = None

    def images(self, left: ByteArray, right: ByteArray) -> tuple[ByteArray, ByteArray]:
        """Both, rectified."""
        return self._turned(left, 0, self.left), self._turned(right, 1, self.right)

    def _turned(self, image: ByteArray, side: int, ideal: Camera) -> ByteArray:
        if self.raw is None:
            return image
        maps = rectifying_maps(*self.raw[side], ideal)
        turned: ByteArray = cv2.remap(image, *maps, cv2.INTER_LINEAR)
        return turned


class StereoPairs:
    """The pair of the latest two camera_infos; computed when one of them changes."""

    def __init__(self, rectified: str, image_topic: str) -> None:
        self._setting, self._topic = rectified, image_topic
        self._known: tuple[bytes, StereoPair] | None = None

    def of(self, left: Any, right: Any) -> StereoPair:
        """Raises InvalidInput where the calibration cannot be one."""
        says = camera_info_bytes(left) + camera_info_bytes(right)
        if self._known is None or self._known[0] != says:
            self._known = says, self._pair(left, right)
        return self._known[1]

    def _pair(self, left: Any, right: Any) -> StereoPair:
        infos = left, right
        right_from_left = read_right_from_camera(right, left)
        first, second = (read_camera(info, rectified=True) for info in infos)
        _check_cameras(first, second)
        if all(is_rectified(self._setting, info, self._topic) for info in infos):
            return StereoPair(first, second, right_from_left)
        raw = _raw(left, LEFT, first), _raw(right, RIGHT, second)
        return StereoPair(first, second, right_from_left, raw)


def _check_cameras(left: Camera, right: Camera) -> None:
    """Rectified cameras of one calibration have equal sizes, focal lengths and rows."""
    if left.size != right.size:
        raise InvalidInput(
            f"{RIGHT} is of {right.width}x{right.height} but {LEFT} of {left.width}x{left.height}: "
            f"stereo takes two cameras of one size; run them in one mode, {LEAVE_OUT}"
        )
    a, b = (c.K[[0, 1, 1], [0, 1, 2]] for c in (left, right))
    if np.abs(a - b).max() > SAME_PX:
        raise InvalidInput(
            f"P of {LEFT} and of {RIGHT} differ (fx, fy, cy: {_numbers(a)} and {_numbers(b)}): "
            f"they are not of one stereo calibration; calibrate the pair together, {LEAVE_OUT}"
        )


def _raw(info: Any, name: str, ideal: Camera) -> tuple[Camera, FloatArray]:
    """(the camera as it is, its rotation into the rectified one)."""
    camera = read_camera(info, rectified=False)
    R = matrix(info, "r").reshape(3, 3)
    if not np.isfinite(R).all() or np.abs(R @ R.T - np.eye(3)).max() > 1e-3:
        raise InvalidInput(
            f"{name} is of a raw image but its R is no rotation ({_numbers(R.ravel())}): calibrate "
            f"the pair, {LEAVE_OUT}"
        )
    centre = camera.K[:2, 2]
    if (centre < 0).any() or (centre > np.array(camera.size) - 1).any():
        raise InvalidInput(
            f"K of {name} has its principal point at {_numbers(centre)}, outside of the image "
            f"({camera.width}x{camera.height}): is it of another resolution? calibrate at this one"
        )
    change = float(ideal.K[0, 0] / camera.K[0, 0])
    if not 1.0 / FOCAL_CHANGE < change < FOCAL_CHANGE:
        raise InvalidInput(
            f"P of {name} has a focal length of {ideal.K[0, 0]:.4g} px, its K of "
            f"{camera.K[0, 0]:.4g} px: they are not of one resolution; calibrate at this one"
        )
    u, _, vt = np.linalg.svd(R)  # files hold few digits
    return camera, u @ vt


def _numbers(values: FloatArray) -> str:
    return ", ".join(f"{value:.5g}" for value in np.ravel(values))
