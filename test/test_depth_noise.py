"""How noisy a depth sensor is, learnt; and that a wrong depth cannot teach to be believed."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.synthetic import World, trial
from l2m_ros.tracking.depth_noise import MOST, DepthNoiseWatch
from l2m_ros.tracking.depth_trust import DepthTrust
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import DepthCheck, DepthNoiseShown, Frame, MetricPose

CLAIMED = DepthNoise(0.002, 0.002)
OPTIONS = PoseOptions.exactly_calibrated(depth_noise=CLAIMED)
GOOD = DepthCheck(checked=400, left_over=0.4, rotation_only=20.0, misfit=0.8)


def noisy(times, seed=0, **others):
    noise = DepthNoise(times * CLAIMED.constant_m, times * CLAIMED.quadratic_per_m)
    world = World("noisy", sigma_px=0.3, depth_noise=noise, matches=2000, **others)
    return trial(world, seed)


def checked(t, learnt=1.0, keyframe=None):
    keyframe = keyframe or t.keyframe
    evidence = ScaleEvidence(depth_noise=learnt)
    pose = estimate_pose(t.matches, t.query, keyframe, OPTIONS, evidence)
    assert isinstance(pose, MetricPose), pose
    return pose.depth_check


@pytest.mark.parametrize("times", [1.0, 2.0, 4.0])
def test_neighbours_show_how_noisy_depth_is(times):
    factors = [checked(noisy(times, seed)).noise.factor for seed in range(4)]
    assert np.median(factors) == pytest.approx(times**2, rel=0.4)


def test_without_parallax_nothing_is_shown():
    still = noisy(3.0, motion=(0.005, 0.0, 0.0, 0.0, 0.01, 0.0))
    check = checked(still)
    assert check.noise is None


def test_noise_that_was_learnt_explains_what_noisy_depth_leaves_over():
    check = checked(noisy(3.0), learnt=9.0)
    assert check.left_over > 1.5
    assert check.left_over_learnt < 1.2
    assert checked(noisy(3.0)).left_over_learnt is None


def unrelated(t):
    """The keyframe with the depth of a slanted plane."""
    u, v = np.meshgrid(np.linspace(-1, 1, t.keyframe.camera.width), np.linspace(-1, 1, 480))
    depth = (2.5 + 0.8 * u + 0.3 * v).astype(np.float32)
    return Frame(t.keyframe.rgb, t.keyframe.camera, depth, stamp_ns=t.keyframe.stamp_ns)


def test_the_most_that_may_be_learnt_does_not_explain_a_wrong_depth():
    for seed in range(4):
        t = noisy(1.0, seed)
        check = checked(t, learnt=MOST, keyframe=unrelated(t))
        assert check.left_over_learnt > 10.0


def test_it_is_learnt_slowly_within_bounds():
    watch = DepthNoiseWatch()
    assert watch.factor == 1.0
    watch.learn(DepthNoiseShown(6.0, 30))
    assert 1.0 < watch.factor < 3.0
    for _ in range(100):
        watch.learn(DepthNoiseShown(6.0, 30))
    assert 5.0 < watch.factor < 6.0
    for _ in range(200):
        watch.learn(DepthNoiseShown(1e4, 500))
    assert MOST - 0.5 < watch.factor <= MOST
    for _ in range(500):
        watch.learn(DepthNoiseShown(0.0, 30))
    assert watch.factor == 1.0


def against(trust, check, keyframe=1):
    trust.next_frame()
    pose = MetricPose(np.eye(4), np.eye(6) * 1e-6, np.ones(0, bool), "depth", depth_check=check)
    return trust.against(pose, TrustOptions(), keyframe)


def test_a_sensor_that_is_noisier_than_claimed_keeps_its_record():
    """Its frames leave over more than the claimed noise explains, and show why."""
    trust = DepthTrust()
    for _ in range(30):
        factor = trust.noise.factor
        learnt = None if factor == 1.0 else 2.0 / factor
        check = replace(
            GOOD, left_over=2.0, left_over_learnt=learnt, noise=DepthNoiseShown(6.0, 40)
        )
        lost = against(trust, check)
    assert lost is None
    assert against(trust, replace(check, left_over_learnt=None)) is None  # one frame is not all


def test_a_frame_teaches_once_and_only_where_depth_explains_the_parallax():
    trust, shown = DepthTrust(), DepthNoiseShown(6.0, 60)
    against(trust, replace(GOOD, rotation_only=1.0, noise=shown))  # no parallax
    against(trust, replace(GOOD, misfit=9.0, noise=shown))  # contradicted
    assert trust.noise.factor == 1.0
    against(trust, replace(GOOD, noise=shown))
    once = trust.noise.factor
    assert once > 1.0
    pose = MetricPose(
        np.eye(4), np.eye(6) * 1e-6, np.ones(0, bool), "depth",
        depth_check=replace(GOOD, noise=shown),
    )  # fmt: skip
    trust.against(pose, TrustOptions(), 2)  # the same frame by another keyframe
    assert trust.noise.factor == once
