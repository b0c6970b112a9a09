"""A depth image that was taken at another moment than its colour image, while the camera turned.

    late    seconds from the image to its depth; below 0: depth came first
    turned  3x3, a camera that turns by w radians a second: exp(-late w) takes a point from the
            axes of the image's moment to those of depth's

A pixel of the image is looked up where its point lies in the depth image, and what is found there
is carried back. A hand that shakes turns by sixty degrees a second: with 20 ms between them depth
lies ten pixels beside its image. The turn is that of the matches, which has the mean of what a
motion to the side moves them by in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.types import Camera, FloatArray, Frame

LONGEST_S = 0.05  # later than that, a turn of the moment says little
LEAST_PX = 0.1  # by which the image moves meanwhile: less is not worth looking


@dataclass(frozen=True, eq=False)
class DepthMoments:
    """How the camera turned while a keyframe and a frame were taken, (3,); None: not known."""

    keyframe_rad_s: FloatArray | None = None
    query_rad_s: FloatArray | None = None


def turned_meanwhile(frame: Frame, rad_s: FloatArray | None) -> FloatArray | None:
    """3x3 from an image's moment to its depth's; None where the image hardly moves."""
    late_s = frame.depth_late_s
    if frame.depth is None or rad_s is None or abs(late_s) > LONGEST_S:
        return None
    if abs(late_s) * float(np.linalg.norm(rad_s)) * float(frame.camera.K[0, 0]) < LEAST_PX:
        return None
    return se3.rotation(-late_s * rad_s)


def left_s(frame: Frame, rad_s: FloatArray | None) -> float:
    """How late depth still is after that."""
    late_s = frame.depth_late_s
    return late_s if rad_s is None or abs(late_s) > LONGEST_S else 0.0


def seen_late(camera: Camera, pixels: FloatArray, turned: FloatArray) -> FloatArray:
    """(N, 2) where pixels (N, 2) of the image lie in the depth image."""
    there = project(camera, unproject(camera, pixels) @ turned.T)
    return np.where(np.isfinite(there), there, -1.0)


def carried_back(
    camera: Camera, there: FloatArray, depth_m: FloatArray, turned: FloatArray
) -> FloatArray:
    """(N,) depth z in the image of what lies at pixels `there` (N, 2) of the depth image."""
    return np.asarray((unproject(camera, there) * depth_m[:, None] @ turned)[:, 2])
