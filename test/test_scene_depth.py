"""Poses by a scene that an earlier motion showed: as depth, with what that motion left open."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.scene_depth import SceneDepth, shapes_by_motion
from l2m_ros.geometry.synthetic import PINHOLE, World, trial
from l2m_ros.tracking import scene_scale
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import MetricPose, RelativePose

SIDEWAYS = (0.3, 0.0, 0.02, 0.0, -0.08, 0.0)
BY_SCENE = PoseOptions.exactly_calibrated(sources=("scene",))
TURN_RAD, STEP_M = 0.01, 0.004
P = np.diag([STEP_M**2] * 3 + [TURN_RAD**2] * 3)


def first_view(seed, off=None):
    """(scene of the keyframe, true depth): by exact matches and a pose that is `off` (6,)."""
    t = trial(World("first", SIDEWAYS, sigma_px=0.0, keyframe_depth=False), seed)
    rays, others = unproject(PINHOLE, t.keyframe_px), unproject(PINHOLE, t.matches.query_px)
    T = se3.perturb(t.keyframe_from_camera, np.zeros(6) if off is None else off)
    b, across = others @ T[:3, :3].T, np.cross(rays, others @ T[:3, :3].T)
    z = (np.cross(T[:3, 3], b) * across).sum(axis=1) / (across**2).sum(axis=1)
    shapes, _ = shapes_by_motion(rays, others, T, P)
    good = z > 0
    return SceneDepth(t.keyframe_px[good], z[good], 0.02, 0.0, shapes[:, good]), t.depth_m[good]


def posed(world, scene, seed):
    t = trial(world, seed)
    found = estimate_pose(t.matches, t.query, t.keyframe, BY_SCENE, ScaleEvidence(scene=scene))
    return t, found


def test_shapes_are_what_a_wrong_pose_makes_of_the_scene():
    off = 0.02 * np.sqrt(np.diag(P)) * np.array([1.0, -2.0, 1.0, -1.0, 2.0, 1.0])
    scene, true_m = first_view(0, off)
    bent = scene.depth_m / true_m
    bent = bent / np.median(bent) - 1.0
    exact, _ = first_view(0)
    # A diagonal P's root has its axes as columns.
    expected = off / np.sqrt(np.diag(P)) @ exact.shapes
    assert np.abs(bent).max() > 0.003
    assert bent == pytest.approx(expected - np.median(expected), abs=0.1 * np.abs(bent).max())


def test_a_scene_of_an_uncertain_motion_gives_poses_that_are_as_uncertain():
    """Mean squared error in sigmas: 6 where it is honest."""
    rng = np.random.default_rng(3)
    squared, without = [], []
    world = World("second", (0.05, 0.2, 0.05, 0.06, 0.02, 0.0), sigma_px=0.3, keyframe_depth=False)
    for seed in range(6):
        scene, _ = first_view(seed, rng.normal(size=6) * np.sqrt(np.diag(P)))
        for shapes, into in ((scene.shapes, squared), (None, without)):
            t, pose = posed(world, replace(scene, shapes=shapes), seed)
            assert isinstance(pose, MetricPose) and pose.scale_source == "scene"
            off = se3.difference(pose.keyframe_from_camera, t.keyframe_from_camera)
            into.append(off @ np.linalg.solve(pose.covariance, off))
    assert np.mean(squared) < 9.0
    assert np.mean(without) > 1.7 * np.mean(squared)


def test_depth_tells_a_turn_from_a_step_where_the_camera_hardly_moves():
    """Matches alone show a rotation and no metres."""
    scene, _ = first_view(1)
    still = World("still", (0.002, 0.0, 0.0, 0.0, 0.02, 0.0), sigma_px=0.3, keyframe_depth=False)
    t, pose = posed(still, scene, 1)
    assert isinstance(pose, MetricPose)
    assert np.linalg.norm((pose.keyframe_from_camera - t.keyframe_from_camera)[:3, 3]) < 0.01
    assert isinstance(posed(still, None, 1)[1], RelativePose)


def test_a_scene_of_which_little_is_seen_gives_no_metres():
    scene, _ = first_view(2)
    world = World("elsewhere", SIDEWAYS, outliers=0.8, keyframe_depth=False)
    found = posed(world, scene, 2)[1]
    assert not isinstance(found, MetricPose)
    assert "known scene" in found.why_not_metric


def test_between_known_points_inverse_depth_is_interpolated():
    px = np.array([[10.0, 10.0], [14.0, 10.0], [100.0, 10.0], [103.0, 10.0]])
    scene = SceneDepth(px, np.array([2.0, 2.2, 2.0, 4.0]), 0.02)
    depth_m, shapes = scene.between(np.array([[12.0, 10.0], [50.0, 50.0], [101.0, 10.0]]))
    assert depth_m[0] == pytest.approx(2.0 / (0.5 + 1 / 2.2), rel=1e-6)
    assert np.isnan(depth_m[1:]).all()  # nothing is near; an edge lies between
    assert shapes is None


def test_a_scene_that_leaves_matches_unexplained_is_not_believed():
    scene, _ = first_view(4)
    _, pose = posed(World("again", SIDEWAYS, sigma_px=0.3, keyframe_depth=False), scene, 4)
    assert not scene_scale.contradicted(pose, TrustOptions())
    tilted = scene.depth_m * (1.0 + 0.4 * (scene.pixels[:, 1] / PINHOLE.height - 0.5))
    bent = posed(World("again", SIDEWAYS, sigma_px=0.3), replace(scene, depth_m=tilted), 4)[1]
    assert not isinstance(bent, MetricPose) or scene_scale.contradicted(bent, TrustOptions())


def test_a_keyframe_is_taken_while_it_knows_the_scene_well_enough():
    scene, _ = first_view(0)
    as_sure_as = {
        sigma: replace(scene, shapes=scene.shapes * sigma / scene.shape_sigma)
        for sigma in (0.01, 0.04, 0.09)
    }
    due = scene_scale.keyframe_due
    assert due(as_sure_as[0.01], 0.01, True) and not due(as_sure_as[0.01], 0.01, False)
    assert due(as_sure_as[0.04], 0.025, False), "before it is too vague to give metres"
    assert not due(as_sure_as[0.04], 0.015, False), "too late: it is lost at once"
    assert not due(as_sure_as[0.04], 0.04, False), "parallax may still show it better"
    assert not due(as_sure_as[0.09], 0.02, True), "the old keyframe gives metres, this would not"
    assert not due(None, 0.02, True)


def test_a_pose_without_its_metres_keeps_what_is_known_across():
    T = se3.transform(se3.rotation([0.1, 0.0, 0.2]), np.array([0.0, 0.0, 0.5]))
    pose = MetricPose(
        T, np.diag([1e-4, 4e-4, 1e-2, 1e-6, 1e-6, 1e-6]), np.ones(30, bool), "odometry"
    )
    unit = scene_scale.of_length_1(pose)
    assert unit.keyframe_from_camera[:3, 3] == pytest.approx([0, 0, 1])
    assert np.diag(unit.covariance) == pytest.approx([4e-4, 16e-4, 0.0, 1e-6, 1e-6, 1e-6])


def test_the_scale_is_as_unsure_as_the_motion_makes_it():
    """The mean of log depths over motions drawn from P, against the sigma that is told."""
    t = trial(World("first", SIDEWAYS, sigma_px=0.0, keyframe_depth=False), 4)
    rays, others = unproject(PINHOLE, t.keyframe_px), unproject(PINHOLE, t.matches.query_px)
    _, sigma = shapes_by_motion(rays, others, t.keyframe_from_camera, 0.04 * P)
    rng, roots = np.random.default_rng(5), 0.2 * np.sqrt(np.diag(P))
    true_m, _ = first_view(4)
    scales = []
    for _ in range(200):
        scene, _ = first_view(4, rng.normal(size=6) * roots)
        if len(scene.depth_m) == len(true_m.depth_m):
            scales.append(np.median(np.log(scene.depth_m / true_m.depth_m)))
    assert len(scales) > 150
    assert sigma == pytest.approx(np.std(scales), rel=0.2)
