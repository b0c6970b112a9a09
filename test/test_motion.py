"""Where a velocity leads, and how far from there a camera can be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.geometry.scene_depth import SceneDepth
from l2m_ros.tracking import parallax
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.motion import SLACK_M, SLACK_RAD, predicted, unexpected
from l2m_ros.tracking.place import Place, Twist
from l2m_ros.types import Camera, Correspondences, Frame, RelativePose

S = 1_000_000_000
OPTIONS = GateOptions(max_acceleration_m_s2=2.0, max_turn_acceleration_rad_s2=4.0)
VELOCITY = np.array([1.0, 0.0, 3.0, 0.0, 0.5, 0.0])


@pytest.fixture
def place():
    start = se3.exp(np.array([4.0, 5.0, 6.0, 0.1, 0.2, 0.3]))
    still = np.zeros((6, 6))
    twist = Twist(VELOCITY, still)
    return Place(S, start, still, 1, 0, np.eye(4), still, twist=twist)


def moved(place, seconds, tangent):
    there = place.odom_from_camera @ se3.exp(VELOCITY * seconds)
    return there @ se3.exp(np.array(tangent))


def test_it_goes_on_as_it_moved(place):
    found = predicted(place, 3 * S, OPTIONS)
    assert found.odom_from_camera == pytest.approx(moved(place, 2.0, [0.0] * 6))
    assert found.radius_m == pytest.approx(4.0)  # a t^2 / 2
    assert found.radius_rad == pytest.approx(8.0)


def test_what_is_not_known_of_the_velocity_widens_the_bound(place):
    sigmas = np.diag(np.square([0.1, 0.1, 0.2, 0.0, 0.3, 0.0]))
    vague = replace(place, twist=Twist(VELOCITY, sigmas), unseen_m=0.7, unseen_rad=0.1)
    found = predicted(vague, 2 * S, OPTIONS)
    assert found.radius_m == pytest.approx(1.0 + 3 * 0.2 + 0.7)
    assert found.radius_rad == pytest.approx(2.0 + 3 * 0.3 + 0.1)


def test_a_turn_that_nobody_saw_swings_what_follows(place):
    turned = replace(place, unseen_rad=0.1, keyframe_from_camera=se3.exp([0, 0, 5.0, 0, 0, 0]))
    assert predicted(turned, S + 1, OPTIONS).radius_m == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("tangent", "believed"),
    [
        ([SLACK_M + 0.24, 0, 0, 0, 0, 0], True),
        ([0, 0, -SLACK_M - 0.26, 0, 0, 0], False),
        ([0, 0, 0, SLACK_RAD + 0.49, 0, 0], True),
        ([0, 0, 0, 0, 0, SLACK_RAD + 0.51], False),
    ],
)
def test_a_pose_within_reach_is_believed(place, tangent, believed):
    lost = unexpected(place, S + S // 2, moved(place, 0.5, tangent), OPTIONS)
    assert (lost is None) == believed


def test_without_a_velocity_nothing_is_said(place):
    anywhere = se3.exp(np.array([90.0, 0, 0, 0, 0, 2.0]))
    assert unexpected(replace(place, twist=None), 2 * S, anywhere, OPTIONS) is None
    assert unexpected(None, 2 * S, anywhere, OPTIONS) is None
    assert unexpected(place, S - 1, anywhere, OPTIONS) is None


def test_a_turn_before_a_flat_scene_may_hide_a_step_to_the_side():
    """One depth: a step of t moves the pixels as a turn of t / z does, so neither is sure."""
    K = np.array([[250.0, 0, 160], [0, 250.0, 120], [0, 0, 1]])
    frame = Frame(np.zeros((240, 320, 3), np.uint8), Camera(320, 240, K))
    rng = np.random.default_rng(0)
    px = rng.uniform([20, 20], [300, 220], (100, 2))
    pairs = Correspondences(px, px, np.ones(100))
    seen = np.ones(100, dtype=bool)
    turn = RelativePose(np.eye(4), seen, "rotation", 1e-8 * np.eye(6))

    def sigmas(depth_m):
        scene = SceneDepth(px, depth_m, 0.01)
        kept = SimpleNamespace(frame=frame)
        verdict = parallax.check(kept, frame, pairs, turn, scene, np.zeros(3))
        return np.sqrt(np.diag(verdict.outcome.covariance))

    flat, deep = sigmas(np.full(100, 2.0)), sigmas(rng.uniform(1.0, 2.5, 100))
    assert flat[0] == pytest.approx(10 * 2.0 * parallax.UNSEEN_PX / 250.0, rel=0.02)
    assert flat[4] == pytest.approx(flat[0] / 2.0, rel=0.01)
    assert deep[0] < 0.5 * flat[0]
