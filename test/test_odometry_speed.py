"""Odometry that speeds up as no base does may be slipping wheels."""

import numpy as np
import pytest

from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.odometry_speed import SUSPECTED_NS, OdometrySpeed

S = 1_000_000_000


def drive(speeds, rate_hz=10.0, first_ns=S):
    """Samples of a base that goes on at these speeds, a turn beside."""
    x, samples = 0.0, []
    for index, speed in enumerate([0.0, *speeds]):
        x += speed / rate_hz
        T = se3.transform(se3.rotation(np.array([0, 0, 0.1 * index])), [x, 0, 0])
        stamp_ns = first_ns + round(index * S / rate_hz)
        samples.append(OdometrySample(stamp_ns, T, np.zeros((6, 6))))
    return samples


def suspected(samples, most_m_s2=2.5):
    watch = OdometrySpeed()
    for sample in samples:
        watch.see(sample, most_m_s2)
        watch.see(sample, most_m_s2)  # more than once a frame
    return watch.suspect(samples[-1].stamp_ns), watch


@pytest.mark.parametrize("rate_hz", [5.0, 10.0, 30.0])
def test_wheels_that_begin_to_slip_leap(rate_hz):
    assert suspected(drive([0.3] * 10 + [0.9] * 3, rate_hz))[0]


@pytest.mark.parametrize("rate_hz", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("acceleration", [1.5, -6.0])
def test_a_base_that_accelerates_or_brakes_does_not(rate_hz, acceleration):
    speeds = np.maximum(1.0 + acceleration * np.arange(40) / rate_hz, 0.0)
    assert not suspected(drive(speeds, rate_hz))[0]


def test_what_may_accelerate_by_more_may_leap_by_more():
    speeds = 1.0 + 6.0 * np.arange(40) / 10.0
    assert suspected(drive(speeds))[0]
    assert not suspected(drive(speeds), 10.0)[0]
    assert not suspected(drive(1.0 + 1.5 * np.arange(40) / 10.0), 0.5)[0]


def test_stamps_that_are_some_milliseconds_off_do_not():
    rng = np.random.default_rng(0)
    late = [
        OdometrySample(s.stamp_ns + int(rng.uniform(0, 5e6)), s.odom_from_base, s.covariance)
        for s in drive([1.0] * 200)
    ]
    assert not suspected(late)[0]


def test_a_pause_says_nothing_of_speeds():
    before, after = drive([0.2] * 5), drive([1.5] * 5, first_ns=3 * S)
    moved = [
        OdometrySample(s.stamp_ns, before[-1].odom_from_base @ s.odom_from_base, s.covariance)
        for s in after
    ]
    assert not suspected([*before, *moved])[0]


def test_it_is_forgotten_after_a_while_or_when_the_scene_agrees():
    leapt, watch = suspected(drive([0.3] * 10 + [0.9]))
    stamp_ns = drive([0.3] * 10 + [0.9])[-1].stamp_ns
    assert leapt and not watch.suspect(stamp_ns + SUSPECTED_NS)
    watch.agree()
    assert not watch.suspect(stamp_ns)


def test_a_delay_that_was_learnt_moves_the_place_but_is_no_leap():
    first, rest = drive([0.3] * 8)[:5], drive([0.3] * 8)[5:]
    later = [
        OdometrySample(
            s.stamp_ns, s.odom_from_base @ se3.transform(np.eye(3), [0.1, 0, 0]), s.covariance,
            delay_ns=100_000_000,
        )
        for s in rest
    ]  # fmt: skip
    assert not suspected([*first, *later])[0]
