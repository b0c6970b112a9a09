"""A keyframe's depth map takes its shape from parallax where there is some, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.matching.mono_depth import MonoDepth, ScaleReadings
from l2m_ros.tracking.chain_scale import CarriedScale, joined
from l2m_ros.tracking.mono_shape import SeenDepths, seen_depths, shaped
from l2m_ros.types import Camera, Correspondences, MetricPose

CAMERA = Camera(640, 480, np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]))
TRUE = np.tile(np.linspace(2.0, 4.0, 640), (480, 1))  # metres, farther to the right
READ = (TRUE * np.exp(0.5 * np.linspace(-1, 1, 640))).astype(np.float32)  # too near on the left
SIGMA = 0.3


def seen_on_the_left(noise=0.0, count=400):
    rng = np.random.default_rng(0)
    px = rng.uniform((20, 20), (300, 460), (count, 2))
    z = 2.0 + 2.0 * px[:, 0] / 639
    return SeenDepths(px, z * np.exp(rng.normal(0, noise, count)), np.full(count, 0.05))


def off(depth, columns):
    return np.abs(np.log(depth[40:-40, columns] / TRUE[40:-40, columns])).mean()


def test_what_parallax_shows_replaces_what_was_read_and_nothing_else_changes():
    left, right = slice(40, 280), slice(420, 640)
    depth, sigma = shaped(READ, SIGMA, seen_on_the_left(noise=0.05), 0.0)
    assert off(READ, left) > 0.25 and off(depth, left) < 0.05
    assert np.allclose(depth[:, right], READ[:, right], rtol=1e-3)
    assert sigma[240, 160] < 0.5 * SIGMA
    assert sigma[240, 600] == pytest.approx(SIGMA, rel=0.01)


def test_a_false_match_does_not_bend_the_map():
    seen = SeenDepths(np.array([[100.0, 100.0]]), np.array([40.0]), np.array([0.05]))
    assert np.array_equal(shaped(READ, SIGMA, seen, 0.0)[0], READ)


def test_a_hole_of_the_map_stays_one():
    holed = READ.copy()
    holed[:, :320] = np.nan
    depth, _ = shaped(holed, SIGMA, seen_on_the_left(), 0.0)
    assert np.array_equal(np.isnan(depth), np.isnan(holed))


def test_depth_is_seen_in_the_new_keyframe_and_only_where_there_is_parallax():
    """Points of a wall, the camera moved 0.3 m sideways; one point is a kilometre away."""
    R = se3.rotation(np.array([0.0, 0.05, 0.0]))
    now_from_before = se3.transform(R, np.array([0.3, 0.0, 0.0]))
    rng = np.random.default_rng(1)
    points = rng.uniform((-1, -0.7, 2), (1, 0.7, 4), (50, 3))
    points[0] = (1.0, 1.0, 1000.0)
    moved = points @ now_from_before[:3, :3].T + now_from_before[:3, 3]

    def pixels(p):
        return p[:, :2] / p[:, 2:] * 500.0 + (320, 240)

    pairs = Correspondences(pixels(moved), pixels(points), np.ones(50))
    pose = MetricPose(se3.inverse(now_from_before), np.eye(6), np.ones(50, bool), "mono_depth")
    seen = seen_depths(pairs, CAMERA, CAMERA, pose)
    assert len(seen.px) == 49
    assert seen.z_m == pytest.approx(moved[1:, 2], rel=1e-6)


def test_a_chain_keeps_its_scale_though_each_image_is_read_with_another_shape():
    """The common factor is shared out by the chain; the shape is taken whole."""
    seen = seen_on_the_left()
    mono = MonoDepth(READ, SIGMA, 0.3, 0.2)
    told = 0.25  # too near on the left: the chain says so
    before = ScaleReadings(np.zeros(1), np.array([0.1]), np.zeros(1))
    new = joined(mono, CarriedScale(told, before, 0.0, 0.3, seen))
    correction = np.log(new.depth[240, 600] / READ[240, 600])
    assert correction == pytest.approx(0.8 * told, rel=0.1)  # the chain is surer by 4 to 1
    left = np.log(new.depth[40:-40, 40:280] / TRUE[40:-40, 40:280])
    assert left.mean() == pytest.approx(correction - told, abs=0.02)
    assert left.std() < 0.05
    assert new.image_sigma < 0.1
