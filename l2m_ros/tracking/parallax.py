"""Odometry's metres against what the images show: slipping wheels move no pixel.

Where odometry is the only source of metres, a view without parallax says nothing of the length of
a motion: the translation would be the wheels' alone and is not published as ours. Once the depth of
a keyframe's scene is known, from an earlier motion, both can be checked:

    hardly any         the camera stands, within the parallax that there is times the depth
    parallax           the length that odometry gives must give the scene the depth that it had
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.pose_by_length import MAX_VAGUE_RAD
from l2m_ros.geometry.rays import Mask, focal_px
from l2m_ros.geometry.scene_depth import MIN_POINTS, NEIGHBOUR, SceneDepth, shapes_by_motion
from l2m_ros.tracking.keyframes import Keyframe, parallax_rad
from l2m_ros.tracking.scale_evidence import triangulate
from l2m_ros.types import Correspondences, FloatArray, Frame, MetricPose, RelativePose

SOURCE = "odometry"
MIN_PARALLAX_RAD = 0.02  # less triangulates nothing worth remembering
CHECKED_RAD = 0.003  # less shows no slip either
UNSEEN_PX = 0.5  # parallax that passes for none
ALONG_VIEW = 3.0  # a motion along the view moves the pixels of an ordinary lens that much less
SIGMAS = 3.0
REMEDY = "do the wheels slip? is base_from_camera right? is odom this robot's?"


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is left of an outcome after the check, and the words if odometry was contradicted."""

    outcome: MetricPose | RelativePose | None  # None: ask the matches without odometry
    contradiction: str | None = None
    agreed: bool = False  # the length that odometry gives suits the scene
    unchecked: bool = False  # too little of the known scene is seen, or too little parallax


def seen_depth(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    pose: MetricPose,
    min_parallax_rad: float = MIN_PARALLAX_RAD,
) -> SceneDepth | None:
    """Of the keyframe, by triangulation of the inliers; None where there is too little parallax."""
    inliers = pairs.select(pose.inliers)
    found = _scene_by_pose(keyframe, query, inliers, pose, min_parallax_rad)
    return None if found is None else found[0]


def learned_scene(
    keyframe: Keyframe, query: Frame, pairs: Correspondences, pose: MetricPose
) -> SceneDepth | None:
    """The same, with the shapes that the pose's covariance leaves open: to find poses by it."""
    inliers = pairs.select(pose.inliers)
    found = _scene_by_pose(keyframe, query, inliers, pose, MIN_PARALLAX_RAD)
    if found is None:
        return None
    scene, known = found
    rays = unproject(keyframe.frame.camera, inliers.keyframe_px[known])
    others = unproject(query.camera, inliers.query_px[known])
    shapes, scale = shapes_by_motion(rays, others, pose.keyframe_from_camera, pose.covariance)
    return replace(scene, shapes=shapes, sigma=max(scene.sigma, scale))


def _scene_by_pose(
    keyframe: Keyframe,
    query: Frame,
    inliers: Correspondences,
    pose: MetricPose,
    min_parallax_rad: float,
) -> tuple[SceneDepth, Mask] | None:
    """Of the keyframe, with the pose's sigma, and which of the inliers it has."""
    T = pose.keyframe_from_camera
    found = triangulated_scene(keyframe, query, inliers, T, min_parallax_rad)
    if found is None:
        return None
    scene, known = found
    return replace(scene, sigma=float(np.hypot(_relative_sigma(pose), scene.sigma))), known


def triangulated_scene(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    keyframe_from_camera: FloatArray,
    min_parallax_rad: float,
) -> tuple[SceneDepth, Mask] | None:
    """Of the keyframe, as if the pose were exact, and which of the pairs it has."""
    depth = _triangulated(keyframe, query, pairs, keyframe_from_camera)
    known = np.isfinite(depth) & (depth > 0)
    if np.count_nonzero(known) < MIN_POINTS:
        return None
    angle = _parallax_rad(keyframe, query, pairs, keyframe_from_camera)
    if angle < min_parallax_rad:
        return None
    noise = UNSEEN_PX / focal_px(query.camera) / angle
    sigma = noise / float(np.sqrt(MIN_POINTS))
    return SceneDepth(pairs.keyframe_px[known], depth[known], sigma, noise), known


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
        if outcome.kind != "rotation" and not is_vague(outcome):
            return Verdict(outcome)
        return _standing(keyframe, query, pairs, outcome, scene, odometry_m)
    if outcome.scale_source != SOURCE:
        return Verdict(outcome)
    now = seen_depth(keyframe, query, pairs, outcome, CHECKED_RAD)
    off = None if now is None else scene.log_ratio(now)
    if now is None or off is None:
        return Verdict(outcome, unchecked=True)
    if abs(off) <= SIGMAS * float(np.sqrt(now.sigma**2 + scene.sigma**2 + NEIGHBOUR**2)):
        return Verdict(_between(outcome, off, now.sigma**2, scene), agreed=True)
    return Verdict(
        None,
        f"odometry says {np.linalg.norm(odometry_m):.2f} m, which puts the scene "
        f"{np.exp(off):.2f} times as far as it was: {REMEDY}",
    )


