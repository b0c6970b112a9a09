"""Other people's odometry on the same frames: what the figures of `sequences.py` are held against.

sift      SIFT, ratio test, solvePnPRansac and RefineLM from frame to frame, depth of the earlier
rgbd      OpenCV's RGB-D odometry (photometric), where the module is there: opencv-contrib-python
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.stereo import stereo_depth
from l2m_ros.types import FloatArray, Frame

RATIO = 0.8
THRESHOLD_PX = 1.5
LEAST = 12  # inliers; fewer are no pose
FARTHEST_STEP_M = 5.0  # between two frames

Step = Callable[[Frame, Frame], "FloatArray | None"]  # before, now -> before_from_now


def references() -> dict[str, Step]:
    found: dict[str, Step] = {"sift + PnP": sift_pnp}
    if hasattr(cv2, "rgbd"):
        found["cv2.rgbd"] = rgbd
    return found


@lru_cache(maxsize=2)
def depth_of(frame: Frame) -> FloatArray | None:
    if frame.depth is not None or frame.right_rgb is None:
        return frame.depth
    stereo = stereo_depth(frame)
    return None if stereo is None else stereo.depth_m


def sift_pnp(before: Frame, now: Frame) -> FloatArray | None:
    depth = depth_of(before)
    if depth is None:
        return None
    (a, words_a), (b, words_b) = _keypoints(before), _keypoints(now)
    if words_a is None or words_b is None or min(len(a), len(b)) < 2:
        return None
    pairs = cv2.BFMatcher().knnMatch(words_b, words_a, k=2)
    good = [m for m, n in pairs if m.distance < RATIO * n.distance]
    if len(good) < LEAST:
        return None
    there = np.array([a[m.trainIdx].pt for m in good], np.float32)
    here = np.array([b[m.queryIdx].pt for m in good])
    z = depth[tuple(np.rint(there[:, ::-1]).astype(int).T)]
    known = np.isfinite(z)
    if known.sum() < LEAST:
        return None
    K = before.camera.K
    rays = np.column_stack([(there - K[:2, 2]) / [K[0, 0], K[1, 1]], np.ones(len(there))])
    X, x = (rays * z[:, None])[known], here[known]
    ok, turn, shift, inliers = cv2.solvePnPRansac(
        X, x, now.camera.K, None, reprojectionError=THRESHOLD_PX, iterationsCount=300
    )
    if not ok or inliers is None or len(inliers) < LEAST:
        return None
    chosen = inliers[:, 0]
    turn, shift = cv2.solvePnPRefineLM(X[chosen], x[chosen], now.camera.K, None, turn, shift)
    now_from_before = se3.transform(cv2.Rodrigues(turn)[0], shift[:, 0])
    return _plausible(se3.inverse(now_from_before))


@lru_cache(maxsize=2)
def _keypoints(frame: Frame) -> tuple[list, np.ndarray | None]:
    return cv2.SIFT_create(2000).detectAndCompute(_grey(frame), None)


def rgbd(before: Frame, now: Frame) -> FloatArray | None:
    depths = [depth_of(frame) for frame in (before, now)]
    if depths[0] is None or depths[1] is None:
        return None
    odometry = cv2.rgbd.RgbdOdometry_create(before.camera.K.astype(np.float32), 0.3, 80.0)
    parts = []
    for frame, depth in zip((before, now), depths, strict=True):
        known = np.isfinite(depth).astype(np.uint8) * 255
        parts += [_grey(frame), np.nan_to_num(depth).astype(np.float32), known]
    ok, now_from_before = odometry.compute(*parts)
    return _plausible(se3.inverse(se3.compose(now_from_before))) if ok else None


def _plausible(step: FloatArray) -> FloatArray | None:
    fine = np.isfinite(step).all() and np.linalg.norm(step[:3, 3]) < FARTHEST_STEP_M
    return step if fine else None


def _grey(frame: Frame) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(frame.rgb), cv2.COLOR_RGB2GRAY)
