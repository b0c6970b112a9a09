"""Another node that reads /l2m/correspondences: how many matches, and how far away they are.

ros2 run l2m_ros matcher --ros-args -r image:=/camera/image_raw ...     # or: l2m run ...
python examples/read_correspondences.py
"""

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2


class CorrespondenceReader(Node):
    def __init__(self, **kwargs) -> None:
        super().__init__("correspondence_reader", **kwargs)
        self.create_subscription(PointCloud2, "/l2m/correspondences", self.on_cloud, 5)

    def on_cloud(self, message: PointCloud2) -> None:
        matches = read_matches(message)
        sure = matches[matches["confidence"] > 0.5]
        moved_px = np.hypot(sure["u"] - sure["ku"], sure["v"] - sure["kv"])
        distance_m = np.linalg.norm([sure["x"], sure["y"], sure["z"]], axis=0)
        known = np.isfinite(distance_m)  # NaN where there is no scale
        self.get_logger().info(
            f"{len(matches)} matches, {len(sure)} sure; they moved {np.median(moved_px):.1f} px "
            f"since the keyframe and are {np.median(distance_m[known]):.2f} m away"
            if len(sure) and known.any()
            else f"{len(matches)} matches, {len(sure)} sure"
        )


def read_matches(message: PointCloud2) -> np.ndarray:
    """(N,) by field: x y z in the keyframe's axes, u v here, ku kv there, confidence, ..."""
    float32 = {
        "names": [field.name for field in message.fields],
        "formats": ["<f4"] * len(message.fields),
        "offsets": [field.offset for field in message.fields],
        "itemsize": message.point_step,
    }
    return np.frombuffer(bytes(message.data), float32)


def main() -> None:
    rclpy.init()
    node = CorrespondenceReader()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
