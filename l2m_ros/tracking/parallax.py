"""Odometry's metres against what the images show: slipping wheels move no pixel.

Where odometry is the only source of metres, a view without parallax says nothing of the length of
a motion: the translation would be the wheels' alone and is not published as ours. Once the depth of
a keyframe's scene is known, from an earlier motion, both can be checked:

    no parallax        the camera stands, within the parallax that passes for none times the depth
    parallax           the length that odometry gives must give the scene the depth that it had
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.rays import focal_px
from l2m_ros.tracking.keyframes import Keyframe, parallax_rad
from l2m_ros.tracking.scale_evidence import triangulate
from l2m_ros.types import Correspondences, FloatArray, Frame, MetricPose, RelativePose

SOURCE = "odometry"
MIN_PARALLAX_RAD = 0.02  # less triangulates nothing worth remembering
MIN_POINTS = 20
UNSEEN_PX = 0.5  # parallax that passes for none
ALONG_VIEW = 3.0  # a motion along the view moves the pixels of an ordinary lens that much less
CONTENT = 0.1  # relative: the median depth of other points of the same scene differs by that
SIGMAS = 4.0
REMEDY = "do the wheels slip? is base_from_camera right? is odom this robot's?"


@dataclass(frozen=True)
class SceneDepth:
    """Median depth of what a keyframe sees, from a motion that odometry measured."""

    median_m: float
    far_m: float  # three quarters are nearer
    sigma: float  # relative


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is left of an outcome after the check, and the words if odometry was contradicted."""

    outcome: MetricPose | RelativePose | None  # None: ask the matches without odometry
    contradiction: str | None = None


def seen_depth(
    keyframe: Keyframe, query: Frame, pairs: Correspondences, pose: MetricPose
) -> SceneDepth | None:
    """Of the keyframe, by triangulation of the inliers; None where there is too little parallax."""
    inliers = pairs.select(pose.inliers)
    depth = _triangulated(keyframe, query, inliers, pose.keyframe_from_camera)
    known = depth[np.isfinite(depth)]
    if len(known) < MIN_POINTS:
        return None
    angle = _parallax_rad(keyframe, query, inliers, pose.keyframe_from_camera)
    if angle < MIN_PARALLAX_RAD:
        return None
    noise = UNSEEN_PX / focal_px(query.camera) / angle
    return SceneDepth(
        float(np.median(known)),
        float(np.quantile(known, 0.75)),
        float(np.hypot(_relative_sigma(pose), noise)),
    )


def check(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    outcome: MetricPose | RelativePose,
    scene: SceneDepth | None,
    odometry_m: FloatArray | None,
) -> Verdict:
    """odometry_m (3,): the camera's translation as odometry has it, or None."""
    if scene is None or odometry_m is None:
        return Verdict(outcome)
    if isinstance(outcome, RelativePose):
        if outcome.kind != "rotation":
            return Verdict(outcome)
        return _standing(keyframe, query, pairs, outcome, scene, odometry_m)
    if outcome.scale_source != SOURCE:
        return Verdict(outcome)
    now = seen_depth(keyframe, query, pairs, outcome)
    if now is None:
        return Verdict(outcome)
    off = abs(float(np.log(now.median_m / scene.median_m)))
    if off <= SIGMAS * float(np.hypot(np.hypot(now.sigma, scene.sigma), CONTENT)):
        return Verdict(outcome)
    return Verdict(
        None,
        f"odometry says {np.linalg.norm(odometry_m):.2f} m, which puts the scene at "
        f"{now.median_m:.2f} m; it was at {scene.median_m:.2f} m: {REMEDY}",
    )


def _standing(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    outcome: RelativePose,
    scene: SceneDepth,
    odometry_m: FloatArray,
) -> Verdict:
    """The camera stands or turns: its translation is zero, as far as parallax would show."""
    T = outcome.keyframe_from_camera
    inliers = pairs.select(outcome.inliers)
    angle = max(_parallax_rad(keyframe, query, inliers, T), UNSEEN_PX / focal_px(query.camera))
    sigma_m = angle * scene.far_m * (1 + scene.sigma)
    P = np.diag(np.array([1.0, 1.0, ALONG_VIEW, 0.0, 0.0, 0.0]) * sigma_m) ** 2
    if outcome.covariance is not None:
        P[3:, 3:] = outcome.covariance[3:, 3:]
    moved_m = float(np.linalg.norm(odometry_m))
    words = None
    if moved_m > SIGMAS * ALONG_VIEW * sigma_m:
        words = f"odometry says {moved_m:.2f} m but the image shows no motion: {REMEDY}"
    return Verdict(MetricPose(T, P, outcome.inliers, SOURCE), words)


def depth_in_query(
    scene_of: Keyframe,
    query: Frame,
    pairs: Correspondences,
    pose: MetricPose,
    known: SceneDepth | None,
) -> SceneDepth | None:
    """The scene's depth as the query sees it, for the day that it becomes a keyframe."""
    depth = _triangulated(scene_of, query, pairs.select(pose.inliers), pose.keyframe_from_camera)
    if np.isfinite(depth).sum() < MIN_POINTS:
        return None
    seen = seen_depth(scene_of, query, pairs, pose) or known
    if seen is None:
        return None
    ahead_m = float(pose.keyframe_from_camera[2, 3])
    ratio = max(1 - ahead_m / seen.median_m, 0.2)
    return SceneDepth(seen.median_m * ratio, seen.far_m * ratio, seen.sigma)


def _triangulated(
    keyframe: Keyframe, query: Frame, pairs: Correspondences, keyframe_from_camera: FloatArray
) -> FloatArray:
    return triangulate(
        pairs.keyframe_px,
        pairs.query_px,
        keyframe.frame.camera,
        query.camera,
        se3.inverse(keyframe_from_camera),
    )


def _parallax_rad(
    keyframe: Keyframe, query: Frame, pairs: Correspondences, keyframe_from_camera: FloatArray
) -> float:
    return parallax_rad(
        unproject(query.camera, pairs.query_px),
        unproject(keyframe.frame.camera, pairs.keyframe_px),
        keyframe_from_camera[:3, :3],
    )


def _relative_sigma(pose: MetricPose) -> float:
    """Of the translation's length."""
    t = pose.keyframe_from_camera[:3, 3]
    length_m = float(np.linalg.norm(t))
    along = float(np.sqrt(t @ pose.covariance[:3, :3] @ t)) / max(length_m, 1e-9)
    return along / max(length_m, 1e-9)
