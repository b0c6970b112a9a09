"""A driver that writes its greatest range where it knows nothing."""

import numpy as np
import pytest

from l2m_ros.frames.depth_ceiling import DepthCeiling

RNG = np.random.default_rng(5)


def scene(far_m=3.0, unknown=0.2, says=np.nan):
    """(48, 64) 16UC1 depth of a floor up to a wall in millimetres, as metres."""
    depth = np.minimum(np.linspace(0.5, 2.0 * far_m, 48)[:, None], far_m) + np.zeros((48, 64))
    depth = np.round(1e3 * depth * (1 + 0.01 * RNG.standard_normal(depth.shape))) / 1e3
    return np.where(RNG.random(depth.shape) < unknown, says, depth).astype(np.float32)


def test_a_greatest_range_far_behind_everything_is_unknown_at_once():
    depth = scene(says=10.0)
    known, words = DepthCeiling().below(depth)
    assert np.array_equal(np.isnan(known), depth == 10.0)
    assert words is not None and "exactly 10 m far" in words


def test_a_greatest_range_that_things_reach_is_unknown_once_the_view_changed():
    ceiling = DepthCeiling()
    near, nearer = (np.minimum(scene(far, says=3.2), np.float32(3.2)) for far in (2.8, 2.7))
    assert ceiling.below(near)[1] is None
    known, words = ceiling.below(nearer)
    assert np.isnan(known[nearer == np.float32(3.2)]).all() and words is not None
    reached = np.minimum(scene(3.3, says=3.2), np.float32(3.2))
    assert ceiling.below(reached)[1] is not None  # and from then on


def test_right_depth_is_left_alone():
    ceiling = DepthCeiling()
    for far_m in (2.0, 3.0, 3.1, 5.0):
        depth = scene(far_m)
        known, words = ceiling.below(depth)
        assert known is depth and words is None


@pytest.mark.parametrize("step_m", [0.0, 0.05])
def test_a_wall_seen_squarely_without_noise_stands_or_moves_with_the_camera(step_m):
    ceiling = DepthCeiling()
    for number in range(4):
        far_m = 3.0 - step_m * number
        floor = np.linspace(0.5, 1.5 * far_m, 48, dtype=np.float32)[:, None]
        depth = np.minimum(floor, np.float32(far_m)) + np.zeros((48, 64), np.float32)
        assert ceiling.below(depth)[1] is None


def test_coarse_depth_is_left_alone():
    ceiling = DepthCeiling()
    for far_m in (3.0, 3.1, 3.3, 2.9):
        depth = (np.round(scene(far_m) * 25) / 25).astype(np.float32)
        assert ceiling.below(depth)[1] is None


def test_the_farthest_step_of_a_coarse_sensor_is_left_alone():
    """Depth by disparities of an eighth of a pixel, with single pixels between two steps."""
    ceiling = DepthCeiling()
    for far_m in (9.0, 8.4, 7.9, 8.1):
        disparity = np.round(8 * 40.0 / scene(far_m, unknown=0.0)) / 8
        depth = (40.0 / disparity).astype(np.float32)
        depth[depth > 7.9] = np.nan  # beyond its range
        depth[3, ::9] = np.nanmax(depth) * np.float32(0.99)
        assert ceiling.below(depth)[1] is None