def _between(outcome: MetricPose, off: float, variance: float, scene: SceneDepth) -> MetricPose:
    """The length between odometry's (relative variance) and what the scene asks for.

    What they differ by is admitted: slip that begins is a small one first.
    """
    to_scene = variance / (variance + scene.sigma**2 + NEIGHBOUR**2)
    T, P = outcome.keyframe_from_camera.copy(), outcome.covariance.copy()
    T[:3, 3] *= np.exp(-to_scene * off)
    t = max(to_scene, 1.0 - to_scene) * off * T[:3, 3]
    P[:3, :3] += np.outer(t, t)
    return replace(outcome, keyframe_from_camera=T, covariance=P)


def _standing(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    outcome: RelativePose,
    scene: SceneDepth,
    odometry_m: FloatArray,
) -> Verdict:
    """The camera stands or turns: its translation is zero, as far as parallax would show."""
    T = se3.transform(outcome.keyframe_from_camera[:3, :3], np.zeros(3))
    inliers = pairs.select(outcome.inliers)
    angle = max(_parallax_rad(keyframe, query, inliers, T), UNSEEN_PX / focal_px(query.camera))
    # A turn looks like a motion along a scene of one depth: relief alone tells them apart, also
    # where a turn explains the matches best. A motion along the view is like no turn.
    along_m = ALONG_VIEW * angle * scene.far_m * (1 + scene.sigma)
    sigma_m = along_m / ALONG_VIEW / scene.relief
    sigmas_m = np.array([sigma_m, sigma_m, along_m, 0.0, 0.0, 0.0])
    P: FloatArray = np.diag(np.square(sigmas_m))
    if outcome.covariance is not None:
        P[3:, 3:] = outcome.covariance[3:, 3:]
    P[3:, 3:] += (sigma_m / scene.far_m) ** 2 * np.eye(3)
    moved_m = float(np.linalg.norm(odometry_m))
    words = None
    if moved_m > SIGMAS * max(along_m, sigma_m):
        words = f"odometry says {moved_m:.2f} m but the image shows no motion: {REMEDY}"
    return Verdict(MetricPose(T, P, outcome.inliers, SOURCE), words)


def is_vague(outcome: RelativePose) -> bool:
    """Whether there is so little parallax that the matches do not show which way it went."""
    if outcome.covariance is None:
        return False
    return float(np.linalg.eigvalsh(outcome.covariance[:3, :3])[-1]) > MAX_VAGUE_RAD**2


def depth_in_query(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    pose: MetricPose,
    known: SceneDepth | None,
) -> SceneDepth | None:
    """The scene's depth as the query sees it, for the day that it becomes a keyframe.

    Its scale is that of this motion and of what was known before, weighted by their variances.
    """
    seen = seen_depth(keyframe, query, pairs, pose)
    if seen is None:
        return None
    inliers = pairs.select(pose.inliers)
    T = pose.keyframe_from_camera
    depth = _triangulated(keyframe, query, inliers, T)
    others = unproject(keyframe.frame.camera, inliers.keyframe_px)
    z = ((others * depth[:, None] - T[:3, 3]) @ T[:3, :3])[:, 2]
    good = np.isfinite(z) & (z > 0)
    if not good.any():
        return None
    shapes, own = shapes_by_motion(
        unproject(query.camera, inliers.query_px[good]),
        others[good],
        se3.inverse(T),
        se3.inverse_covariance(T, pose.covariance),
    )
    scale, sigma = 1.0, max(seen.sigma, own)
    off = None if known is None else known.log_ratio(seen)
    if known is not None and off is not None:
        before = known.sigma**2 + NEIGHBOUR**2
        weight = sigma**2 / (sigma**2 + before)
        scale, sigma = float(np.exp(-weight * off)), float(np.sqrt(weight * before))
    return SceneDepth(inliers.query_px[good], scale * z[good], sigma, seen.noise, shapes)


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
