"""`ros2 bag play`, `ros2 bag record` and `ros2 service call`, as far as replay.launch.py uses them,
for machines that have launch and rclpy but no rosbag2. They meet in the folder L2M_FAKE_ROS2.

The player sends FRAMES frames of `ros_bench` once it is resumed; the recorder writes how many
poses came, and the first one's stamp, to the file `recorded`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

FOLDER = Path(os.environ.get("L2M_FAKE_ROS2", "."))
FRAMES = 30
PERIOD_S = 0.1


def play() -> None:
    import rclpy
    import ros_bench as rb
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import CameraInfo, Image

    rclpy.init()
    node = rclpy.create_node("rosbag2_player")
    kinds = {"image": Image, "camera_info": CameraInfo, "depth": Image}
    publishers = {name: node.create_publisher(kind, f"/cam/{name}", QoSProfile(depth=100))
                  for name, kind in kinds.items()}  # fmt: skip
    while not (FOLDER / "resumed").exists():
        time.sleep(0.02)
    for number in range(FRAMES):
        publishers["camera_info"].publish(rb.info(number))
        publishers["depth"].publish(rb.depth(number))
        publishers["image"].publish(rb.image(number))
        time.sleep(PERIOD_S)
    time.sleep(1.0)


def record(topics: list[str]) -> None:
    import rclpy
    from geometry_msgs.msg import PoseWithCovarianceStamped
    from rclpy.qos import QoSProfile
    from rclpy.signals import SignalHandlerOptions

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node, stamps, ended = rclpy.create_node("recorder"), [], []
    signal.signal(signal.SIGINT, lambda *_: ended.append(True))
    (topic,) = [one for one in topics if one.endswith("/pose")]
    node.create_subscription(
        PoseWithCovarianceStamped, topic,
        lambda pose: stamps.append(pose.header.stamp.sec * 10**9 + pose.header.stamp.nanosec),
        QoSProfile(depth=1000),
    )  # fmt: skip
    while not ended:
        rclpy.spin_once(node, timeout_sec=0.1)
    (FOLDER / "recorded").write_text(json.dumps(stamps))


def main(words: list[str]) -> None:
    if words[:2] == ["bag", "play"]:
        play()
    elif words[:2] == ["bag", "record"]:
        record(words[4:])
    elif words[:2] == ["service", "call"]:
        (FOLDER / "resumed").touch()


if __name__ == "__main__":
    main(sys.argv[1:])
