"""When a keyframe is due: forward motion, and how long a lost camera looks for the old view."""

import numpy as np
import pytest

from l2m_ros.tracking.keyframes import KeyframeOptions, KeyframePolicy, Quality, zoom

GOOD = Quality(coverage=1.0, inliers=500, certain=0.9, parallax_rad=0.01)


def grown(factor):
    rays = np.column_stack([np.random.default_rng(0).uniform(-1, 1, (400, 2)), np.ones(400)])
    larger = rays * [factor, factor, 1.0]
    return zoom(larger, rays, np.eye(3))


@pytest.mark.parametrize("factor", [1.0, 1.1, 0.8, 2.0])
def test_zoom_is_how_much_larger_the_scene_became(factor):
    assert grown(factor) == pytest.approx(abs(np.log(factor)), abs=1e-9)


def test_a_camera_that_drives_forward_takes_a_keyframe():
    """All the matches are there, hardly any parallax: only the scene has grown."""
    options = KeyframeOptions()
    for factor, wanted in ((1.05, False), (1.2, True)):
        policy = KeyframePolicy(options)
        assert not policy.wants_keyframe(GOOD)
        assert policy.wants_keyframe(Quality(1.0, 480, 0.9, 0.03, grown(factor))) is wanted


def lived(policy, frames):
    for _ in range(frames - 1):
        policy.wants_keyframe(GOOD)
    assert policy.wants_keyframe(Quality(1.0, 500, 0.9, 0.5))
    policy.restart()


@pytest.mark.parametrize(("frames", "patience"), [(1, 3), (2, 6), (30, 15)])
def test_who_moves_fast_does_not_wait_for_the_old_view(frames, patience):
    policy = KeyframePolicy(KeyframeOptions())
    lived(policy, frames)
    assert policy.patience(15) == 15  # one keyframe says nothing yet
    for _ in range(3):
        lived(policy, frames)
    assert policy.patience(15) == patience
    policy.forget()
    assert policy.patience(15) == 15
