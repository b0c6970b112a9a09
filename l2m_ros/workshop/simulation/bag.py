"""A run as a real ROS 2 bag (mcap or sqlite3), for Humble and everything later.

    topic                       type                       frame
    /camera/image_raw           sensor_msgs/Image          rgb8
    /camera/camera_info         sensor_msgs/CameraInfo
    /camera/depth               sensor_msgs/Image          16UC1 mm (default) or 32FC1 m
    /camera/right/image_raw     sensor_msgs/Image          only with stereo
    /camera/right/camera_info   sensor_msgs/CameraInfo     P[3] = -fx * baseline
    /odom                       nav_msgs/Odometry          odom -> base_link, with its drift
    /tf_static                  tf2_msgs/TFMessage         base_link -> the two optical frames
    /ground_truth/pose          geometry_msgs/PoseStamped  the camera's OPTICAL frame in `world`

Axes as REP-103 and REP-105 have them: world, odom and base_link are x forward, y left, z up;
optical frames are x right, y down, z forward. Ground truth takes points of
camera_optical_frame into world.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.bags.messages import Messages
from l2m_ros.bags.writer import open_bag_writer
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.workshop.simulation.sequence import OPTICAL_FRAME, SimulatedFrame

DEPTH_ENCODINGS = ("16UC1", "32FC1")
BASE_FRAME, ODOM_FRAME, WORLD_FRAME = "base_link", "odom", "world"
RIGHT_FRAME = "camera_right_optical_frame"


def write_bag(
    path: str | Path,
    shots: Iterable[SimulatedFrame],
    *,
    depth_encoding: str = "16UC1",
    force: bool = False,
    custom_data: dict[str, str] | None = None,
) -> None:
    """Writes the folder `path`, whole or not at all; its suffix (.mcap, .db3) names the storage."""
    if depth_encoding not in DEPTH_ENCODINGS:
        raise InvalidInput(
            f"depth encoding must be {' or '.join(DEPTH_ENCODINGS)}, got {depth_encoding!r}"
        )
    custom_data = {"generator": "l2m simulate", **(custom_data or {})}
    with open_bag_writer(Path(path), force=force, custom_data=custom_data) as writer:
        last = None
        for shot in shots:
            if last is None:
                transforms = _static_transforms(writer.messages, shot)
                writer.write("/tf_static", shot.frame.stamp_ns, transforms)
            for topic, message in _messages(writer.messages, shot, last, depth_encoding).items():
                late_ns = shot.odom_late_ns if topic == "/odom" else 0
                writer.write(topic, shot.frame.stamp_ns + late_ns, message)
            last = shot


def _messages(
    make: Messages, shot: SimulatedFrame, last: SimulatedFrame | None, depth_encoding: str
) -> dict[str, Any]:
    """Everything of one frame, by topic."""
    frame = shot.frame
    head = make.header(frame.stamp_ns, frame.frame_id)
    messages = {
        **({"/odom": _odometry(make, shot, last)} if shot.odom_published else {}),
        "/ground_truth/pose": _ground_truth(make, shot),
        "/camera/camera_info": make.camera_info(head, frame.camera),
        "/camera/image_raw": make.image(head, frame.rgb),
    }
    if frame.depth is not None:
        late = make.header(frame.depth_stamp_ns, frame.frame_id)
        messages["/camera/depth"] = make.depth(late, frame.depth, depth_encoding)
    if frame.right_rgb is not None and frame.right_camera is not None:
        right = make.header(frame.stamp_ns, RIGHT_FRAME)
        baseline_m = -float(np.asarray(frame.right_from_camera)[0, 3])
        info = make.camera_info(right, frame.right_camera, baseline_m)
        messages["/camera/right/camera_info"] = info
        messages["/camera/right/image_raw"] = make.image(right, frame.right_rgb)
    return messages


def _odometry(make: Messages, shot: SimulatedFrame, last: SimulatedFrame | None) -> Any:
    return make.new(
        "nav_msgs/Odometry",
        header=make.header(shot.frame.stamp_ns + shot.odom_late_ns, ODOM_FRAME),
        child_frame_id=BASE_FRAME,
        pose=make.pose_with_covariance(shot.odom_from_base, shot.odom_covariance),
        twist=_twist(make, shot, last),
    )


def _twist(make: Messages, shot: SimulatedFrame, last: SimulatedFrame | None) -> Any:
    """Mean velocity since the last frame, in base_link, with the covariance of the step."""
    velocity, covariance = np.zeros(6), np.zeros((6, 6))
    if last is not None:
        dt_s = shot.time_s - last.time_s
        step = se3.inverse(last.odom_from_base) @ shot.odom_from_base
        velocity = np.concatenate([step[:3, 3], se3.rotation_log(step[:3, :3])]) / dt_s
        grown = np.diag(shot.odom_covariance - last.odom_covariance)
        covariance = np.diag(np.maximum(grown, 1e-9)) / dt_s**2
    return make.twist_with_covariance(velocity, covariance)


def _ground_truth(make: Messages, shot: SimulatedFrame) -> Any:
    header = make.header(shot.frame.stamp_ns, WORLD_FRAME)
    pose = make.pose(shot.world_from_camera)
    return make.new("geometry_msgs/PoseStamped", header=header, pose=pose)


def _static_transforms(make: Messages, shot: SimulatedFrame) -> Any:
    frames = {OPTICAL_FRAME: shot.base_from_camera}
    if shot.frame.right_from_camera is not None:
        camera_from_right = se3.inverse(shot.frame.right_from_camera)
        frames[RIGHT_FRAME] = shot.base_from_camera @ camera_from_right
    header = make.header(shot.frame.stamp_ns, BASE_FRAME)
    transforms = [make.transform(header, child, T) for child, T in frames.items()]
    return make.new("tf2_msgs/TFMessage", transforms=transforms)
