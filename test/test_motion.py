"""Where a velocity leads, and how far from there a camera can be."""

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.motion import SLACK_M, SLACK_RAD, predicted, unexpected
from l2m_ros.tracking.place import Place, Twist

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
