"""The delay of odometry's stamps is learnt from turns, or nothing is said."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from l2m_ros.frames.inputs import InputOptions, Inputs
from l2m_ros.frames.odometry_buffer import OdometryBuffer
from l2m_ros.frames.odometry_delay import OdometryDelay
from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample, step
from l2m_ros.types import Turn

BASE_FROM_CAMERA = se3.transform(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0.0]]), np.zeros(3))
UNTURNED = np.eye(3)
SIGMA_RAD = 2e-3
S = 1_000_000_000


def base_turn(time_s: float, wags: float = 1.0) -> np.ndarray:
    """A robot that looks left and right, and wobbles a little."""
    yaw = 0.2 * time_s + wags * 0.4 * np.sin(2.1 * time_s)
    return Rotation.from_euler("zyx", [yaw, wags * 0.02 * np.sin(5 * time_s), 0.0]).as_matrix()


def sample(time_s: float, late_s: float, R: np.ndarray) -> OdometrySample:
    stamp_ns = round((time_s + late_s) * S)
    return OdometrySample(stamp_ns, se3.transform(R, np.zeros(3)), np.zeros((6, 6)))


def learnt(
    late_s: float,
    *,
    given_s: float = 0.0,
    wags: float = 1.0,
    seconds: float = 20.0,
    frame: np.ndarray = UNTURNED,
) -> OdometryDelay:
    """What is learnt from images at 10 Hz and odometry at 30 Hz, a keyframe every second."""
    buffer, rng = OdometryBuffer(), np.random.default_rng(7)
    delay = OdometryDelay(buffer, round(given_s * S))
    odometry = iter(np.arange(-1.0, seconds + 2.0, 1 / 30))
    come_s = -1.0
    for time_s in np.arange(0.0, seconds, 0.1):
        while come_s < time_s + 0.5:  # some is there already, as in a replay
            come_s = next(odometry)
            buffer.add(sample(come_s, late_s, frame @ base_turn(come_s, wags) @ frame.T))
        keyframe_s = np.floor(time_s)
        off = Rotation.from_rotvec(rng.normal(0, SIGMA_RAD, 3)).as_matrix()
        B = BASE_FROM_CAMERA[:3, :3]
        R = off @ B.T @ base_turn(keyframe_s, wags).T @ base_turn(time_s, wags) @ B
        turn = Turn(R, SIGMA_RAD**2 * np.eye(3))
        delay.see(round(keyframe_s * S), round(time_s * S), turn, BASE_FROM_CAMERA)
    return delay


@pytest.mark.parametrize("late_s", [-0.15, 0.04, 0.1, 0.22])
def test_a_delay_is_found_to_a_few_milliseconds(late_s):
    delay = learnt(late_s)
    assert delay.learnt_ns == pytest.approx(late_s * S, abs=0.008 * S)
    assert delay.at(0) == 0  # what was tracked before stays as it was
    assert delay.at(20 * S) == delay.learnt_ns


def test_one_is_found_around_what_was_given():
    assert learnt(0.5, given_s=0.4).learnt_ns == pytest.approx(0.5 * S, abs=0.008 * S)
    assert learnt(0.5, given_s=0.5).learnt_ns is None


def test_none_is_found_where_there_is_none():
    assert learnt(0.0).learnt_ns is None
    assert learnt(0.008).learnt_ns is None  # not worth a keyframe


def test_a_steady_turn_tells_nothing():
    assert learnt(0.1, wags=0.0).learnt_ns is None


def test_odometry_that_turns_otherwise_has_no_delay():
    """In optical axes: at no delay do its turns suit."""
    assert learnt(0.0, frame=BASE_FROM_CAMERA[:3, :3].T).learnt_ns is None


def test_beyond_reach_nothing_is_claimed():
    assert learnt(0.6).learnt_ns is None


def test_it_is_forgotten_when_time_jumps_back():
    delay = learnt(0.1)
    delay.forget()
    assert delay.learnt_ns is None and delay.at(20 * S) == 0


def test_an_image_of_an_earlier_time_begins_anew():
    delay = learnt(0.1)
    assert delay.learnt_ns is not None
    delay.see(0, S, Turn(np.eye(3), np.eye(3)), BASE_FROM_CAMERA)
    assert delay.learnt_ns is None and delay.at(20 * S) == 0


def test_it_is_known_as_well_as_turns_show_it():
    """Before, and on straight ways, as well as was given; 7.5 ms at best."""
    unknown = learnt(0.0, wags=0.0)
    assert unknown.sigma_s(20 * S) == pytest.approx(0.02)
    seen = learnt(0.1)
    assert seen.sigma_s(0) == pytest.approx(0.02)
    assert 0.007 < seen.sigma_s(20 * S) < 0.01
    assert 0.007 < learnt(0.0).sigma_s(20 * S) < 0.01
    seen.forget()
    assert seen.sigma_s(20 * S) == pytest.approx(0.02)


def test_odometry_is_read_by_the_delay_that_was_given():
    inputs = Inputs(InputOptions(odom=True, odom_delay_ns=S // 10))
    for time_s in np.arange(0.0, 2.0, 0.05):
        inputs.odometry.add(sample(time_s, 0.1, base_turn(time_s)))
    read = inputs.odometry_at(S)
    assert read.stamp_ns == S and read.delay_ns == S // 10
    assert np.allclose(read.odom_from_base[:3, :3], base_turn(1.0), atol=1e-6)


def driven(time_s, acceleration):
    """A base that speeds up on a circle of 4 m."""
    length_m = 0.4 * time_s + acceleration * time_s**2 / 2
    R = Rotation.from_euler("z", length_m / 4).as_matrix()
    at = 4 * np.array([np.sin(length_m / 4), 1 - np.cos(length_m / 4), 0.0])
    return se3.transform(R, at)


@pytest.mark.parametrize("acceleration", [0.0, 0.5])
def test_a_way_is_as_unsure_as_an_unknown_delay_makes_it(acceleration):
    """At a steady speed an unknown delay changes nothing, else the covariance has it."""
    sigma_s, ways = 0.02, []
    for late_s in (0.0, sigma_s):
        inputs = Inputs(InputOptions(odom=True, odom_delay_sigma_ns=round(sigma_s * S)))
        for time_s in np.arange(0.0, 3.0, 0.02):
            stamp_ns = round((time_s + late_s) * S)
            T = driven(time_s, acceleration)
            inputs.odometry.add(OdometrySample(stamp_ns, T, np.zeros((6, 6))))
        ways.append(step(inputs.odometry_at(S), inputs.odometry_at(2 * S + S // 100)))
        exact = [replace(inputs.odometry_at(t), delay_sigma_s=0.0) for t in (S, 2 * S + S // 100)]
    wrong = se3.difference(ways[1].a_from_b, ways[0].a_from_b)
    more = ways[1].covariance - step(*exact).covariance
    assert np.allclose(more, np.outer(wrong, wrong), atol=2e-6 + 0.05 * np.abs(wrong).max() ** 2)
    assert (np.abs(wrong).max() > 5e-3) == (acceleration > 0)


def test_a_way_read_by_two_delays_is_as_unsure_as_that_makes_it():
    def at(time_s: float, delay_s: float) -> OdometrySample:
        T = se3.transform(np.eye(3), np.array([time_s, 0, 0]))  # 1 m/s
        return OdometrySample(round(time_s * S), T, np.zeros((6, 6)), delay_ns=round(delay_s * S))

    alike, apart = step(at(1, 0.1), at(2, 0.1)), step(at(1, 0.0), at(2, 0.1))
    added = np.sqrt((apart.covariance - alike.covariance)[0, 0])
    assert added == pytest.approx(0.2)  # 0.1 s at twice its speed
