"""Is an image rectified? CameraInfo says how its camera sees, not which image it came with.

D = 0, R = I, P = K     the lens bends nothing: rectified or not is the same
anything else           raw, unless the parameter `rectified` says otherwise. image_proc sends
                        its rectified images with the raw camera's message on topics that are
                        named so: a word `rect` or `rectified` in the topic decides there.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

WORDS = {"rect", "rectified"}
SAME = 1e-6  # relative


def is_rectified(setting: str, info: Any, topic: str = "") -> bool:
    """`setting` is the parameter `rectified`: auto, use (yes) or ignore (no)."""
    if setting != "auto":
        return setting == "use"
    return is_ideal(info) or named_rectified(topic)


def is_ideal(info: Any) -> bool:
    """Whether the image of this camera needs no rectification."""
    D, K, R, P = (matrix(info, name) for name in "dkrp")
    if D.any():
        return False
    turned = R.any() and not np.allclose(R.reshape(3, 3), np.eye(3), atol=SAME)
    P = P.reshape(3, 4)[:, :3].ravel()
    return not turned and bool(P.any()) and np.allclose(P, K, rtol=SAME, atol=SAME)


def named_rectified(topic: str) -> bool:
    """Whether a whole word of the topic says so: image_rect_color, color/rect/image; not direct."""
    return bool(WORDS & set(re.split(r"[/_]", topic.lower())))


def matrix(info: Any, name: str) -> Any:
    """A CameraInfo's matrix, flat: small letters in ROS 2, capitals in ROS 1's bags."""
    return np.asarray(getattr(info, name if hasattr(info, name) else name.upper()), float).ravel()


def camera_info_bytes(info: Any) -> bytes:
    """Everything but the header: live, each message is a new object of the same content."""
    roi = info.roi
    numbers = [info.width, info.height, info.binning_x, info.binning_y]
    numbers += [roi.x_offset, roi.y_offset, roi.width, roi.height]
    matrices = [matrix(info, name) for name in "dkrp"]
    flat = np.concatenate([numbers, *matrices])
    return str(info.distortion_model).encode() + bytes(np.asarray(flat, float))
