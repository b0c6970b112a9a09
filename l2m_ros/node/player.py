"""Plays a bag into the ROS graph at its own pace: what `ros2 bag play` does, where that is not
installed. Messages go out as they were recorded, byte for byte."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from l2m_ros.bags.reader import open_bag
from l2m_ros.frames.messages import message_class


class Player:
    """Creates its publishers at once, so that subscribers find them before the first message."""

    def __init__(self, node: Node, path: Path, topics: Iterable[str]) -> None:
        self._path = path
        with open_bag(path) as bag:
            types = {topic: bag.types[topic].replace("/msg/", "/") for topic in topics}
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._publishers = {
            topic: node.create_publisher(message_class(kind), topic, qos)
            for topic, kind in types.items()
        }

    def unsubscribed(self) -> list[str]:
        """Topics without a subscriber."""
        publishers = self._publishers.items()
        return [topic for topic, out in publishers if not out.get_subscription_count()]

    def play(self, rate: float = 1.0, after_each: Callable[[int], None] | None = None) -> None:
        """Blocks until the last message is sent; calls after_each(stamp_ns) after each message.

        While after_each waits the recording stands still: what follows is as much later.
        """
        with open_bag(self._path) as bag:
            first_ns, started_s = None, time.monotonic()
            for topic, stamp_ns, raw in bag.raw_messages(list(self._publishers)):
                first_ns = stamp_ns if first_ns is None else first_ns
                due_s = started_s + (stamp_ns - first_ns) * 1e-9 / rate
                time.sleep(max(0.0, due_s - time.monotonic()))
                self._publishers[topic].publish(bytes(raw))
                if after_each is not None:
                    sent_s = time.monotonic()
                    after_each(stamp_ns)
                    started_s += time.monotonic() - sent_s
