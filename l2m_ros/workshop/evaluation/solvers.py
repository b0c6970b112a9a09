"""From pairs of pixels to a pose: the solvers that a matcher can be measured with.

essential   PoseLib's calibrated 5-point with LO-RANSAC at 1 px: what published figures use
magsac      OpenCV's findEssentialMat with USAC_MAGSAC: an independent second opinion
pose        this package's own estimate_pose: depth where there is one, else two views
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import poselib

from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.types import (
    Camera,
    Correspondences,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Outcome = MetricPose | RelativePose | Lost
Solver = Callable[[Correspondences, Frame, Frame, int], Outcome]

THRESHOLD_PX = 1.0
HOMOGRAPHY_THRESHOLD_PX = 3.0
FEWEST = 5


def essential(pairs: Correspondences, query: Frame, keyframe: Frame, seed: int) -> Outcome:
    if len(pairs) < FEWEST:
        return _too_few(pairs)
    pose, info = poselib.estimate_relative_pose(
        pairs.query_px,
        pairs.keyframe_px,
        _poselib_camera(query.camera),
        _poselib_camera(keyframe.camera),
        {"max_epipolar_error": THRESHOLD_PX, "seed": seed},
        {},
    )
    return _relative(pose.R, pose.t, np.array(info["inliers"], dtype=bool))


def magsac(pairs: Correspondences, query: Frame, keyframe: Frame, seed: int) -> Outcome:
    """OpenCV draws the same samples every time, whatever the seed."""
    if len(pairs) < FEWEST:
        return _too_few(pairs)
    # OpenCV knows one camera: both images are brought to a common focal length in pixels.
    focal = np.mean([query.camera.K[0, 0], keyframe.camera.K[0, 0]])
    K = np.diag([focal, focal, 1.0])
    a = focal * unproject(query.camera, pairs.query_px)[:, :2]
    b = focal * unproject(keyframe.camera, pairs.keyframe_px)[:, :2]
    E, mask = cv2.findEssentialMat(
        a, b, K, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=THRESHOLD_PX, maxIters=10_000
    )
    if E is None or E.shape != (3, 3):
        return Lost(LostReason.DEGENERATE, "OpenCV found no essential matrix")
    _, R, t, _ = cv2.recoverPose(E, a, b, K, mask=mask.copy())
    return _relative(R, t.ravel(), mask.ravel().astype(bool))


def pose(pairs: Correspondences, query: Frame, keyframe: Frame, seed: int) -> Outcome:
    return estimate_pose(pairs, query, keyframe, PoseOptions(seed=seed))


SOLVERS: dict[str, Solver] = {"essential": essential, "magsac": magsac, "pose": pose}


def homography(pairs: Correspondences, seed: int) -> tuple[FloatArray | None, int]:
    """3x3 keyframe_from_query in pixels or None, and the number of inliers."""
    if len(pairs) < FEWEST:
        return None, 0
    H, info = poselib.estimate_homography(
        pairs.query_px,
        pairs.keyframe_px,
        {"max_reproj_error": HOMOGRAPHY_THRESHOLD_PX, "seed": seed},
        {},
    )
    inliers = int(info["num_inliers"])
    good = inliers >= FEWEST and np.isfinite(H).all() and abs(np.linalg.det(H)) > 1e-12
    return (np.asarray(H) if good else None), inliers


def _relative(R: FloatArray, t: FloatArray, inliers: Any) -> Outcome:
    length = float(np.linalg.norm(t))
    if inliers.sum() < FEWEST or not length > 0:
        return Lost(LostReason.TOO_FEW_INLIERS, f"{inliers.sum()} of {len(inliers)} pairs agree")
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, np.asarray(t) / length
    return RelativePose(T, inliers)


def _too_few(pairs: Correspondences) -> Lost:
    return Lost(LostReason.TOO_FEW_MATCHES, f"{len(pairs)} pairs, {FEWEST} are needed")


def _poselib_camera(camera: Camera) -> dict[str, Any]:
    K = camera.K
    parameters = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return {
        "model": "PINHOLE",
        "width": camera.width,
        "height": camera.height,
        "params": [float(value) for value in parameters],
    }
