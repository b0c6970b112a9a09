"""Depth that was taken at another moment than its image, while the camera turned."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.geometry.depth_image import DepthNoise, sample_surface
from l2m_ros.geometry.late_depth import DepthMoments, left_s
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.tracking.turns import Turns, turn_of_matches
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

F, W, H = 300.0, 320, 240
CAMERA = Camera(W, H, np.array([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1.0]]))
GREY = np.zeros((H, W, 3), np.uint8)  # of one colour: textures are not asked
LATE_S, RATE_S = 0.02, 0.1
TURN_RAD_S = np.array([0.3, 1.0, -0.4])
MOTION = se3.exp(np.array([0.08, -0.03, 0.05, 0.02, -0.04, 0.01]))


def wave(pixels):
    """(N,) metres: a wavy wall."""
    return 2.0 + 0.4 * np.sin(pixels[:, 0] / 40.0) + 0.3 * np.cos(pixels[:, 1] / 30.0)


def depth_of_a_camera_turned_by(R):
    """(H, W) metres of the wall, seen by a camera R from the one at the origin."""
    pixels = np.stack(np.meshgrid(np.arange(W), np.arange(H)), axis=-1).reshape(-1, 2)
    rays = unproject(CAMERA, pixels) @ R.T
    z = wave(project(CAMERA, rays))
    points = rays / rays[:, 2:] * z[:, None]
    return (points @ R)[:, 2].reshape(H, W).astype(np.float32)


@pytest.fixture(scope="module")
def late():
    """(matches, keyframe, query): the keyframe's depth was taken LATE_S later."""
    rng = np.random.default_rng(3)
    px = rng.uniform([20, 20], [W - 21, H - 21], (300, 2))
    points = unproject(CAMERA, px) * wave(px)[:, None]
    there = project(CAMERA, (points - MOTION[:3, 3]) @ MOTION[:3, :3])
    noisy = px + 0.1 * rng.standard_normal(px.shape)
    depth = depth_of_a_camera_turned_by(se3.rotation(LATE_S * TURN_RAD_S))
    keyframe = Frame(GREY, CAMERA, depth, depth_late_s=LATE_S)
    return (
        Correspondences(there, noisy, np.ones(len(px))),
        keyframe,
        Frame(GREY, CAMERA, stamp_ns=500_000_000),
    )


def error(late, moments, keyframe=None):
    matches, given, query = late
    evidence = ScaleEvidence(moments=moments)
    pose = estimate_pose(matches, query, keyframe or given, PoseOptions(), evidence)
    assert isinstance(pose, MetricPose)
    off = se3.difference(pose.keyframe_from_camera, MOTION)
    return float(np.linalg.norm(off)), float(off @ np.linalg.solve(pose.covariance, off))


def test_depth_is_looked_up_where_it_was_when_the_image_was_taken(late):
    beside, _ = error(late, DepthMoments())
    there, nees = error(late, DepthMoments(keyframe_rad_s=TURN_RAD_S))
    assert there < 0.2 * beside
    assert nees < 20.0


def test_the_querys_depth_is_looked_up_so_too(late):
    matches, keyframe, query = late
    back = Correspondences(matches.keyframe_px, matches.query_px, matches.confidence)
    errors = []
    for moments in (DepthMoments(), DepthMoments(query_rad_s=TURN_RAD_S)):
        evidence = ScaleEvidence(moments=moments)
        stamped = replace(keyframe, stamp_ns=query.stamp_ns)
        frame = replace(query, stamp_ns=0)
        pose = estimate_pose(back, stamped, frame, PoseOptions(), evidence)
        assert isinstance(pose, MetricPose)
        errors.append(
            np.linalg.norm(se3.difference(pose.keyframe_from_camera, se3.inverse(MOTION)))
        )
    assert errors[1] < 0.2 * errors[0]


def test_where_the_turn_is_not_known_all_of_the_delay_is_left(late):
    _, keyframe, _ = late
    assert left_s(keyframe, TURN_RAD_S) == 0.0
    assert left_s(keyframe, None) == LATE_S
    much_later = replace(keyframe, depth_late_s=0.5)  # a turn of the moment says nothing of then
    assert left_s(much_later, TURN_RAD_S) == 0.5
    turned = DepthMoments(keyframe_rad_s=TURN_RAD_S)
    assert error(late, turned, much_later)[0] == error(late, DepthMoments(), much_later)[0]


@pytest.mark.parametrize(("follows", "bound"), [(True, (0.0, 2.0)), (False, (10.0, np.inf))])
def test_ranges_of_this_camera_follow_its_turn(follows, bound):
    """No parallax: any depth gives the pose. One that stood does not change with the matches."""
    R, rng = se3.rotation(np.array([0.02, 0.12, -0.03])), np.random.default_rng(5)
    px = rng.uniform([20, 20], [W - 61, H - 21], (400, 2))
    points = unproject(CAMERA, px) * wave(px)[:, None]
    matches = Correspondences(project(CAMERA, points @ R), px, np.ones(len(px)))
    first = depth_of_a_camera_turned_by(np.eye(3))
    second = depth_of_a_camera_turned_by(R) if follows else first
    noise = [0.008 * rng.standard_normal(first.shape).astype(np.float32) for _ in range(2)]
    keyframe = Frame(GREY, CAMERA, first + noise[0])
    query = Frame(GREY, CAMERA, second + noise[1], stamp_ns=100_000_000)
    pose = estimate_pose(matches, query, keyframe, PoseOptions())
    assert isinstance(pose, MetricPose)
    off, changed = pose.depth_check.ranges
    assert bound[0] <= off <= bound[1]
    assert changed > 10.0
    alone = estimate_pose(matches, replace(query, depth=None), keyframe, PoseOptions())
    assert alone.depth_check.ranges is None


