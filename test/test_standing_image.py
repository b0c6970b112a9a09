"""An image that stands while depth moves is of another moment; a camera that stands is believed."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.range_flow import range_flow
from l2m_ros.tracking.standing_image import StandingImage
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Frame, LostReason

WIDTH, HEIGHT = 320, 240
CAMERA = Camera(WIDTH, HEIGHT, np.array([[280.0, 0, 160], [0, 280.0, 120], [0, 0, 1]]))
FORWARD = np.array([0, 0, 0.05, 0, 0, 0])
TURN = np.array([0, 0, 0, 0, np.radians(2.0), 0])
RNG = np.random.default_rng(3)
DETAIL = cv2.resize(RNG.integers(0, 255, (60, 80, 3), np.uint8), (WIDTH, HEIGHT))


def corner(motion, noise=0.01):
    """Depth in a corner of a room, floor and two walls, seen after a motion of the camera."""
    room_from_camera = se3.exp(np.asarray(motion, float))
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    rays = np.stack([(u - 160) / 280.0, (v - 120) / 280.0, np.ones(u.shape)], axis=-1)
    world = rays @ room_from_camera[:3, :3].T
    depth = np.full(u.shape, np.inf)
    for normal, far in (([0.6, 0, 0.8], 2.0), ([-0.8, 0, 0.6], 1.8), ([0, 1.0, 0], 0.9)):
        with np.errstate(divide="ignore"):
            z = (far - room_from_camera[:3, 3] @ normal) / (world @ np.array(normal))
        depth = np.where((z > 0) & (z < depth), z, depth)
    return (depth * (1 + noise * RNG.standard_normal(depth.shape))).astype(np.float32)


def frame(number, motion, rgb=DETAIL, noise=3.0):
    noisy = np.clip(rgb + noise * RNG.standard_normal(rgb.shape), 0, 255).astype(np.uint8)
    return Frame(noisy, CAMERA, corner(motion), stamp_ns=10**9 + number * 10**8)


@pytest.mark.parametrize("motion", [FORWARD, TURN, -0.5 * TURN, FORWARD + TURN])
def test_ranges_tell_the_motion(motion):
    flow = range_flow(corner(0 * motion), corner(motion), CAMERA)
    assert flow.moved_m == pytest.approx(np.linalg.norm(motion[:3]), abs=0.015)  # one step errs
    assert flow.turned_rad == pytest.approx(np.linalg.norm(motion[3:]), abs=0.012)
    assert flow.left < 0.7 * flow.changed


def test_ranges_tell_by_how_much_the_image_moves():
    flow = range_flow(corner(0 * TURN), corner(TURN), CAMERA)
    assert flow.shift_px == pytest.approx(280 * np.radians(2.0), rel=0.25)


def test_too_little_depth_tells_nothing():
    blank = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    assert range_flow(blank, corner(FORWARD), CAMERA) is None


@pytest.mark.parametrize("motion", [FORWARD, TURN])
def test_an_image_that_stands_while_depth_moves_is_of_another_moment(motion):
    watch = StandingImage()
    assert watch.against(frame(0, 0 * motion)) is None
    lost = watch.against(frame(1, motion))
    assert lost is not None and lost.reason is LostReason.REPEATED_IMAGE
    assert "has not moved for 0.10 s" in lost.detail


def test_a_camera_that_stands_is_believed():
    watch = StandingImage()
    assert [watch.against(frame(n, 0 * TURN)) for n in range(12)] == [None] * 12


def test_an_image_that_moves_is_of_now():
    watch = StandingImage()
    for n in range(6):
        moved = np.roll(DETAIL, 3 * n, axis=1)
        assert watch.against(frame(n, n * 0.5 * TURN, moved)) is None


def test_slow_motion_adds_up():
    """Each step is too small to be seen, but depth is held against the first of the series."""
    watch = StandingImage()
    found = [watch.against(frame(n, 0.2 * n * FORWARD)) is not None for n in range(8)]
    assert not found[0] and all(found[4:])


def test_late_depth_that_stands_at_last_is_believed():
    watch = StandingImage()
    ways = [0, 0.5, 1, *[1] * 20]  # the camera stands from the first image on
    found = [watch.against(frame(n, way * FORWARD)) is not None for n, way in enumerate(ways)]
    assert found[2] and not any(found[14:])


def test_once_found_it_lasts_while_too_little_of_both_is_known():
    watch = StandingImage()
    found = []
    for n in range(14):
        seen = frame(n, 0.5 * n * FORWARD)
        blind = replace(seen, depth=np.full((HEIGHT, WIDTH), np.nan, np.float32))
        found.append(watch.against(blind if n > 3 else seen) is not None)
    assert not found[0] and all(found[3:])


def test_without_depth_nothing_is_said():
    watch = StandingImage()
    bare = Frame(DETAIL, CAMERA, stamp_ns=10**9)
    assert watch.against(bare) is None and watch.against(frame(1, FORWARD)) is None


class KeepsImages:
    name = "keeps images"

    def encode(self, rgb):
        return rgb

    def reference(self, features):
        return features


def test_the_tracker_asks():
    tracker = Tracker(KeepsImages())
    assert tracker.process(frame(0, 0 * TURN)).new_keyframe
    lost = tracker.process(frame(1, TURN)).outcome
    assert lost.reason is LostReason.REPEATED_IMAGE and "driver frozen" in lost.detail
