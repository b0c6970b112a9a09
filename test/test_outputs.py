"""What the node's messages say of chains, of the base and of inliers; no DDS needed."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from l2m_ros.frames import outputs
from l2m_ros.frames.messages import read_cloud, read_pose
from l2m_ros.geometry import se3
from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera
from l2m_ros.tracking.chain import ChainEvent
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.place import Twist
from l2m_ros.tracking.result import TrackResult, TrackState
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose, Reference

CAMERA = Camera(64, 48, np.array([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]))
MOUNT = base_from_camera({"base_from_camera": [0.3, 0.0, 0.5, *FORWARD_LOOKING[3:]]})
BREAK = ChainEvent(2, 5, 7, "lost for 15 frames", before=4, before_chain=1, bridged_by="odometry",
                   sigma_m=20.0, sigma_rad=3.1)  # fmt: skip


def tracked(event=None):
    """The camera went 0.2 m ahead, at 1 m/s; two of three matches agree."""
    frame = Frame(np.zeros((48, 64, 3), np.uint8), CAMERA, stamp_ns=7, frame_id="cam")
    kept = Keyframe(5, 2, frame, Reference("m", (64, 48), None), np.eye(4), np.zeros((6, 6)))
    T = se3.transform(np.eye(3), [0, 0, 0.2])
    pose = MetricPose(T, 1e-4 * np.eye(6), np.array([True, False, True]), "depth")
    pixels = np.array([[10.0, 10], [20, 20], [30, 30]])
    result = TrackResult(
        TrackState.TRACKING,
        "tracking",
        frame,
        kept,
        pose,
        correspondences=Correspondences(pixels, pixels, np.ones(3)),
        odom_from_camera=T,
        odom_covariance=1e-4 * np.eye(6),
        twist=Twist(np.array([0, 0, 1.0, 0, 0, 0]), np.diag([0.01] * 6)),
        chain_event=event,
    )
    return outputs.FrameResult(result, base_from_camera=MOUNT)


def test_odometry_is_the_base_s_with_its_velocity():
    message = outputs.odometry(tracked())
    assert (message.header.frame_id, message.child_frame_id) == ("odom", "base_link")
    T, _ = read_pose(message.pose)
    np.testing.assert_allclose(T, se3.transform(np.eye(3), [0.2, 0, 0]), atol=1e-12)
    v = message.twist.twist.linear
    np.testing.assert_allclose([v.x, v.y, v.z], [1.0, 0, 0], atol=1e-12)
    P = np.reshape(message.twist.covariance, (6, 6))
    assert 0.005 < P[0, 0] < 0.02  # real, not 1e6
    still = tracked()
    unknown = outputs.odometry(replace(still, result=replace(still.result, twist=None)))
    assert np.reshape(unknown.twist.covariance, (6, 6))[0, 0] == 1e6


def test_a_missing_edge_is_named_and_cannot_be_mistaken_for_one():
    missing, edge = outputs.edges(tracked(BREAK))
    assert (missing.header.frame_id, missing.child_frame_id) == ("l2m_keyframe/4", "l2m_keyframe/5")
    assert np.diag(np.reshape(missing.pose.covariance, (6, 6))).min() == 1e6
    assert (edge.header.frame_id, edge.child_frame_id) == ("l2m_keyframe/5", "cam")
    assert outputs.edges(tracked())[0] is None


def test_a_chain_says_what_it_is_not_connected_with():
    status = outputs.chain_status(tracked(BREAK))
    values = {value.key: value.value for value in status.values}
    assert status.level == bytes([1])
    assert values["missing_edge"] == "l2m_keyframe/4 -> l2m_keyframe/5"
    assert (values["chain"], values["before_chain"], values["bridged_by"]) == ("2", "1", "odometry")
    assert "lost for 15 frames" in status.message and "+-20.00 m" in status.message
    first = outputs.chain_status(tracked(ChainEvent(1, 0, 7, "the first frame")))
    assert first.level == bytes([0]) and "missing" not in first.message
    assert outputs.chain_status(tracked()) is None


def test_correspondences_name_the_inliers():
    cloud = read_cloud(outputs.correspondences(tracked()))
    assert cloud["inlier"].tolist() == [1.0, 0.0, 1.0]
