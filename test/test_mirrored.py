"""Images that their driver mirrors, along with depth: odometry alone tells."""

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.tracking.mirrored import KEYFRAMES, MIRRORS, MirrorWatch
from l2m_ros.tracking.odometry import OdometrySample, OdometryStep
from l2m_ros.tracking.options import TrackerOptions
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import MetricPose, RelativePose
from l2m_ros.workshop.simulation.oracle import OracleMatcher
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

P_POSE, P_STEP = np.diag([1e-5] * 3 + [1e-6] * 3), np.diag([1e-4] * 3 + [1e-5] * 3)
LEFT_RIGHT, TOP_BOTTOM = MIRRORS.values()


def moved(seed, turn_rad=0.3):
    """A hand's motion: some way, turned about all axes."""
    rng = np.random.default_rng(seed)
    return se3.exp(np.concatenate([rng.normal(0, 0.2, 3), rng.normal(0, turn_rad, 3)]))


def watched(ways, keyframes=KEYFRAMES + 2):
    """The words after a way from each keyframe; ways: (seen, told) of a seed."""
    watch, rng = MirrorWatch(), np.random.default_rng(9)
    for k in range(keyframes):
        seen, told = ways(k)
        noise = np.linalg.cholesky(P_POSE + P_STEP) @ rng.normal(size=6)
        told = se3.exp(noise) @ told
        pose = MetricPose(seen, P_POSE, np.ones(1, bool), "depth")
        watch.see(k, pose, OdometryStep(told, P_STEP, None))
    return watch.words


@pytest.mark.parametrize("name", list(MIRRORS))
def test_odometry_that_moves_as_in_a_mirror_is_found(name):
    def ways(k):
        return moved(k), MIRRORS[name] @ moved(k) @ MIRRORS[name]

    assert name in watched(ways)
    assert watched(ways, KEYFRAMES - 1) is None


def test_on_wheels_turns_tell_and_straight_ways_do_not():
    def arc(turn_rad):
        return se3.exp(np.array([0.0, 0.0, 0.4, 0.0, turn_rad, 0.0]))

    assert "left and right" in watched(lambda k: (arc(0.3), arc(-0.3)))
    assert watched(lambda k: (arc(0.0), arc(-0.0))) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda T: T,
        np.linalg.inv,
        lambda T: np.eye(4),
        lambda T: se3.transform(T[:3, :3], 1.5 * T[:3, 3]),
        lambda T: se3.transform(np.eye(3), T[:3, 3]),
        lambda T: LEFT_RIGHT @ TOP_BOTTOM @ T @ TOP_BOTTOM @ LEFT_RIGHT,  # mounted upside down
    ],
)
def test_odometry_that_is_right_or_wrong_otherwise_is_no_mirror_image(wrong):
    assert watched(lambda k: (moved(k), wrong(moved(k)))) is None


def test_a_keyframe_that_agrees_as_it_is_says_that_there_is_no_mirror():
    def ways(k):
        mirror = np.eye(4) if k == 3 else LEFT_RIGHT
        return moved(k), mirror @ moved(k) @ mirror

    assert watched(ways, 5) is None


def test_neither_depth_nor_odometry_of_a_mirrored_view_is_believed():
    """Odometry is mirrored here, to the same effect."""
    options = SimulationOptions(
        path="handheld", frames=12, width=160, height=120, rate_hz=3.0, stereo=False
    )
    shots = list(simulate(options))
    matcher = OracleMatcher(stride=4, noise_px=0.2)
    list(matcher.watch(shots))
    base_from_camera = shots[0].base_from_camera
    tracker = Tracker(matcher, TrackerOptions(base_from_camera=base_from_camera))
    camera_from_base = np.linalg.inv(base_from_camera)
    mirror = base_from_camera @ LEFT_RIGHT @ camera_from_base
    posed, said = [], []
    for number, shot in enumerate(shots):
        odom = mirror @ shot.odom_from_base @ mirror
        sample = OdometrySample(shot.frame.stamp_ns, odom, shot.odom_covariance)
        result = tracker.process(shot.frame, sample)
        if isinstance(result.outcome, MetricPose):
            posed.append(number)
        elif isinstance(result.outcome, RelativePose):
            said.append(result.outcome.why_not_metric)
    assert posed and max(posed) < 9 and any("mirror" in words for words in said), (posed, said)
