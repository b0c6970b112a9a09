"""Depth and right images that repeat, and odometry that fits once."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.tracking.frozen import without_frozen
from l2m_ros.tracking.odometry_trust import LEAST, OdometryTrust
from l2m_ros.types import Camera, Frame, MetricPose, RelativePose

CAMERA = Camera(64, 48, np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]))
NONE = np.ones(0, bool)


def frame(number, depth_seed=None, right_seed=None):
    rng = np.random.default_rng(number)
    rgb = rng.integers(0, 255, (48, 64, 3), np.uint8)
    depth = None
    if depth_seed is not None:
        depth = np.random.default_rng(depth_seed).uniform(1, 2, (48, 64)).astype(np.float32)
        depth[::5] = np.nan
    made = Frame(rgb, CAMERA, depth, stamp_ns=10**9 * number)
    if right_seed is None:
        return made
    right = np.random.default_rng(right_seed).integers(0, 255, (48, 64, 3), np.uint8)
    beside = np.eye(4)
    beside[0, 3] = -0.1
    return replace(made, right_rgb=right, right_camera=CAMERA, right_from_camera=beside)


def test_depth_that_repeats_is_of_another_moment():
    before = frame(1, depth_seed=1)
    now, words = without_frozen(frame(2, depth_seed=1), before)
    assert now.depth is None and "depth image is the one before" in words
    now, words = without_frozen(frame(3, depth_seed=2), before)
    assert now.depth is not None and words is None
    holes = replace(before, depth=np.full((48, 64), np.nan, np.float32))
    assert without_frozen(holes, holes)[1] is None  # knows nothing: another remark says so


def test_a_right_image_that_repeats_is_of_another_moment():
    before = frame(1, right_seed=1)
    now, words = without_frozen(frame(2, right_seed=1), before)
    assert now.right_rgb is None and now.right_camera is None and "right image" in words
    assert without_frozen(frame(3, right_seed=2), before)[1] is None


def judged(trust, contradicted, keyframe=0):
    if contradicted:
        return trust.against(keyframe, RelativePose(np.eye(4), NONE, "rotation", None, "", True))
    return trust.against(keyframe, MetricPose(np.eye(4), np.eye(6) * 1e-6, NONE, "odometry"))


def test_odometry_that_was_contradicted_is_not_believed_when_it_fits_once():
    trust = OdometryTrust()
    for _ in range(LEAST):
        judged(trust, True)
    words = judged(trust, False)
    assert words is not None and "3 of the last 4 frames" in words
    assert judged(trust, False, keyframe=1) is None  # its way was counted anew
    trust.restart(0)
    assert judged(trust, False) is None


@pytest.mark.parametrize("wrong", [1, 2])
def test_matches_that_err_now_and_then_are_not_slip(wrong):
    trust = OdometryTrust()
    votes = [True] * wrong + [False] * 6
    assert [judged(trust, vote) for vote in votes] == [None] * len(votes)
