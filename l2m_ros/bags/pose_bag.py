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
from l2m_ros.frames.outputs import FrameResult, chain_words, keyframe_name
from l2m_ros.tracking.velocity import Twist
from l2m_ros.types import FloatArray

PLUGINS = {".mcap": StoragePlugin.MCAP, ".db3": StoragePlugin.SQLITE3}
POSE = "geometry_msgs/msg/PoseWithCovarianceStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
STATUS = "diagnostic_msgs/msg/DiagnosticStatus"
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
                ("/l2m/chain", STATUS),
            )
        }

    def add(self, tracked: FrameResult) -> None:
        found, kept, names = tracked.result.pose, tracked.result.keyframe, tracked.names
        self._add_event(tracked)
        if found is None or kept is None:
            return
        T, P = found.keyframe_from_camera, found.covariance
        self._write(tracked, "/l2m/pose", self._stamped(tracked, names.keyframe, T, P))
        parent = keyframe_name(tracked, kept)
        message = self._odometry(tracked, (parent, tracked.frame_id), T, P)
        self._write(tracked, "/l2m/relative", message)
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
        pair = self._types.types["diagnostic_msgs/msg/KeyValue"]
        status = self._types.types[STATUS](
            level=level,
            name="l2m: chain",
            message=words,
            hardware_id="",
            values=[pair(key=key, value=value) for key, value in values.items()],
        )
        self._write(tracked, "/l2m/chain", status)
        if event.before is not None:
            names = (f"{tracked.names.keyframe}/{id}" for id in (event.before, event.keyframe))
            missing = self._odometry(tracked, tuple(names), np.eye(4), UNKNOWN_VARIANCE * np.eye(6))
            self._write(tracked, "/l2m/relative", missing)

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

    def _odometry(
        self,
        tracked: FrameResult,
        frames: tuple[str, ...],
        T: FloatArray,
        P: FloatArray,
        twist: Twist | None = None,
    ) -> Any:
        """frames: parent and child."""
        parent, child = frames
        return self._types.types[ODOMETRY](
            header=self._header(tracked, parent),
            child_frame_id=child,
            pose=self._pose(T, P),
            twist=self._twist(twist),
        )

    def _twist(self, twist: Twist | None) -> Any:
        types = self._types.types
        velocity = np.zeros(6) if twist is None else twist.velocity
        P = UNKNOWN_VARIANCE * np.eye(6) if twist is None else positive(twist.covariance)
        linear, angular = (
            types["geometry_msgs/msg/Vector3"](*map(float, part)) for part in np.split(velocity, 2)
        )
        return types["geometry_msgs/msg/TwistWithCovariance"](
            twist=types["geometry_msgs/msg/Twist"](linear=linear, angular=angular),
            covariance=P.ravel(),
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
