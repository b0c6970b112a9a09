"""Start the node here, as `ros2 run l2m_ros matcher` does in a ROS 2 installation.

l2m run --ros-args -p model:=lite -r image:=/camera/image_raw -r camera_info:=/camera/camera_info
"""

from __future__ import annotations

import argparse

from l2m_ros.errors import InvalidInput


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ros-args",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="...",
        help="ROS arguments: -p parameter:=value, -r topic:=other, --params-file FILE, "
        "--log-level LEVEL",
    )
    for option in ("-p", "-r"):
        parser.add_argument(option, dest="misplaced", action="append", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    if args.misplaced:
        raise InvalidInput("-p and -r stand behind --ros-args: l2m run --ros-args -p model:=lite")
    from l2m_ros.node.main import main

    # rclpy skips the program's name in what it is given.
    return main(["l2m", "--ros-args", *args.ros_args] if args.ros_args else ["l2m"])
