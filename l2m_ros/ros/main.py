"""`ros2 run l2m_ros matcher` and `l2m run`: the node in a process of its own."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

from l2m_ros.ros.node import MatcherNode

END_S = 1.0  # SIGINT and SIGTERM end within 2 s, whatever the model is at


def main(args: list[str] | None = None) -> int:
    """0 after SIGINT or SIGTERM; 2 where ROS refuses the arguments."""
    try:
        rclpy.init(args=args)
    except (_rclpy.RCLInvalidROSArgsError, _rclpy.UnknownROSArgsError, _rclpy.RCLError) as error:
        print(f"l2m: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    node = MatcherNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        _spin(executor, node)
    _end(node)
    return 0


def _spin(executor: SingleThreadedExecutor, node: MatcherNode) -> None:
    while rclpy.ok():
        try:
            executor.spin_once()
        except _rclpy.RCLError as error:
            # `activate` asked of an active node, for one: rclpy raises out of its own service.
            if rclpy.ok():
                node.get_logger().warning(f"refused: {' '.join(str(error).split())}")


def _end(node: MatcherNode) -> None:
    """Leave in order; where native code cannot be interrupted, leave all the same."""
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C
        idle = node.close(END_S)
        loading = any(thread.name == "l2m-loading" for thread in threading.enumerate())
        if idle and not loading:
            node.destroy_node()
            rclpy.try_shutdown()
            return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
