"""Depth and odometry as two witnesses of the same metres."""

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.tracking.depth_odometry import FirstAgreement, ScaleAgainstOdometry
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.odometry import OdometryNoise, OdometryStep
from l2m_ros.types import MetricPose

NOISE = OdometryNoise()


def ways(factor, modelled=None, scatter=0.01, n=20, seed=0, first=0):
    """(keyframe, pose by depth, step by odometry): depth's ways are longer by a factor.

    Four ways a keyframe.
    """
    rng = np.random.default_rng(seed)
    for number in range(n):
        T = se3.exp(np.array([0.3, 0.05, 0.1, 0.02, 0.1, 0.0]))
        longer = T.copy()
        longer[:3, 3] *= factor * np.exp(scatter * rng.standard_normal())
        pose = MetricPose(longer, 1e-6 * np.eye(6), np.ones(1, bool), "depth")
        yield first + number // 4, pose, OdometryStep(T, 1e-6 * np.eye(6), modelled)


def excess(pairs, sigma=0.01):
    scale = ScaleAgainstOdometry()
    for keyframe, pose, step in pairs:
        scale.learn(keyframe, pose, step, NOISE)
    return scale.excess(sigma)


def test_depth_of_a_wrong_scale_is_admitted():
    assert excess(ways(1.05)) == pytest.approx(0.05, abs=0.01)


def test_what_both_admit_is_left_alone():
    assert excess(ways(1.01)) == 0.0
    assert excess(ways(1.05, modelled="is constant")) == 0.0  # wheels that may err by 5 %


def test_the_first_way_that_is_long_enough_tells():
    assert excess(ways(1.05, n=1)) == pytest.approx(0.05, abs=0.02)


def test_the_longest_way_speaks_for_its_keyframe():
    """Short ways by odometry are unsure, and all from one keyframe err alike."""

    def way(length_m, factor):
        T, longer = np.eye(4), np.eye(4)
        T[0, 3], longer[0, 3] = length_m, length_m * factor
        pose = MetricPose(longer, 1e-6 * np.eye(6), np.ones(1, bool), "depth")
        return 0, pose, OdometryStep(T, 0.005**2 * np.eye(6) + (0.02 * length_m) ** 2, None)

    short = [way(0.12, 1.0)] * 20
    assert excess(short) == 0.0
    assert excess([*short, way(0.6, 1.05)]) == pytest.approx(0.05, abs=0.01)


def test_a_slip_for_a_while_is_no_scale():
    slipping = list(ways(0.6, n=6, seed=1, first=5))
    assert excess([*list(ways(1.0, n=20)), *slipping]) == 0.0


def test_a_factor_that_varies_is_slip_and_one_that_stays_is_a_unit():
    varying = [way for k, f in enumerate((0.3, 0.9, 0.5, 1.0)) for way in ways(f, n=4, first=k)]
    assert excess(varying) == 0.0
    assert excess(ways(0.5)) == pytest.approx(np.log(2.0), abs=0.02)
    assert excess(ways(4.0, n=1)) == pytest.approx(np.log(4.0), abs=0.05)


def test_a_way_that_slip_made_longer_is_no_surer():
    jumps = list(ways(0.1, n=8, seed=1, first=3))
    assert excess([*list(ways(1.0, n=12)), *jumps]) == 0.0


def test_short_ways_say_nothing():
    short = [
        (0, MetricPose(se3.exp(np.array([0.02, 0, 0, 0, 0, 0])), 1e-6 * np.eye(6),
                    np.ones(1, bool), "depth"), OdometryStep(np.eye(4), np.eye(6), None))
    ] * 20  # fmt: skip
    assert excess(short) == 0.0


# ---- the first ways ----------------------------------------------------------------------------

STEP_NS = 100_000_000


def both(told_m, seen_m):
    """A pose by depth and a step by odometry, each known to a millimetre."""
    told, seen = np.eye(4), np.eye(4)
    told[0, 3], seen[0, 3] = told_m, seen_m
    P = 1e-6 * np.eye(6)
    return MetricPose(seen, P, np.ones(1, bool), "depth"), OdometryStep(told, P, None)


def first_sigmas(pairs):
    first = FirstAgreement()
    posed = (first.admitted(*both(*it), k * STEP_NS, GateOptions()) for k, it in enumerate(pairs))
    return [float(np.sqrt(pose.covariance[0, 0])) for pose in posed]


def test_before_both_agreed_depth_is_no_surer_than_odometry_is_from_it():
    """A part of the robot moves with the camera: by its depth the camera stands."""
    stands = first_sigmas([(0.03 * k, 0.0) for k in range(1, 6)])
    assert stands == pytest.approx([0.03 * k for k in range(1, 6)], rel=0.01)


def test_once_they_agreed_on_a_way_depth_is_believed_while_wheels_slip():
    assert first_sigmas([(0.06, 0.061), (0.3, 0.1)])[-1] == pytest.approx(1e-3)
    standing = [(0.0, 0.0)] * 5  # shows nothing
    assert first_sigmas([*standing, (0.3, 0.1)])[-1] == pytest.approx(0.2, rel=0.01)


def test_odometry_that_never_agrees_is_left_alone_after_a_while():
    never = first_sigmas([(0.02 * k, 0.0) for k in range(1, 40)])
    assert 0.3 < never[20] < GateOptions().max_sigma_m and never[-1] == pytest.approx(1e-3)
    far = first_sigmas([(9.0, 0.0)])  # it may be published all the same
    assert 0.45 < far[0] < GateOptions().max_sigma_m
