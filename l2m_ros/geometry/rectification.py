"""A stereo pair whose rows are epipolar lines, whatever the cameras are.

    rectified camera <- R <- camera        the baseline along x, the axes of both cameras parallel

A pair that is rectified already is taken as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.camera import pixels_of, rays
from l2m_ros.geometry.lens import distort
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame

F32 = npt.NDArray[np.float32]
ALIGNED_PX = 0.1  # rows and focal lengths of a pair that counts as rectified agree to this
NOWHERE = -1e4  # cv2.remap fetches what a lens never sees from outside of the image


@dataclass(frozen=True, eq=False)
class RectifiedPair:
    """Two grey images with the same rows."""

    left: ByteArray  # (H, W)
    right: ByteArray  # (H, W)
    focal_px: float
    baseline_m: float
    infinity_px: float  # disparity of a point at infinity
    # Left camera and its rotation to the rectified one; None where they are the same.
    unrectified: tuple[Camera, FloatArray, Camera] | None = None

    def in_left_image(self, depth_m: F32, values: F32) -> tuple[F32, F32]:
        """Both as seen in the left image itself, its own z."""
        if self.unrectified is None:
            return depth_m, values
        camera, R, rectified = self.unrectified
        ray = rays(camera) @ R.T  # (H, W, 3)
        place = pixels_of(rectified, (ray[..., :2] / ray[..., 2:]).reshape(-1, 2))
        place = np.where(np.isfinite(place), place, NOWHERE).astype(np.float32)
        maps = place.reshape(*ray.shape[:2], 2)
        z, values = (
            cv2.remap(
                image, maps, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
                borderValue=float("nan"),
            )
            for image in (depth_m, values)
        )  # fmt: skip
        # X = z ray / ray_z, and the left camera's own rays have z = 1.
        return (z / ray[..., 2]).astype(np.float32), values


def rectified_pair(frame: Frame) -> RectifiedPair | None:
    """None where the frame has no right image."""
    if frame.right_rgb is None or frame.right_camera is None or frame.right_from_camera is None:
        return None
    left, right = frame.camera, frame.right_camera
    images = _grey(frame.rgb), _grey(frame.right_rgb)
    if _aligned(left, right, frame.right_from_camera):
        baseline_m = -float(frame.right_from_camera[0, 3])
        shift_px = float(left.K[0, 2] - right.K[0, 2])
        return RectifiedPair(*images, float(left.K[0, 0]), baseline_m, shift_px)
    return _rectified(*images, left, right, frame.right_from_camera)


def _aligned(left: Camera, right: Camera, right_from_left: FloatArray) -> bool:
    """Whether a row of the left image is the same row of the right one."""
    if left.size != right.size or left.distortion != "none" or right.distortion != "none":
        return False
    own, other = left.K[[0, 1, 1, 0], [0, 1, 2, 1]], right.K[[0, 1, 1, 0], [0, 1, 2, 1]]
    R, t = right_from_left[:3, :3], right_from_left[:3, 3]
    turned_px = np.abs(R - np.eye(3)).max() * max(left.size)
    off_px = np.abs(t[1:]).max() / max(abs(t[0]), 1e-12) * left.width / 8
    alike = np.abs(own - other).max() < ALIGNED_PX
    return bool(alike and turned_px < ALIGNED_PX and off_px < ALIGNED_PX and t[0] < 0)


def _rectified(
    left: ByteArray,
    right: ByteArray,
    left_camera: Camera,
    right_camera: Camera,
    right_from_left: FloatArray,
) -> RectifiedPair:
    R, t = right_from_left[:3, :3], right_from_left[:3, 3]
    centre = -R.T @ t  # of the right camera, in the left one
    left_turn = axes_along(centre, 0.5 * (np.array([0.0, 0.0, 1.0]) + R.T[:, 2]))
    ideal = left_camera.pinhole()
    maps = rectifying_maps(left_camera, left_turn, ideal)
    others = rectifying_maps(right_camera, left_turn @ R.T, ideal)
    left = cv2.remap(left, *maps, cv2.INTER_LINEAR)
    right = cv2.remap(right, *others, cv2.INTER_LINEAR)
    baseline_m = float(np.linalg.norm(centre))
    unrectified = left_camera, left_turn, ideal
    return RectifiedPair(left, right, float(ideal.K[0, 0]), baseline_m, 0.0, unrectified)


def axes_along(baseline: FloatArray, forward: FloatArray) -> FloatArray:
    """3x3 rotation into axes with x along the baseline and z as near to forward as that allows."""
    x = baseline / np.linalg.norm(baseline)
    y = np.cross(forward, x)
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


class _Key:
    """Cameras and rotations compare by content: live, each frame brings new objects."""

    def __init__(self, camera: Camera, R: FloatArray, ideal: Camera) -> None:
        self.parts = camera, R, ideal
        numbers = (camera.K, camera.D, R, ideal.K)
        self._content = (
            camera.size, camera.distortion, ideal.size, *(np.asarray(n).tobytes() for n in numbers)
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._content == other._content


def rectifying_maps(camera: Camera, R: FloatArray, ideal: Camera) -> tuple[F32, F32]:
    """(map_x, map_y) for cv2.remap: the image of `camera` -> that of `ideal`, turned by R.

    R takes rays of the camera into the ideal one, as CameraInfo's R does. Kept for the last few.
    """
    return _maps(_Key(camera, R, ideal))


@lru_cache(maxsize=8)
def _maps(key: _Key) -> tuple[F32, F32]:
    camera, R, ideal = key.parts
    u, v = np.meshgrid(np.arange(ideal.width), np.arange(ideal.height))
    pixels = np.stack([u.ravel(), v.ravel(), np.ones(u.size)])
    ray = R.T @ np.linalg.inv(ideal.K) @ pixels  # (3, N)
    with np.errstate(divide="ignore", invalid="ignore"):
        xy = np.where(ray[2] > 0, ray[:2] / ray[2], np.nan).T
    places = pixels_of(camera, distort(camera, xy))
    places = np.where(np.isfinite(places), places, NOWHERE).astype(np.float32)
    shape = (ideal.height, ideal.width)
    return places[:, 0].reshape(shape), places[:, 1].reshape(shape)


def _grey(rgb: ByteArray) -> ByteArray:
    grey: ByteArray = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return grey
