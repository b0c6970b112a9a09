"""Records the topics of a running node: poses with their keyframes, pictures, diagnostics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from l2m_ros.frames.messages import read_image, read_pose, stamp_ns
from l2m_ros.types import ByteArray, FloatArray

DEPTH = 100  # poses wait here while a picture is being read


@dataclass
class RecordedOutputs:
    """Everything by the stamp of its image."""

    relative: dict[int, tuple[str, FloatArray, FloatArray]] = field(default_factory=dict)
    odometry: dict[int, FloatArray] = field(default_factory=dict)
    map_poses: dict[int, tuple[FloatArray, FloatArray]] = field(default_factory=dict)  # of the base
    keyframes: dict[str, int] = field(default_factory=dict)  # stamp by the keyframe's name
    pictures: list[ByteArray] = field(default_factory=list)
    diagnostics: dict[str, str] = field(default_factory=dict)  # newest value by name
    began_s: float | None = None  # monotonic clock: when the first message was sent ...
    in_map_s: float | None = None  # ... and when the first pose in the map came

    @property
    def first_in_map_s(self) -> float | None:
        """From the first message to the first pose in the map; None where there was none."""
        if self.began_s is None or self.in_map_s is None:
            return None
        return self.in_map_s - self.began_s


class OutputRecorder:
    """Subscribes through `node`, which the caller spins; the messages end up in `recorded`."""

    def __init__(self, node: Node, source: str = "/l2m") -> None:
        self._node, self._source = node, source
        self._pictures_wanted = 0
        self._matches = None
        self.recorded = RecordedOutputs()
        latched = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        node.create_subscription(Odometry, f"{source}/relative", self._on_relative, DEPTH)
        node.create_subscription(Odometry, f"{source}/odometry", self._on_odometry, DEPTH)
        pose = PoseWithCovarianceStamped
        node.create_subscription(pose, f"{source}/map_pose", self._on_map_pose, DEPTH)
        node.create_subscription(Image, f"{source}/keyframe", self._on_keyframe, latched)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, DEPTH)

    def request_picture(self) -> None:
        """Subscribe to the matches until the next one: drawing each would cost the node time."""
        if self._matches is None:
            topic = f"{self._source}/matches"
            self._matches = self._node.create_subscription(Image, topic, self._on_matches, 1)
        self._pictures_wanted += 1

    def _on_relative(self, message: Odometry) -> None:
        T, covariance = read_pose(message.pose)
        if message.child_frame_id.startswith(message.header.frame_id.rpartition("/")[0] + "/"):
            return  # between two keyframes: an edge that is missing
        self.recorded.relative[stamp_ns(message)] = (message.header.frame_id, T, covariance)

    def _on_odometry(self, message: Odometry) -> None:
        self.recorded.odometry[stamp_ns(message)] = read_pose(message.pose)[0]

    def _on_map_pose(self, message: PoseWithCovarianceStamped) -> None:
        if self.recorded.in_map_s is None:
            self.recorded.in_map_s = time.monotonic()
        self.recorded.map_poses[stamp_ns(message)] = read_pose(message.pose)

    def _on_keyframe(self, message: Image) -> None:
        self.recorded.keyframes[message.header.frame_id] = stamp_ns(message)

    def _on_matches(self, message: Image) -> None:
        if self._pictures_wanted > 0:
            self._pictures_wanted -= 1
            self.recorded.pictures.append(read_image(message).copy())
        if self._pictures_wanted <= 0 and self._matches is not None:
            self._node.destroy_subscription(self._matches)
            self._matches = None

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.recorded.diagnostics |= {value.key: value.value for value in status.values}
