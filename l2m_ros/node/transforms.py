"""Publishes odom -> base to TF if asked; looks up base -> camera in TF if asked.

Uses tf2_ros where it is installed. Without it nothing can be looked up, but /tf is a plain topic:
tf2_msgs is enough to publish to it.
"""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile
from rclpy.time import Time

from l2m_ros.frames.messages import header, read_transform, transform_message
from l2m_ros.frames.outputs import FrameResult
from l2m_ros.types import FloatArray

WITHOUT = (
    "needs tf2_ros, which is not installed here: use a ROS 2 installation (apt install "
    "ros-$ROS_DISTRO-tf2-ros-py)"
)


class Transforms:
    """`problem` is a message for the diagnostics, or None."""

    def __init__(self, node: LifecycleNode, *, publish: bool, lookup: bool) -> None:
        self._node = node
        self._sender: Any = None
        self._publisher: Any = None
        self._buffer: Any = None
        self._listener: Any = None
        self._found: dict[tuple[str, str], FloatArray] = {}
        self.problem: str | None = None
        tf2_ros = _optional("tf2_ros")
        if publish:
            self._open_sender(tf2_ros)
        if lookup and tf2_ros is None:
            self.problem = f"base_from_tf {WITHOUT}; or set base_from_camera instead"
        elif lookup:
            self._buffer = tf2_ros.Buffer()
            self._listener = tf2_ros.TransformListener(self._buffer, node)

    def _open_sender(self, tf2_ros: Any) -> None:
        messages = _optional("tf2_msgs.msg")
        if tf2_ros is not None:
            self._sender = tf2_ros.TransformBroadcaster(self._node)
        elif messages is not None:
            qos = QoSProfile(depth=100)
            self._publisher = self._node.create_publisher(messages.TFMessage, "/tf", qos)
        else:
            self.problem = f"publish_tf {WITHOUT}"

    def publish(self, tracked: FrameResult) -> None:
        if self._sender is None and self._publisher is None:
            return
        self.send(
            [
                (T, header(tracked.stamp_ns, parent), child)
                for T, parent, child in tracked.transforms()
            ]
        )

    def send(self, transforms: list[tuple[FloatArray, Any, str]]) -> None:
        """(parent_from_child, header in the parent, child) of each."""
        messages = [transform_message(T, head, child) for T, head, child in transforms]
        if messages and self._sender is not None:
            self._sender.sendTransform(messages)
        elif messages and self._publisher is not None:
            self._publisher.publish(_optional("tf2_msgs.msg").TFMessage(transforms=messages))

    def base_from_camera(self, base: str, camera: str) -> FloatArray | None:
        """4x4 from TF, None while unknown there. Looked up once: cameras are fixed to the robot."""
        if self._buffer is None:
            return None
        if (base, camera) not in self._found:
            tf2_ros = _optional("tf2_ros")
            try:
                stamped = self._buffer.lookup_transform(base, camera, Time())
            except tf2_ros.TransformException as error:
                self.problem = f"no transform from {camera} to {base} in TF yet: {error}"
                return None
            self._found[base, camera] = read_transform(stamped.transform)
            self.problem = None
        return self._found[base, camera]

    def destroy(self) -> None:
        """Destroy the publishers and subscriptions made on the node, those of tf2_ros included."""
        node = self._node
        if self._publisher is not None:
            node.destroy_publisher(self._publisher)
        if self._sender is not None:
            node.destroy_publisher(self._sender.pub_tf)
        if self._listener is not None:
            self._listener.unregister()
        self._publisher = self._sender = self._listener = self._buffer = None


def _optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
