"""Metres from a scene whose depth odometry showed earlier, while odometry errs or is absent.

The scene is used as a depth camera's image is, but of single points (`geometry/scene_depth.py`). A
turn and a step to the side move the pixels of a shallow scene nearly alike; its depth tells them
apart, as surely as that depth is known, which is part of the pose's covariance. Of a scene whose
shape is not known so well the median depth gives a length alone. Which of the two it was odometry
says then, whose turn is better than its way while wheels slip, or without odometry the matches, if
the scene's relief shows it.

Slipping wheels move no point of the scene, so poses go on through a slip. The scale is not measured
anew: its sigma grows from keyframe to keyframe, and after `MAX_CARRIED_NS` without a word of
odometry that agrees it is given up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.scene_depth import MIN_POINTS, NEIGHBOUR, SceneDepth
from l2m_ros.tracking import parallax
from l2m_ros.tracking.depth_trust import DepthVerdict, judge
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import Correspondences, FloatArray, Frame, MetricPose, RelativePose

SOURCE = "scene"
MAX_CARRIED_NS = 5_000_000_000
ESTABLISHED_NS = 500_000_000  # odometry must have agreed for so long: it may slip from the start
CHI2_999_3 = 16.27  # 99.9 % of chi-square with three degrees of freedom
# A scale that is known worse is not remembered: after a vague pose, 8.6 degrees off, the scene was
# 2.6 times too near at 0.31, and the metres of the next 100 frames with it.
MAX_SIGMA = 0.3
# A scene that may look otherwise by more gives a length alone: good poses came of scenes of 0.053
# and less, those of 0.07 and 0.11 were 1 to 3 degrees and 13 to 17 cm off within 12 frames.
MAX_SHAPE_SIGMA = 0.06
# A keyframe is taken where its scene would be that vague, and this much vaguer than a frame before
# it. Not twice as vague: of a scene that went from 0.024 to 0.050 in one frame two poses of a
# corridor were wrong.
FADING_SHAPE_SIGMA, FADES, GONE = 0.03, 1.2, 2.0
# Without depth and without odometry's turn matches chose wrongly by 2 to 8 degrees at a relief of
# 0.14 to 0.18, by 0.3 at 0.29.
MIN_RELIEF_ALONE = 0.25
SLIPPED = 0.4  # of the way, which slip makes wrong in length, and in direction on a curve
MAX_SPREAD = 0.25  # of the log of depth: more says that the motion is not the scene's
# What a scene's depth leaves over of where matches lie, squared, over what noise explains: 0.5
# and less on recordings, 1.0 in the simulator; 2 to 4 where a scene was bent.
MAX_LEFT_OVER = 1.2


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


def turn_alone(step: OdometryStep) -> OdometryStep:
    """Odometry's turn, while wheels slip: its way is as wrong as it is long."""
    P, t = step.covariance.copy(), step.a_from_b[:3, 3]
    P[:3, :3] += SLIPPED**2 * float(t @ t) * np.eye(3)
    return replace(step, covariance=P)


def of_length_1(pose: MetricPose) -> RelativePose:
    """The pose without its metres."""
    t = pose.keyframe_from_camera[:3, 3]
    length_m = float(np.linalg.norm(t))
    if length_m < 1e-9:
        R = pose.keyframe_from_camera[:3, :3]
        return RelativePose(se3.transform(R, np.zeros(3)), pose.inliers, "rotation")
    d = t / length_m
    J = np.eye(6)
    J[:3, :3] = (np.eye(3) - np.outer(d, d)) / length_m
    T = se3.transform(pose.keyframe_from_camera[:3, :3], d)
    return RelativePose(T, pose.inliers, "general", J @ pose.covariance @ J.T)


def length_by_scene(
    keyframe: Keyframe,
    query: Frame,
    pairs: Correspondences,
    outcome: RelativePose,
    scene: SceneDepth,
) -> MetricPose | None:
    """The outcome of the matches alone with the scene's metres; None where they do not fit it."""
    if outcome.covariance is None or outcome.kind == "rotation" or parallax.is_vague(outcome):
        return None
    unit, inliers = outcome.keyframe_from_camera, pairs.select(outcome.inliers)
    found = parallax.triangulated_scene(keyframe, query, inliers, unit, parallax.CHECKED_RAD)
    logs = None if found is None else scene.log_ratios(found[0])
    if found is None or logs is None:
        return None
    middle = float(np.median(logs))
    if 1.4826 * float(np.median(np.abs(logs - middle))) > MAX_SPREAD:
        return None
    length = float(np.exp(-middle))
    sigma = float(np.sqrt(scene.sigma**2 + found[0].sigma ** 2 + NEIGHBOUR**2))
    d = unit[:3, 3]
    P = outcome.covariance.copy()
    P[:3] *= length
    P[:, :3] *= length
    P[:3, :3] += (length * sigma) ** 2 * np.outer(d, d)
    return MetricPose(se3.transform(unit[:3, :3], length * d), P, outcome.inliers, SOURCE)


def is_vague(scene: SceneDepth) -> bool:
    """Whether its shape is not known well enough to find poses by."""
    return scene.shape_sigma > MAX_SHAPE_SIGMA


def keyframe_due(scene: SceneDepth | None, best_shape_sigma: float, wanted: bool) -> bool:
    """Whether to take a keyframe that would know this of the scene, while odometry is silent.

    best_shape_sigma: of the frames since the last keyframe. Taken early, while it still gives
    metres; once it would not, the old keyframe stays.
    """
    if scene is None or is_vague(scene):
        return False
    least = max(FADING_SHAPE_SIGMA, FADES * best_shape_sigma)
    return wanted or least < scene.shape_sigma <= GONE * best_shape_sigma


def contradicted(pose: MetricPose, options: TrustOptions) -> bool:
    """Whether the scene's depth leaves unexplained where the matches lie."""
    if judge(pose.depth_check, options) is DepthVerdict.CONTRADICTED:
        return True
    return pose.depth_check is not None and pose.depth_check.left_over > MAX_LEFT_OVER


def turned_otherwise(pose: MetricPose, step: OdometryStep) -> bool:
    """Whether odometry turned by another angle than both admit; slip lengthens ways."""
    off = se3.difference(pose.keyframe_from_camera, step.a_from_b)[3:]
    P = (pose.covariance + step.covariance)[3:, 3:]
    return float(off @ np.linalg.solve(P, off)) > CHI2_999_3


def carried_scene(
    keyframe: Keyframe,
    pairs: Correspondences,
    pose: MetricPose,
    known: SceneDepth,
) -> SceneDepth | None:
    """What the query sees of the known points, with their depth there."""
    inliers = pairs.select(pose.inliers)
    index, same = known.beside(inliers.keyframe_px)
    T = pose.keyframe_from_camera
    points = unproject(keyframe.frame.camera, inliers.keyframe_px) * known.depth_m[index, None]
    z = ((points - T[:3, 3]) @ T[:3, :3])[:, 2]
    good = same & np.isfinite(z) & (z > 0)
    if np.count_nonzero(good) < MIN_POINTS:
        return None
    moved_m = float(np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1]))
    return SceneDepth(
        inliers.query_px[good],
        z[good],
        float(np.hypot(known.sigma, moved_m / np.median(z[good]))),
        float(np.hypot(known.noise, NEIGHBOUR)),
        None if known.shapes is None else known.shapes[:, index[good]],
    )