def matches_of(R, rng, t=(0.0, 0.0, 0.0), wrong=0.3):
    """keyframe <- query turned by R and moved by t; a share of wrong matches."""
    px = rng.uniform([20, 20], [W - 21, H - 21], (300, 2))
    points = unproject(CAMERA, px) * rng.uniform(1.0, 4.0, (300, 1))
    there = project(CAMERA, (points - t) @ R)
    there[: int(wrong * 300)] = rng.uniform([0, 0], [W, H], (int(wrong * 300), 2))
    return Correspondences(there, px, np.ones(300))


def test_matches_show_the_turn_beside_wrong_ones_and_a_step():
    rng = np.random.default_rng(0)
    R = se3.rotation(np.array([0.05, -0.1, 0.04]))
    found = turn_of_matches(matches_of(R, rng, t=(0.02, 0.01, 0.0)), CAMERA, CAMERA)
    assert np.linalg.norm(se3.rotation_log(found @ R.T)) < 0.02
    assert turn_of_matches(matches_of(R, rng, wrong=0.9), CAMERA, CAMERA) is None


def kept(number, stamp_s):
    frame = Frame(GREY, CAMERA, stamp_ns=round(stamp_s * 1e9))
    return Keyframe(number, 0, frame, None, np.eye(4), np.zeros((6, 6)))


def test_turns_of_frames_and_keyframes():
    """By frames just before and after them, whatever keyframe they were matched against."""
    rng, turns, first = np.random.default_rng(1), Turns(), kept(0, 1.0)
    slow, fast = np.array([0.0, 0.2, 0.0]), np.array([0.1, 0.6, 0.0])
    R = se3.rotation(RATE_S * slow)
    frame = Frame(GREY, CAMERA, stamp_ns=1_100_000_000)
    turns.see(first, frame, matches_of(R, rng))
    assert turns.of_frame(frame) == pytest.approx(slow, abs=0.02)
    assert turns.of_keyframe(first) == pytest.approx(slow, abs=0.02)  # after it alone
    second = kept(1, 1.1)  # this frame became a keyframe
    after = Frame(GREY, CAMERA, stamp_ns=1_200_000_000)
    turns.see(second, after, matches_of(se3.rotation(RATE_S * fast), rng))
    assert turns.of_frame(after) == pytest.approx(fast, abs=0.02)
    assert turns.of_keyframe(second) == pytest.approx(0.5 * (slow + fast), abs=0.02)
    long_after = Frame(GREY, CAMERA, stamp_ns=1_900_000_000)
    turns.see(second, long_after, matches_of(R, rng))
    assert turns.of_frame(long_after) is None
    turns.forget_all_but({1})
    assert turns.of_keyframe(first) is None


def turned_depth(frame, R):
    """The depth image of a camera R from the frame's."""
    camera, (height, width) = frame.camera, frame.depth.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2)
    rays = unproject(camera, pixels) @ R.T
    surface = sample_surface(frame.depth, project(camera, rays), DepthNoise())
    return ((rays / rays[:, 2:] * surface.z_m[:, None]) @ R)[:, 2].reshape(height, width)


def test_a_tracker_takes_the_turn_from_its_matches():
    """A hand that turns by up to 90 degrees a second in a room, its depth 20 ms late."""
    period_s = 0.03
    shots = list(simulate(SimulationOptions(frames=11, width=240, height=180, rate_hz=8.0)))
    matcher = OracleMatcher(stride=4, noise_px=0.3)
    list(matcher.watch(shots))
    frames = []
    for index, (shot, after) in enumerate(pairwise(shots)):
        way = se3.inverse(shot.world_from_camera) @ after.world_from_camera
        R = se3.rotation(se3.rotation_log(way[:3, :3]) * LATE_S / period_s)
        stamp_ns = round((1.0 + index * period_s) * 1e9)
        depth = turned_depth(shot.frame, R)
        frames.append(replace(shot.frame, depth=depth, stamp_ns=stamp_ns, depth_late_s=LATE_S))
    off_rad = []
    for late_s in (LATE_S, 0.0):  # its stamps tell, and do not
        tracker, errors = Tracker(matcher), []
        for index, frame in enumerate(frames):
            result = tracker.process(replace(frame, depth_late_s=late_s))
            if result.pose is not None:
                kept = round((result.keyframe.frame.stamp_ns * 1e-9 - 1.0) / period_s)
                a, b = (shots[i].world_from_camera for i in (kept, index))
                apart = se3.difference(result.pose.keyframe_from_camera, se3.inverse(a) @ b)
                errors.append(np.linalg.norm(apart[3:]))
        assert len(errors) >= 7
        off_rad.append(float(np.median(errors)))
    assert off_rad[0] < 0.6 * off_rad[1]
