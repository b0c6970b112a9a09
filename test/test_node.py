"""The node over real DDS: poses against truth, life cycle, outputs, services, parameters."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from ros_bench import Bench, TruthMatcher, stamp_of, truth_x_m  # noqa: E402

from l2m_ros.ros.messages import read_pose, stamp_ns  # noqa: E402


def number_of(message) -> int:
    return round((stamp_ns(message) - stamp_of(0)) / 50e6)


def test_poses_are_the_truth():
    with Bench() as bench:
        bench.send_many(range(30))
        bench.wait(lambda: len(bench.poses) >= 10)
        for message in bench.poses:
            T, covariance = read_pose(message.pose)
            assert message.header.frame_id == "l2m_keyframe"
            assert abs(T[0, 3] - truth_x_m(number_of(message), 0)) < 1e-3
            assert np.linalg.eigvalsh(covariance)[0] > 0
