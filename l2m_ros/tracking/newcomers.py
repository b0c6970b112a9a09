"""Does what came near in a keyframe's view, where nothing was seen before, move?

Somebody who comes in from the side to which the camera turns, or before a sky, hides nothing that
was seen (`movers`). And one pose can suit both, them and the scene: what is near shows the way,
what is far shows the turn. So the matches on what was seen before are asked alone.

    matches on what was seen before -> a search with few trials -> do many of the others lie
        elsewhere? -> a whole estimate -> do they still? -> is it nearer than the pose of all to
        where the camera's velocity led? (A bare wall close by is matched wrongly, but stands.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from l2m_ros.geometry.absolute import reprojection_distance
from l2m_ros.geometry.depth_image import nearest
from l2m_ros.geometry.ransac import Search, find_absolute
from l2m_ros.geometry.rays import RayPairs, focal_px, ray_pairs
from l2m_ros.matching.mask import mask_at
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.second_motion import APART_PX, DRAWN, MIN_MATCHES, THRESHOLD_PX, TRIALS
from l2m_ros.types import Correspondences, FloatArray, Frame, Lost, MetricPose, RelativePose

ROUGHLY_PX = 2.5  # at 640 px: so far elsewhere by the search with few trials
AGREED = 0.5  # of the matches on what was seen before, by confidence: of less the pose is none
OF_NEW = 1 / 3  # ... of the new ones lie elsewhere: of fewer they err
# Of the bound on a second motion: by a pose without them fewer say as much.
OF_SECOND_MOTION = 0.5


def newcomer_moves(
    pairs: Correspondences,
    query: Frame,
    keyframe: Keyframe,
    posed: Callable[[Correspondences], MetricPose | RelativePose | Lost],
    second_motion: float,
    expected: FloatArray | None,
) -> bool:
    """posed: the pose of a part of the matches.

    second_motion: the most matches of one over those of the pose, each by its confidence.
    expected: keyframe_from_camera by the velocity so far; None where that is not known.
    """
    assert keyframe.seen_before is not None
    before, sure = mask_at(keyframe.seen_before, pairs.keyframe_px), pairs.confidence > 0
    scene, new = (pairs.select(np.flatnonzero(part & sure)) for part in (before, ~before))
    its, rays = _rays(new, query, keyframe), _rays(scene, query, keyframe)
    if min(len(new), np.count_nonzero(np.isfinite(rays.keyframe_m))) < MIN_MATCHES:
        return False
    f, px = focal_px(keyframe.frame.camera), keyframe.frame.camera.width / 640
    least = OF_SECOND_MOTION * second_motion

    def elsewhere(T: FloatArray, most: float, agreed: float) -> bool:
        off = reprojection_distance(its, T) > most
        far, near = (float(new.confidence[part].sum()) for part in (off, ~off))
        return far > least * (agreed + near) and far > OF_NEW * (far + near)

    rough = find_absolute(rays, Search(THRESHOLD_PX / f, 0, DRAWN, max_iterations=TRIALS))
    agree = reprojection_distance(rays, rough) < APART_PX * px / f
    if not elsewhere(rough, ROUGHLY_PX * px / f, float(scene.confidence[agree].sum())):
        return False
    pose = posed(scene)
    if not isinstance(pose, MetricPose):
        return False
    agreed = float(scene.confidence[pose.inliers].sum())
    if agreed < AGREED * scene.confidence.sum():
        return False
    if not elsewhere(pose.keyframe_from_camera, APART_PX * px / f, agreed):
        return False
    if expected is None:
        return True
    whole = posed(pairs)
    return not isinstance(whole, MetricPose) or _way_m(pose, expected) < _way_m(whole, expected)


def _way_m(pose: MetricPose, expected: FloatArray) -> float:
    return float(np.linalg.norm(pose.keyframe_from_camera[:3, 3] - expected[:3, 3]))


def _rays(pairs: Correspondences, query: Frame, keyframe: Keyframe) -> RayPairs:
    assert keyframe.seen_depth is not None
    depth_m = nearest(keyframe.seen_depth, pairs.keyframe_px)
    return replace(ray_pairs(pairs, query.camera, keyframe.frame.camera), keyframe_m=depth_m)
