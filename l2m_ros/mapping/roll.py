"""A frame as a camera would have taken it that was turned about its optical axis.

Matchers and descriptors bear some 20 degrees of roll. A hand or a drone has more, so an image that
is not found upright is looked for turned. Exact for lenses whose distortion depends on the radius.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray, Frame


def rolled(frame: Frame, roll_rad: float) -> tuple[Frame, FloatArray]:
    """(the frame seen by the turned camera, camera_from_turned); corners that nobody saw are black,
    their depth is unknown. Without a right image: its rows would no longer fit."""
    K, size = frame.camera.K, frame.camera.size
    turned_from_camera = se3.transform(se3.rotation(np.array([0.0, 0.0, roll_rad])), np.zeros(3))
    H = K @ turned_from_camera[:3, :3] @ np.linalg.inv(K)
    rgb = cv2.warpPerspective(frame.rgb, H, size, flags=cv2.INTER_LINEAR)
    depth = None
    if frame.depth is not None:
        unknown = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": float("nan")}
        depth = cv2.warpPerspective(frame.depth, H, size, flags=cv2.INTER_NEAREST, **unknown)
    no_right = {"right_rgb": None, "right_camera": None, "right_from_camera": None}
    turned = replace(frame, rgb=np.asarray(rgb), depth=depth, **no_right)
    return turned, se3.inverse(turned_from_camera)
