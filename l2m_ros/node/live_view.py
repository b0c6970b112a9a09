"""Shows the outputs of a running node in the Rerun viewer."""

from __future__ import annotations

from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image, PointCloud2

from l2m_ros.bags.rerun_view import Viewer
from l2m_ros.frames.messages import read_cloud, read_image, read_pose, stamp_ns
from l2m_ros.geometry import se3
from l2m_ros.parameters.table import FORWARD_LOOKING, base_from_camera

QUEUE = 5
# The base is drawn as a camera that looks along its x axis: where it is mounted is not published.
BASE_FROM_CAMERA = base_from_camera({"base_from_camera": FORWARD_LOOKING})


class LiveView(Node):
    """Subscribes to a node's odometry, pose, correspondences and matches."""

    def __init__(self, viewer: Viewer, source: str) -> None:
        super().__init__("l2m_view")
        self._viewer = viewer
        self._odom_from_keyframe = np.eye(4)
        self._odom_from_camera: dict[int, Any] = {}
        for kind, name, callback in (
            (Odometry, "odometry", self._on_odometry),
            (PoseWithCovarianceStamped, "pose", self._on_pose),
            (PointCloud2, "correspondences", self._on_points),
            (Image, "matches", self._on_matches),
        ):
            self.create_subscription(kind, f"{source}/{name}", callback, QUEUE)

    def _on_odometry(self, message: Odometry) -> None:
        T = read_pose(message.pose)[0] @ BASE_FROM_CAMERA
        self._viewer.at(stamp_ns(message))
        self._viewer.camera(T, None, None)
        self._odom_from_camera = {stamp_ns(message): T}

    def _on_pose(self, message: PoseWithCovarianceStamped) -> None:
        """Pose and odometry of the same image give the keyframe's place in odom."""
        T, _ = read_pose(message.pose)
        if (odom := self._odom_from_camera.get(stamp_ns(message))) is not None:
            self._odom_from_keyframe = odom @ se3.inverse(T)

    def _on_points(self, message: PointCloud2) -> None:
        cloud = read_cloud(message)
        xyz = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=1)
        self._viewer.at(stamp_ns(message))
        self._viewer.points(xyz, self._odom_from_keyframe, cloud["confidence"])

    def _on_matches(self, message: Image) -> None:
        self._viewer.at(stamp_ns(message))
        self._viewer.matches(read_image(message))


def show_node(viewer: Viewer, source: str = "/l2m") -> int:
    """Until Ctrl-C."""
    rclpy.init()
    node = LiveView(viewer, source)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0
