"""Metres from a scene whose depth odometry showed earlier, while odometry errs or is absent.

    outcome of the matches alone: R, unit direction d
    length L = what puts its triangulated points where the scene has them
    sigma of L: the scene's own, what neighbouring points differ by, and that of the triangulation

Slipping wheels move no point of the scene, so poses go on through a slip. The scale is not measured
anew: its sigma grows from keyframe to keyframe, and after `MAX_CARRIED_NS` without a word of
odometry that agrees it is given up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.tracking import parallax
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.tracking.parallax import SceneDepth
from l2m_ros.types import Correspondences, FloatArray, Frame, MetricPose, RelativePose

SOURCE = "scene"
MAX_CARRIED_NS = 5_000_000_000
ESTABLISHED_NS = 500_000_000  # odometry must have agreed for so long: it may slip from the start
CHI2_999_3 = 16.27  # 99.9 % of chi-square with three degrees of freedom
# A shallow scene moves nearly alike under a turn and a step to the side; without odometry's turn
# the matches chose wrongly by 2 to 8 degrees at a relief of 0.14 to 0.18, by 0.3 at 0.29.
MIN_RELIEF_ALONE = 0.25
MAX_SPREAD = 0.25  # of the log of depth: more says that the motion is not the scene's


@dataclass(frozen=True, eq=False)
class Anchor:
    """A place from which odometry is believed anew: what slipped before it is left out."""

    keyframe_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    odometry: OdometrySample

    def followed_by(self, way: OdometryStep) -> OdometryStep:
        """The camera in the keyframe after a further way, by odometry, from this place."""
        T = se3.compose(self.keyframe_from_camera, way.a_from_b)
        P = se3.compose_covariance(
            self.keyframe_from_camera, self.covariance, way.a_from_b, way.covariance
        )
        return OdometryStep(T, P, way.modelled)


def posed_by_scene(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    outcome: RelativePose,
    scene: SceneDepth,
) -> MetricPose | None:
    """The outcome of the matches alone with the scene's metres; None where they do not fit it."""
    if outcome.covariance is None or outcome.kind == "rotation" or parallax.is_vague(outcome):
        return None
    unit = outcome.keyframe_from_camera
    inliers = pairs.select(outcome.inliers)
    seen = parallax.triangulated_scene(keyframe, query, inliers, unit, parallax.CHECKED_RAD)
    if seen is None:
        return None
    logs = scene.log_ratios(seen)
    if logs is None:
        return None
    middle = float(np.median(logs))
    if 1.4826 * float(np.median(np.abs(logs - middle))) > MAX_SPREAD:
        return None
    length = float(np.exp(-middle))
    sigma = float(np.sqrt(scene.sigma**2 + seen.sigma**2 + parallax.NEIGHBOUR**2))
    d = unit[:3, 3]
    P = outcome.covariance.copy()
    P[:3] *= length
    P[:, :3] *= length
    P[:3, :3] += (length * sigma) ** 2 * np.outer(d, d)
    T = se3.transform(unit[:3, :3], length * d)
    return MetricPose(T, P, outcome.inliers, SOURCE)


def turned_otherwise(pose: MetricPose, step: OdometryStep) -> bool:
    """Whether odometry turned by another angle than both admit; slip lengthens ways."""
    off = se3.difference(pose.keyframe_from_camera, step.a_from_b)[3:]
    P = (pose.covariance + step.covariance)[3:, 3:]
    return float(off @ np.linalg.solve(P, off)) > CHI2_999_3


def carried_scene(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    pose: MetricPose,
    known: SceneDepth,
) -> SceneDepth | None:
    """What the query sees of the known points, with their depth there."""
    inliers = pairs.select(pose.inliers)
    from scipy.spatial import cKDTree  # 0.2 s to import; a node with depth needs none of it

    apart, index = cKDTree(known.pixels).query(inliers.keyframe_px)
    same = apart < parallax.SAME_PX
    if np.count_nonzero(same) < parallax.MIN_POINTS:
        return None
    T = pose.keyframe_from_camera
    rays = unproject(keyframe.frame.camera, inliers.keyframe_px[same])
    points = rays * known.depth_m[index[same], None]
    z = ((points - T[:3, 3]) @ T[:3, :3])[:, 2]
    good = np.isfinite(z) & (z > 0)
    if np.count_nonzero(good) < parallax.MIN_POINTS:
        return None
    moved_m = float(np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1]))
    sigma = float(np.hypot(known.sigma, moved_m / np.median(z[good])))
    return SceneDepth(inliers.query_px[same][good], z[good], sigma)
