"""Posed images of bags: what truth and odometry say, the camera on the robot, and its lens."""

import numpy as np
import pytest

from l2m_ros.bags.writer import open_bag_writer
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import Camera
from l2m_ros.workshop.training.posed_bags import bags_below, frames_of_bag
from l2m_ros.workshop.training.posed_recordings import frames_of_sequences

SIZE = (64, 48)
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
LENS = Camera(*SIZE, K, "plumb_bob", np.array([0.3, 0.0, 0.0, 0.0, 0.0]))
MOUNTED = np.array([[0, 0, 1, 0.3], [-1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1.0]])
STEP_S = 0.5


def place(k):
    return se3.exp(np.array([0.06 * k, 0.0, 0.0, 0.0, 0.0, 0.01 * k]))  # of the base


def write(path, count, *, truth=(), odometry=True, camera=LENS):
    """truth: the numbers of the frames that have one."""
    rows = np.linspace(0, 255, SIZE[1]).astype(np.uint8)
    rgb = np.repeat(np.repeat(rows[:, None], SIZE[0], axis=1)[..., None], 3, axis=2)
    with open_bag_writer(path) as writer:
        make = writer.messages
        stamp = round(1e9)
        static = make.transform(make.header(stamp, "base_link"), "optical", MOUNTED)
        writer.write("/tf_static", stamp, make.new("tf2_msgs/TFMessage", transforms=[static]))
        for k in range(count):
            stamp = round((1 + STEP_S * k) * 1e9)
            head = make.header(stamp, "optical")
            messages = {"/camera/camera_info": make.camera_info(head, camera)}
            if odometry:
                messages["/odom"] = make.new(
                    "nav_msgs/Odometry",
                    header=make.header(stamp, "odom"),
                    child_frame_id="base_link",
                    pose=make.pose_with_covariance(place(k), 1e-4 * np.eye(6)),
                    twist=make.twist_with_covariance(np.zeros(6), np.eye(6)),
                )
            if k in truth:
                pose = make.pose(se3.compose(place(2 * k), MOUNTED))
                header = make.header(stamp, "world")
                messages["/truth"] = make.new("geometry_msgs/PoseStamped", header=header, pose=pose)
            messages["/camera/image_raw"] = make.image(head, rgb)
            for topic, message in messages.items():
                writer.write(topic, stamp, message)


def test_odometry_is_believed_for_some_seconds_at_a_time(tmp_path):
    write(tmp_path / "drive.mcap", 90)
    groups = frames_of_bag(tmp_path / "drive.mcap", SIZE)
    assert [len(group) for group in groups] == [21, 21, 4]  # 12 cm apart, 20 s each
    np.testing.assert_allclose(
        groups[0][3].world_from_camera, se3.compose(place(6), MOUNTED), atol=1e-6
    )


def test_truth_comes_before_odometry_and_the_lens_is_taken_out(tmp_path):
    write(tmp_path / "drive.mcap", 12, truth=range(2, 12))
    (group,) = frames_of_bag(tmp_path / "drive.mcap", SIZE)
    assert len(group) == 10
    np.testing.assert_allclose(
        group[0].world_from_camera, se3.compose(place(4), MOUNTED), atol=1e-6
    )
    assert group[0].camera.distortion == "none"
    np.testing.assert_allclose(group[0].camera.K, K)
    grey = group[0].rgb[:, 31, 0].astype(float)  # a ramp, seen through a lens that bulges
    r = (np.arange(SIZE[1]) - 23.5) / 60.0
    wanted = (60.0 * r * (1 + 0.3 * r**2) + 23.5) * 255 / (SIZE[1] - 1)
    np.testing.assert_allclose(grey[2:-2], wanted[2:-2], atol=1.5)


def test_bags_are_found_beside_sequences(tmp_path, capsys):
    write(tmp_path / "a" / "drive.mcap", 8)
    write(tmp_path / "still.mcap", 1, odometry=False)
    assert [path.name for path in bags_below(tmp_path)] == ["drive.mcap", "still.mcap"]
    (file,) = (tmp_path / "a" / "drive.mcap").glob("*.mcap")
    assert bags_below(file) == [file]
    (group,) = frames_of_sequences(tmp_path, SIZE, print)
    assert len(group) == 4
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "drive.mcap: 4 posed images"
    assert said[1].startswith("still.mcap: 0 posed images; no topic says where")
    with pytest.raises(InvalidInput, match="no sequence or bag tells the poses"):
        frames_of_sequences(tmp_path / "still.mcap", SIZE, print)
