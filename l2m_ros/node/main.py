"""`ros2 run l2m_ros matcher` and `l2m run`: the node in a process of its own.

Signals set a flag. rclpy's own handlers raise KeyboardInterrupt wherever the code happens to be;
inside its C++ that becomes a RuntimeError with a traceback (one SIGINT in three did).
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from l2m_ros.errors import InvalidInput, L2MError
from l2m_ros.node.loading import limit_memory_pools
from l2m_ros.node.node import MatcherNode

USAGE = """usage: matcher [--ros-args -p parameter:=value -r topic:=other --params-file FILE ...]

Matches camera images against keyframes and publishes poses and correspondences.
Inputs: image, camera_info, depth, right/image, right/camera_info, odom.
All parameters: docs/parameters.md, or `ros2 param describe /l2m NAME`.
Usually started by: ros2 launch l2m_ros matcher.launch.py"""
REFUSALS = (_rclpy.RCLInvalidROSArgsError, _rclpy.UnknownROSArgsError, _rclpy.RCLError)

LOOK_S = 0.2  # how often the flag is checked while no message comes
END_S = 1.0  # for the frame at hand
FORCED_END_S = 1.7  # SIGINT and SIGTERM end the process within 2 s, whatever the model does


def main(args: list[str] | None = None) -> int:
    """0 after SIGINT or SIGTERM; 2 where ROS refuses the arguments."""
    limit_memory_pools()
    ending = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: _begin_end(ending))
    try:
        rest = own_arguments(sys.argv if args is None else args)
        if rest is not None:
            print(rest)
            return 0
        check_domain()
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = MatcherNode(ending=ending)
    except (L2MError, ParameterException, *REFUSALS) as error:
        print(f"l2m: {in_words(error)}", file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    _spin(executor, node, ending)
    # A second Ctrl-C (a terminal sends it to every process) would interrupt Python's own end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    idle = node.close(END_S)
    if not idle or any(thread.name == "l2m-loading" for thread in threading.enumerate()):
        _leave()
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def own_arguments(argv: list[str]) -> str | None:
    """The help if it is asked for; refuses what is no ROS argument."""
    for one in remove_ros_args(argv)[1:]:
        if one in ("-h", "--help"):
            return USAGE
        raise InvalidInput(f"unknown argument {one!r} (see --help)")
    return None


def check_domain() -> None:
    """DDS computes ports from it and ends the process where they do not exist."""
    domain = os.environ.get("ROS_DOMAIN_ID", "").strip()
    if domain and not (domain.isdigit() and int(domain) <= 232):
        raise InvalidInput(f"ROS_DOMAIN_ID is {domain!r}: it is a number from 0 to 232")


def in_words(error: BaseException) -> str:
    """One line, with the remedy where the cause is known."""
    words = re.sub(r",? at /\S+:\d+", "", " ".join(str(error).split()))  # where in rcl's sources
    if isinstance(error, _rclpy.UnknownROSArgsError):
        words = f"no ROS arguments: {words.strip('[]')} (see --help, before --ros-args)"
    if "log" in words and "director" in words:
        words = f"{words}; set ROS_LOG_DIR (or HOME) to a folder that may be written"
    return words


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
    """End the process although native code is still running and cannot be interrupted."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
