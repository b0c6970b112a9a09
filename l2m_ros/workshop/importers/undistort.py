"""Pictures of a distorted lens as a pinhole camera with the same K sees them."""

from __future__ import annotations

import cv2
import numpy as np

from l2m_ros.types import ByteArray, FloatArray


def undistorted(rgb: ByteArray, K: FloatArray, D: FloatArray) -> ByteArray:
    """D: k1 k2 p1 p2 [k3]."""
    return np.asarray(cv2.undistort(rgb, K, D), np.uint8) if np.any(D) else rgb


def undistorted_depth(depth_m: FloatArray, K: FloatArray, D: FloatArray) -> FloatArray:
    """The nearest pixel: a mean across an edge lies on neither surface."""
    if not np.any(D):
        return depth_m
    size = (depth_m.shape[1], depth_m.shape[0])
    maps = cv2.initUndistortRectifyMap(K, D, None, K, size, cv2.CV_32FC1)
    moved = cv2.remap(depth_m, *maps, cv2.INTER_NEAREST, borderValue=float("nan"))
    return np.asarray(moved, np.float32)
