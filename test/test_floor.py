"""Metres from the height of a camera on wheels: silent where none is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.pose import PoseOptions, estimate_pose
from l2m_ros.geometry.scale import Floor, ScaleEvidence
from l2m_ros.geometry.texture import TextureNoise
from l2m_ros.parameters.table import (
    FORWARD_LOOKING,
    PARAMETERS,
    base_from_camera,
    tracker_options,
)
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.scale_evidence import floor_below
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose

CAMERA = Camera(640, 480, np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]]))
HEIGHT_M = 0.8
UP = np.array([0.0, -1.0, 0.0])
BLANK = PoseOptions(texture=TextureNoise(grey=0.0))  # the images are not asked
MOTION = np.array([0.05, 0.0, 0.6])  # ahead


def frame(stamp_s):
    return Frame(rgb=np.zeros((480, 640, 3), np.uint8), camera=CAMERA, stamp_ns=stamp_s * 10**9)


def street(rng, floor=300, walls=300, table=0, pitch_rad=0.0):
    """Points in the keyframe's camera, which is pitched: a floor, two walls, a table top."""
    ground = rng.uniform((-3, HEIGHT_M, 1.5), (3, HEIGHT_M, 9), (floor, 3))
    side = rng.uniform((2.9, -1.5, 2), (3.1, HEIGHT_M, 10), (walls, 3))
    side[::2, 0] *= -1
    top = rng.uniform((-1, 0.3, 2), (1, 0.3, 3), (table, 3))
    points = np.vstack([ground, side, top])
    return points @ se3.rotation(np.array([pitch_rad, 0.0, 0.0])).T


def seen(points, rng, noise_px=0.3):
    keyframe_from_camera = se3.transform(se3.rotation(np.array([0.0, 0.02, 0.0])), MOTION)
    moved = (points - MOTION) @ keyframe_from_camera[:3, :3]

    def pixels(p):
        return p[:, :2] / p[:, 2:] * 400.0 + (320, 240)

    old, new = pixels(points), pixels(moved) + rng.normal(0, noise_px, (len(points), 2))
    inside = (moved[:, 2] > 0.3) & np.all((old >= 0) & (old < (640, 480)), axis=1)
    inside &= np.all((new >= 0) & (new < (640, 480)), axis=1)
    return Correspondences(new[inside], old[inside], np.ones(int(inside.sum())))


def posed(points, rng, floor, **options):
    evidence = ScaleEvidence(floor=floor)
    return estimate_pose(seen(points, rng), frame(1), frame(0), replace(BLANK, **options), evidence)


def length_m(pose):
    return float(np.linalg.norm(pose.keyframe_from_camera[:3, 3]))


def test_the_floor_tells_the_length():
    rng = np.random.default_rng(0)
    pose = posed(street(rng), rng, Floor(UP, HEIGHT_M))
    assert isinstance(pose, MetricPose) and pose.scale_source == "floor"
    assert length_m(pose) == pytest.approx(np.linalg.norm(MOTION), rel=0.03)


def test_a_pitch_that_the_mount_does_not_state_is_found_on_the_floor():
    """1.5 degrees: by the mount alone the length would be 10 % off and more."""
    rng = np.random.default_rng(1)
    pose = posed(street(rng, pitch_rad=np.radians(1.5)), rng, Floor(UP, HEIGHT_M))
    assert length_m(pose) == pytest.approx(np.linalg.norm(MOTION), rel=0.04)


def test_honest_over_many_streets():
    """Height and tilt off by as much as is stated: so is the length, or less."""
    ratios = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        floor = Floor(UP, HEIGHT_M + rng.normal(0, 0.02), sigma_m=0.02, tilt_sigma_rad=0.02)
        pose = posed(street(rng, pitch_rad=rng.normal(0, 0.02)), rng, floor)
        along = pose.keyframe_from_camera[:3, 3] / length_m(pose)
        sigma = np.sqrt(along @ pose.covariance[:3, :3] @ along)
        ratios.append((length_m(pose) - np.linalg.norm(MOTION)) / sigma)
    assert 0.3 < np.mean(np.square(ratios)) < 1.5


def test_a_table_does_not_stand_for_the_floor_that_is_seen_too():
    rng = np.random.default_rng(2)
    pose = posed(street(rng, floor=150, walls=150, table=300), rng, Floor(UP, HEIGHT_M))
    assert length_m(pose) == pytest.approx(np.linalg.norm(MOTION), rel=0.05)


def test_without_a_floor_there_are_no_metres():
    rng = np.random.default_rng(3)
    walls = rng.uniform((-3, -2, 4), (3, 0.6, 9), (600, 3))  # a cloud that has no lowest layer
    outcome = posed(walls, rng, Floor(UP, HEIGHT_M), sources=("floor",))
    assert not isinstance(outcome, MetricPose)


def test_where_the_floor_lies_is_the_mounts():
    base = base_from_camera({"base_from_camera": FORWARD_LOOKING})
    base[2, 3] = 0.5
    floor = floor_below(TrackerOptions(base_from_camera=base, floor_below_base_m=0.1))
    assert floor.height_m == pytest.approx(0.6) and floor.up == pytest.approx(UP)
    assert floor_below(TrackerOptions(base_from_camera=base)) is None
    assert floor_below(TrackerOptions(floor_below_base_m=0.1)) is None
    base[2, 3] = -0.2  # below the floor: the mount is wrong, or it hangs
    assert floor_below(TrackerOptions(base_from_camera=base, floor_below_base_m=0.0)) is None


def test_a_mount_that_puts_the_camera_on_the_floor_is_refused_with_its_remedy():
    defaults = {name: parameter.default for name, parameter in PARAMETERS.items()}
    assert tracker_options(defaults).floor_below_base_m is None
    on_wheels = {**defaults, "pose.floor_below_base_m": 0.0}
    with pytest.raises(InvalidInput, match="base_from_camera's z"):
        tracker_options(on_wheels)
    assert tracker_options({**on_wheels, "base_from_tf": True}).floor_below_base_m == 0.0


def test_a_floor_above_the_camera_is_refused():
    with pytest.raises(InvalidInput, match="below"):
        Floor(UP, -0.5)
