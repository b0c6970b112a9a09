"""Ends when a matcher has subscribed to every topic that is published: `ros2 bag play` may start.

    wait_until_listening --node /l2m /camera/image_raw /camera/camera_info /camera/depth

The first two topics must be published; the others (depth, right image, odometry) may be.
"""

from __future__ import annotations

import argparse
import sys
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible
from rclpy.utilities import remove_ros_args

LOOK_S = 0.1
SETTLED_S = 0.5  # so long nothing may be missing: topics of one player are discovered one by one
SUFFIXES = ("", "/compressed", "/compressedDepth")


def main(argv: list[str] | None = None) -> int:
    """0 = it listens; 1 = not within the time, said in words."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--node", default="/l2m", help="full name of the matcher")
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to wait")
    parser.add_argument("topics", nargs="+", metavar="TOPIC")
    argv = sys.argv if argv is None else argv
    args = parser.parse_args(remove_ros_args(argv)[1:])
    rclpy.init(args=argv)
    node = rclpy.create_node("l2m_wait")
    try:
        missing = wait(node, args.node, args.topics, args.seconds)
    except KeyboardInterrupt:
        return 130
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    if missing:
        print(f"l2m: not heard by {args.node} after {args.seconds:g} s: {', '.join(missing)}")
    return 1 if missing else 0


def wait(node: Node, matcher: str, topics: list[str], seconds: float) -> list[str]:
    """What is missing at the end; empty as soon as nothing was for a moment."""
    end_s, complete_s = time.monotonic() + seconds, None
    while True:
        missing, now_s = missing_topics(node, matcher, topics), time.monotonic()
        complete_s = None if missing else complete_s or now_s
        if complete_s is not None and now_s - complete_s >= SETTLED_S:
            return []
        if now_s > end_s:
            return missing
        time.sleep(LOOK_S)


def missing_topics(node: Node, matcher: str, topics: list[str]) -> list[str]:
    """Topics that are published and not heard, and the first two where nobody publishes them."""
    missing = []
    for number, topic in enumerate(map(node.resolve_topic_name, topics)):
        heard = [one for one in SUFFIXES if _is_heard(node, matcher, topic + one)]
        published = any(node.count_publishers(topic + one) for one in SUFFIXES)
        if not heard and (published or number < 2):
            missing.append(topic)
    return missing


def _is_heard(node: Node, matcher: str, topic: str) -> bool:
    """Whether the matcher subscribes with a quality of service that fits every publisher."""
    sent = node.get_publishers_info_by_topic(topic)
    heard = [
        one
        for one in node.get_subscriptions_info_by_topic(topic)
        if f"{one.node_namespace.rstrip('/')}/{one.node_name}" == matcher
    ]
    fits = (
        qos_check_compatible(out.qos_profile, into.qos_profile)[0] != QoSCompatibility.ERROR
        for out in sent
        for into in heard
    )
    return bool(sent and heard) and all(fits)


if __name__ == "__main__":
    sys.exit(main())
