"""The node's poses as a bag, written without ROS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.bags.writer import BagWriter, open_bag_writer
from l2m_ros.frames.messages import UNKNOWN_VARIANCE, positive_definite
from l2m_ros.frames.outputs import FrameResult, chain_words, keyframe_name
from l2m_ros.tracking.place import Twist
from l2m_ros.types import FloatArray

TOPICS = {
    "/l2m/pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "/l2m/relative": "nav_msgs/msg/Odometry",
    "/l2m/odometry": "nav_msgs/msg/Odometry",
    "/l2m/chain": "diagnostic_msgs/msg/DiagnosticStatus",
}


class PoseBag:
    """`add` writes what the node would have published of a frame's pose and chain."""

    def __init__(self, writer: BagWriter) -> None:
        self._writer, self._make = writer, writer.messages
        for topic, type_name in TOPICS.items():
            writer.add_topic(topic, type_name)

    def add(self, tracked: FrameResult) -> None:
        found, kept, names = tracked.result.pose, tracked.result.keyframe, tracked.names
        self._add_event(tracked)
        if found is None or kept is None:
            return
        T, P = found.keyframe_from_camera, found.covariance
        self._write(tracked, "/l2m/pose", self._stamped(tracked, names.keyframe, T, P))
        frames = keyframe_name(tracked, kept), tracked.frame_id
        self._write(tracked, "/l2m/relative", self._odometry(tracked, frames, T, P))
        if tracked.base_in_odom is not None:
            frames = names.odom, names.base
            message = self._odometry(tracked, frames, *tracked.base_in_odom, tracked.base_twist)
            self._write(tracked, "/l2m/odometry", message)

    def _add_event(self, tracked: FrameResult) -> None:
        """What ~/chain says, and the edge that is missing."""
        event = tracked.result.chain_event
        if event is None:
            return
        level, words, values = chain_words(event, tracked.names.keyframe)
        status = self._make.new(
            "diagnostic_msgs/DiagnosticStatus",
            level=level,
            name="l2m: chain",
            message=words,
            hardware_id="",
            values=[
                self._make.new("diagnostic_msgs/KeyValue", key=key, value=value)
                for key, value in values.items()
            ],
        )
        self._write(tracked, "/l2m/chain", status)
        if event.before is not None:
            parent, child = (
                f"{tracked.names.keyframe}/{i}" for i in (event.before, event.keyframe)
            )
            unknown = UNKNOWN_VARIANCE * np.eye(6)
            missing = self._odometry(tracked, (parent, child), np.eye(4), unknown)
            self._write(tracked, "/l2m/relative", missing)

    def _write(self, tracked: FrameResult, topic: str, message: Any) -> None:
        self._writer.write(topic, tracked.stamp_ns, message)

    def _stamped(self, tracked: FrameResult, frame_id: str, T: FloatArray, P: FloatArray) -> Any:
        return self._make.new(
            "geometry_msgs/PoseWithCovarianceStamped",
            header=self._make.header(tracked.stamp_ns, frame_id),
            pose=self._make.pose_with_covariance(T, positive_definite(P)),
        )

    def _odometry(
        self,
        tracked: FrameResult,
        frames: tuple[str, str],
        T: FloatArray,
        P: FloatArray,
        twist: Twist | None = None,
    ) -> Any:
        """frames: parent and child."""
        velocity, twist_P = np.zeros(6), UNKNOWN_VARIANCE * np.eye(6)
        if twist is not None:
            velocity, twist_P = twist.velocity, positive_definite(twist.covariance)
        return self._make.new(
            "nav_msgs/Odometry",
            header=self._make.header(tracked.stamp_ns, frames[0]),
            child_frame_id=frames[1],
            pose=self._make.pose_with_covariance(T, positive_definite(P)),
            twist=self._make.twist_with_covariance(velocity, twist_P),
        )


@contextmanager
def write_pose_bag(path: Path, *, force: bool = False) -> Iterator[PoseBag]:
    """A folder `path` (name.mcap or name.db3, as ros2 bag names them); whole or not at all."""
    with open_bag_writer(path, force=force) as writer:
        yield PoseBag(writer)
