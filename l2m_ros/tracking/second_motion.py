"""Does something else in view move as a whole: a person, a vehicle, a part of the robot itself?

The matches that do not agree on a pose err each in its own way, unless they lie on a thing that
moves otherwise than the scene. Which of the two is the scene no image says: a person close to the
camera has more matches than the wall behind. So where the other motion has many matches too, there
is no pose.

Two motions that differ by a few pixels cannot be told apart: a pose between them suits all matches.
So where two were seen lately, a pose that hardly moves the image is not believed either.

    matches that do not agree -> a search with few trials (1 to 3 ms) -> if it finds many: a whole
    estimate
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from l2m_ros.geometry.absolute import reprojection_distance
from l2m_ros.geometry.depth_image import nearest
from l2m_ros.geometry.ransac import Search, find_absolute, find_relative
from l2m_ros.geometry.rays import RayPairs, focal_px, homogeneous, ray_pairs
from l2m_ros.geometry.triangulation import epipolar_distance
from l2m_ros.types import (
    Correspondences,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Pose = MetricPose | RelativePose
MIN_MATCHES = 30  # of the second motion
TRIALS, DRAWN, THRESHOLD_PX = 200, 300, 2.0
WITH_DEPTH = 0.2  # of the matches: fewer do not show a motion in metres
# At 640 px: by how far the pose moves the second motion's matches aside, in the median. What a bad
# match or depth does is less.
APART_PX = 5.0
LATELY_NS = 1_000_000_000
# At 640 px: a pose of less lies between two motions, and all matches agree with it.
BETWEEN_PX = 16.0


def second_motion(
    pose: Pose,
    pairs: Correspondences,
    query: Frame,
    keyframe: Frame,
    posed: Callable[[Correspondences], Pose | Lost],
    least: float,
) -> float:
    """The matches of another motion over those of the pose, each by its confidence.

    0 where it is below `least`, or no other motion. posed: the pose of a part of the matches.
    """
    return another_motion(pose, pairs, query, keyframe, posed, least)[1]


def another_motion(
    pose: Pose,
    pairs: Correspondences,
    query: Frame,
    keyframe: Frame,
    posed: Callable[[Correspondences], Pose | Lost],
    least: float,
) -> tuple[Pose | None, float]:
    """The motion of the matches that do not agree on the pose, and their share over its own."""
    agreed = float(pairs.confidence[pose.inliers].sum())
    rest = pairs.select(np.flatnonzero(~pose.inliers & (pairs.confidence > 0)))
    if _by_few_trials(pose, rest, query, keyframe) < least * agreed:
        return None, 0.0
    other = posed(rest)
    if isinstance(other, Lost) or np.count_nonzero(other.inliers) < MIN_MATCHES:
        return None, 0.0
    return other, float(rest.confidence[other.inliers].sum()) / max(agreed, 1e-9)


def _by_few_trials(pose: Pose, rest: Correspondences, query: Frame, keyframe: Frame) -> float:
    """Confidence of the matches that agree on a motion apart from the pose, 0 if there is none."""
    if len(rest) < MIN_MATCHES:
        return 0.0
    rays, f = ray_pairs(rest, query.camera, keyframe.camera), focal_px(keyframe.camera)
    search = Search(THRESHOLD_PX / f, 0, DRAWN, max_iterations=TRIALS)
    if isinstance(pose, MetricPose) and keyframe.depth is not None:
        rays = replace(rays, keyframe_m=nearest(keyframe.depth, rest.keyframe_px))
    in_metres = bool(np.isfinite(rays.keyframe_m).mean() > WITH_DEPTH)
    other = find_absolute(rays, search) if in_metres else find_relative(rays, search)
    its = np.flatnonzero(_off(rays, other, in_metres=in_metres) < search.threshold)
    if len(its) < MIN_MATCHES:
        return 0.0
    turned = isinstance(pose, RelativePose) and pose.kind == "rotation"
    T = pose.keyframe_from_camera
    moved = _off(rays.select(its), T, in_metres=in_metres, turned=turned)
    with_depth = np.isfinite(rays.keyframe_m[its])
    apart_px = f * np.median(moved[with_depth] if with_depth.any() else moved)
    if apart_px < APART_PX * keyframe.camera.width / 640:
        return 0.0
    return float(rest.confidence[its].sum())


def _off(
    rays: RayPairs, T: FloatArray, *, in_metres: bool = False, turned: bool = False
) -> FloatArray:
    """(N,) how far each match lies from where the motion T has it, normalised units.

    Of a match without depth: from its epipolar line. turned: T has no translation.
    """
    if turned:
        seen = T[:3, :3] @ homogeneous(rays.query)
        return np.asarray(np.linalg.norm(seen[:2] / seen[2] - rays.keyframe, axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):  # at the epipole there is no line
        off = np.nan_to_num(epipolar_distance(rays, T), nan=np.inf)
    if not in_metres:
        return off
    by_depth = reprojection_distance(rays, T)
    return np.where(np.isfinite(by_depth), by_depth, off)


class TwoMotions:
    """Remembers when an image last showed two motions."""

    def __init__(self) -> None:
        self._seen_ns: int | None = None

    def lately(self, stamp_ns: int) -> bool:
        return self._seen_ns is not None and stamp_ns - self._seen_ns <= LATELY_NS

    def against(
        self, pose: Pose, pairs: Correspondences, query: Frame, share: float, most: float
    ) -> Lost | None:
        """Why a pose is not believed, with a second motion of that share beside it."""
        before_ns = self._seen_ns
        if share > most:
            self._seen_ns = query.stamp_ns
            return Lost(
                LostReason.TWO_MOTIONS,
                f"beside the matches that agree on the pose {100 * share:.0f} % as many agree on "
                f"another motion; tracking.max_second_motion is {100 * most:g} %",
            )
        if before_ns is None or not self.lately(query.stamp_ns):
            return None
        if _shift_px(pose, pairs) < BETWEEN_PX * query.camera.width / 640:
            return Lost(
                LostReason.TWO_MOTIONS,
                f"an image {(query.stamp_ns - before_ns) * 1e-9:.1f} s before showed two motions; "
                "by this pose the image moves so little that it may lie between them",
            )
        return None


def _shift_px(pose: Pose, pairs: Correspondences) -> float:
    """By how much the matches of a pose shift, median."""
    its = pairs.select(pose.inliers)
    if not len(its):
        return 0.0
    return float(np.median(np.linalg.norm(its.query_px - its.keyframe_px, axis=1)))
