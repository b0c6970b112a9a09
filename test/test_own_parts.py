"""Parts of the robot that are always in view are found, and not matched."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.own_parts import OFTEN, OwnParts
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Frame

WIDTH, HEIGHT, F, WALL_M = 320, 240, 250.0, 2.0
CAMERA = Camera(WIDTH, HEIGHT, np.array([[F, 0, 159.5], [0, F, 119.5], [0, 0, 1]]))
APART_NS = 200_000_000
PART = np.zeros((HEIGHT, WIDTH), bool)
PART[160:, 40:280] = True


def cloth(seed, width):
    rng = np.random.default_rng(seed)
    fine = cv2.GaussianBlur(rng.uniform(0, 255, (HEIGHT, width)), (0, 0), 3.0)
    return np.clip((fine - fine.mean()) * 7 + 128, 0, 255)


WALL, SHELL = cloth(0, WIDTH + 400), cloth(1, WIDTH)


def frame(number, *, px=12, part=PART, part_m=0.4, part_moves=0):
    """A camera walks along a wall, px a frame; part: what stays in view."""
    rng = np.random.default_rng(number)
    shift = px * number
    shell = np.roll(SHELL, part_moves * number, axis=1)
    grey = np.where(part, shell, WALL[:, shift : shift + WIDTH])
    grey = np.clip(np.rint(grey + rng.normal(0, 1.5, grey.shape)), 0, 255).astype(np.uint8)
    depth = np.where(part, part_m, WALL_M) * (1 + 0.005 * rng.standard_normal(grey.shape))
    return Frame(
        np.repeat(grey[..., None], 3, 2),
        CAMERA,
        depth.astype(np.float32),
        stamp_ns=APART_NS * number,
    )


def odometry(number, metres, rad=0.0):
    turned = se3.rotation(np.array([0, 0, rad * number]))
    place = se3.transform(turned, np.array([metres * number, 0, 0]))
    return OdometrySample(APART_NS * number, place, np.zeros((6, 6)))


def seen(frames, odometries=None):
    parts = OwnParts()
    for number, each in enumerate(frames):
        parts.see(each, None if odometries is None else odometries[number])
    return parts.used


def test_what_stays_near_while_the_view_moves_is_a_part_of_the_robot():
    frames = [frame(n) for n in range(OFTEN + 1)]
    assert seen(frames[:-1]) is None
    used = seen(frames)
    assert not used[PART].mean() > 0.1
    assert used[:150].all()


def test_while_odometry_says_that_the_camera_turns_depth_is_not_needed():
    frames = [replace(frame(n), depth=None) for n in range(OFTEN + 1)]
    numbers = range(OFTEN + 1)
    assert seen(frames) is None
    assert seen(frames, [odometry(n, 0.0) for n in numbers]) is None
    assert seen(frames, [odometry(n, 0.1) for n in numbers]) is None  # far things stay, too
    assert not seen(frames, [odometry(n, 0.1, 0.06) for n in numbers])[PART].mean() > 0.1


def test_odometry_that_stands_is_believed():
    frames = [frame(n) for n in range(OFTEN + 1)]
    assert seen(frames, [odometry(n, 0.0) for n in range(OFTEN + 1)]) is None
    assert seen(frames, [odometry(n, 0.1) for n in range(OFTEN + 1)]) is not None


@pytest.mark.parametrize(
    "kind",
    [
        {"px": 0},  # a camera that stands
        {"px": 0, "part_moves": 12},  # ... and something moves close to it
        {"part": PART & False},  # nothing but a wall passes
        {"part_m": 2.5},  # what stays is farther than what moves: who passes hides a wall
    ],
)
def test_what_a_camera_that_stands_sees_is_no_part(kind):
    assert seen([frame(n, **kind) for n in range(2 * OFTEN)]) is None


def test_a_part_that_moves_is_matched_again():
    frames = [frame(n) for n in range(OFTEN + 2)]
    moves = [frame(n, part_moves=9) for n in range(OFTEN + 2, OFTEN + 6)]
    assert seen(frames) is not None
    assert seen(frames + moves) is None


def test_images_of_another_size_begin_anew():
    parts = OwnParts()
    for n in range(OFTEN + 1):
        parts.see(frame(n), None)
    assert parts.used is not None
    small = frame(OFTEN + 1)
    camera = Camera(WIDTH // 2, HEIGHT // 2, np.diag([0.5, 0.5, 1]) @ CAMERA.K)
    parts.see(Frame(small.rgb[::2, ::2].copy(), camera, stamp_ns=small.stamp_ns + 1), None)
    assert parts.used is None


def posed(options):
    tracker = Tracker(load_matcher("sift"), options)
    results = [tracker.process(frame(n)) for n in range(OFTEN + 8)]
    late = results[OFTEN + 1 :]
    good = 0
    for result in late:
        if result.pose is not None:
            apart = (result.frame.stamp_ns - result.keyframe.frame.stamp_ns) // APART_NS
            truth = [apart * 12 / F * WALL_M, 0, 0]
            assert np.allclose(result.pose.keyframe_from_camera[:3, 3], truth, atol=0.02)
            good += 1
    return good, late[-1].remarks["own parts"]


def test_a_robot_that_sees_itself_is_posed_without_a_mask():
    good, words = posed(TrackerOptions())
    assert good >= 5 and "a part of the robot" in words
    assert posed(TrackerOptions(leave_out_movers=False)) == (0, None)
