"""The node's poses as a bag, written without ROS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.messages import NS_PER_S, UNKNOWN_VARIANCE, positive, quaternion
from l2m_ros.frames.outputs import FrameResult, keyframe_name
from l2m_ros.types import FloatArray

PLUGINS = {".mcap": StoragePlugin.MCAP, ".db3": StoragePlugin.SQLITE3}
POSE = "geometry_msgs/msg/PoseWithCovarianceStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
METADATA_VERSION = 8  # what Humble to Lyrical read


class PoseBag:
    """`add` a tracked frame: what the node would have published as pose, relative and odometry."""

    def __init__(self, writer: Writer) -> None:
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer = writer
        self._connections = {
            topic: writer.add_connection(topic, kind, typestore=self._types)
            for topic, kind in (
                ("/l2m/pose", POSE),
                ("/l2m/relative", ODOMETRY),
                ("/l2m/odometry", ODOMETRY),
            )
        }

    def add(self, tracked: FrameResult) -> None:
        found, kept, names = tracked.result.pose, tracked.result.keyframe, tracked.names
        if found is None or kept is None:
            return
        T, P = found.keyframe_from_camera, found.covariance
        self._write(tracked, "/l2m/pose", self._stamped(tracked, names.keyframe, T, P))
        parent = keyframe_name(tracked, kept)
        self._write(tracked, "/l2m/relative", self._odometry(tracked, parent, T, P))
        if tracked.camera_in_odom is not None:
            message = self._odometry(tracked, names.odom, *tracked.camera_in_odom)
            self._write(tracked, "/l2m/odometry", message)

    def _write(self, tracked: FrameResult, topic: str, message: Any) -> None:
        connection = self._connections[topic]
        raw = self._types.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, tracked.stamp_ns, raw)

    def _header(self, tracked: FrameResult, frame_id: str) -> Any:
        sec, nanosec = divmod(tracked.stamp_ns, NS_PER_S)
        time = self._types.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        return self._types.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)

    def _pose(self, T: FloatArray, covariance: FloatArray) -> Any:
        types = self._types.types
        position = types["geometry_msgs/msg/Point"](*map(float, T[:3, 3]))
        turn = types["geometry_msgs/msg/Quaternion"](*map(float, quaternion(T[:3, :3])))
        pose = types["geometry_msgs/msg/Pose"](position=position, orientation=turn)
        return types["geometry_msgs/msg/PoseWithCovariance"](
            pose=pose, covariance=positive(covariance).ravel()
        )

    def _stamped(self, tracked: FrameResult, frame_id: str, T: FloatArray, P: FloatArray) -> Any:
        head = self._header(tracked, frame_id)
        return self._types.types[POSE](header=head, pose=self._pose(T, P))

    def _odometry(self, tracked: FrameResult, frame_id: str, T: FloatArray, P: FloatArray) -> Any:
        types = self._types.types
        zero = types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0)
        twist = types["geometry_msgs/msg/TwistWithCovariance"](
            twist=types["geometry_msgs/msg/Twist"](linear=zero, angular=zero),
            covariance=(UNKNOWN_VARIANCE * np.eye(6)).ravel(),
        )
        return types[ODOMETRY](
            header=self._header(tracked, frame_id),
            child_frame_id=tracked.frame_id,
            pose=self._pose(T, P),
            twist=twist,
        )


@contextmanager
def write_pose_bag(path: Path, *, force: bool = False) -> Iterator[PoseBag]:
    """A folder `path` (name.mcap or name.db3, as ros2 bag names them); whole or not at all."""
    plugin = PLUGINS.get(path.suffix)
    if plugin is None:
        raise InvalidInput(f"{path}: a bag's name ends in {' or '.join(PLUGINS)}")
    if path.exists() and not force:
        raise InvalidInput(f"{path} exists; name another one, or add --force")
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Writer(partial, version=METADATA_VERSION, storage_plugin=plugin) as writer:
            yield PoseBag(writer)
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
