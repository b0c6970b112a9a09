"""`ros2 run l2m_ros matcher` and `l2m run`: the node in a process of its own.

Signals set a flag. rclpy's own handlers raise KeyboardInterrupt wherever the code happens to be;
inside its C++ that becomes a RuntimeError with a traceback (one SIGINT in three did).
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.signals import SignalHandlerOptions

from l2m_ros.node.node import MatcherNode

LOOK_S = 0.2  # how often the flag is looked at while no message comes
END_S = 1.0  # for the frame at hand
FORCED_END_S = 1.7  # SIGINT and SIGTERM end within 2 s, whatever the model is at


def main(args: list[str] | None = None) -> int:
    """0 after SIGINT or SIGTERM; 2 where ROS refuses the arguments."""
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _begin_end(ending))
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except (_rclpy.RCLInvalidROSArgsError, _rclpy.UnknownROSArgsError, _rclpy.RCLError) as error:
        words = " ".join(str(error).split())
        hint = "; set ROS_LOG_DIR to a folder that may be written" if "log dir" in words else ""
        print(f"l2m: {words}{hint}", file=sys.stderr)
        return 2
    node = MatcherNode(ending=ending)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    _spin(executor, node, ending)
    idle = node.close(END_S)
    if not idle or any(thread.name == "l2m-loading" for thread in threading.enumerate()):
        _leave()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor, node: MatcherNode, ending: threading.Event) -> None:
    while rclpy.ok() and not ending.is_set():
        try:
            executor.spin_once(timeout_sec=LOOK_S)
        except ExternalShutdownException:
            return
        except _rclpy.RCLError as error:
            # `activate` asked of an active node, for one: rclpy raises out of its own service.
            node.get_logger().warning(f"refused: {' '.join(str(error).split())}")


def _begin_end(ending: threading.Event) -> None:
    if not ending.is_set():
        ending.set()
        watchdog = threading.Timer(FORCED_END_S, _leave)
        watchdog.daemon = True
        watchdog.start()


def _leave() -> None:
    """End although native code is still at work and cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
