"""A frame as a camera would have taken it that was turned about its optical axis.

Matchers and descriptors bear some 20 degrees of roll. A hand or a drone has more, so an image that
is not found upright is looked for turned. Exact for lenses whose distortion depends on the radius.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import Camera, FloatArray, Frame


def rolled(
    frame: Frame, roll_rad: float, size: tuple[int, int] | None = None
) -> tuple[Frame, FloatArray]:
    """(the frame seen by the turned camera, camera_from_turned); corners that nobody saw are black,
    their depth is unknown. Without a right image: its rows would no longer fit.

    size: (width, height) of an image that a quarter turn fits into; else corners are cut off.
    """
    turned_from_camera = se3.transform(se3.rotation(np.array([0.0, 0.0, roll_rad])), np.zeros(3))
    R = turned_from_camera[:3, :3]
    camera = frame.camera if size is None else _fitting(frame.camera, R[:2, :2], size)
    size = camera.size
    H = camera.K @ R @ np.linalg.inv(frame.camera.K)
    rgb = cv2.warpPerspective(frame.rgb, H, size, flags=cv2.INTER_LINEAR)
    depth = None
    if frame.depth is not None:
        unknown = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": float("nan")}
        depth = cv2.warpPerspective(frame.depth, H, size, flags=cv2.INTER_NEAREST, **unknown)
    no_right = {"right_rgb": None, "right_camera": None, "right_from_camera": None}
    turned = replace(frame, rgb=np.asarray(rgb), camera=camera, depth=depth, **no_right)
    return turned, se3.inverse(turned_from_camera)


def _fitting(camera: Camera, turn: FloatArray, size: tuple[int, int]) -> Camera:
    """The turned camera whose image of `size` shows the whole image, turned by the nearest quarter,
    about its middle."""
    on_its_side = abs(turn[0, 1]) > abs(turn[0, 0])
    turned_size = camera.size[::-1] if on_its_side else camera.size
    scale = float((np.array(size) / turned_size).min())
    K = camera.K.copy()
    K[:2, :2] *= scale
    off_axis = (np.array(camera.size) - 1) / 2 - camera.K[:2, 2]
    K[:2, 2] = (np.array(size) - 1) / 2 - scale * turn @ off_axis
    return replace(camera, K=K, width=size[0], height=size[1])
