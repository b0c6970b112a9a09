"""Watches the inputs: publishers that come and go; topics that are missing, late, published twice
or losing messages. Each problem is reported with the topic's name and the remedy."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import rclpy.clock
from rclpy.lifecycle import LifecycleNode

from l2m_ros.frames.inputs import CAMERA_INFO, DEPTH, IMAGE, ODOM, RIGHT, TOPICS, Inputs
from l2m_ros.node.config import OPTIONAL, NodeConfig
from l2m_ros.node.diagnostics import ERROR, Health
from l2m_ros.node.subscriptions import LOSS_REMEDY, Subscriptions
from l2m_ros.node.worker import Worker

CHECK_PERIOD_S = 0.1  # while an input is missing, and while a driver's topics are being discovered
CHECKS_SKIPPED = 10  # once all inputs are there, only every 10th check is made
CHECKS_AFTER_CHANGE = 20  # after a publisher came or went its other topics follow: none skipped
BACKLOG_WARNING = 100  # bundles waiting in a lossless queue before it is reported
LOSS_WARNING_S = 10.0  # how long a loss stays in the diagnostics


RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def _is_output(topic: str, graph: dict[str, Any]) -> bool:
    """Whether a matcher publishes it: this one, or another robot's."""
    node = topic.rpartition("/")[0]
    return f"{node}/relative" in graph and f"{node}/correspondences" in graph


def _images(published: dict[str, Any], kind: str) -> list[str]:
    """Topics of that type; those of depth last, as nobody remaps image to one."""
    found = sorted(name for name, types in published.items() if kind in types)
    return sorted(found, key=lambda name: "depth" in name.lower())


class InputMonitor:
    """Runs on a timer in the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        subscriptions: Subscriptions,
        inputs: Inputs,
        worker: Worker,
        health: Health,
        config: NodeConfig,
    ) -> None:
        self._node, self._subscriptions, self._inputs = node, subscriptions, inputs
        self._worker, self._health, self.config = worker, health, config
        self.image_s = time.monotonic()  # when the last image came
        self._clock_ns = -1
        self._checks = self._changed_at = 0
        self._publishers: list[list[str]] = []
        self._lost_before = self._overflowed_before = 0
        self._lost_s = float("-inf")
        steady = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        self._timer: Any = node.create_timer(CHECK_PERIOD_S, self._check, clock=steady)

    def image_arrived(self, received_s: float) -> None:
        """The first image of a driver may come before the timer looks for its other topics."""
        self.image_s = received_s
        if not self._subscriptions.publishers(IMAGE):
            self._check()

    def stop(self) -> None:
        """Nothing is expected any more, so that nothing is missing either."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        self._health.drop("source", "sync", "publishers", "loss", "queue", "qos")

    def _check(self) -> None:
        self._checks += 1
        complete = all(self._subscriptions.publishers(key) for key in (IMAGE, CAMERA_INFO))
        settled = self._checks - self._changed_at > CHECKS_AFTER_CHANGE
        if complete and settled and self._checks % CHECKS_SKIPPED:
            return
        self._subscriptions.update()
        publishers = [self._subscriptions.publishers(key) for key in TOPICS]
        if publishers != self._publishers:
            self._publishers, self._changed_at = publishers, self._checks
        self._use_published_inputs()
        self._report_missing()
        self._report_duplicates()
        self._report_losses()

    def _use_published_inputs(self) -> None:
        """Take up optional inputs that somebody publishes now; leave out those that ended."""
        published = {key: bool(self._subscriptions.publishers(key)) for key in OPTIONAL}
        used = [key for key in OPTIONAL if self.config.uses(key, published=published[key])]
        options = replace(
            self._inputs.options,
            depth=DEPTH in used,
            right=RIGHT in used,
            odom=ODOM in used,
        )
        if options != self._inputs.options:
            self._inputs.reconfigure(options)
            self._health.set_facts(inputs=", ".join([IMAGE, *used]))

    def _report_missing(self) -> None:
        report, subscriptions = self._health.report, self._subscriptions
        silent_s, paused = time.monotonic() - self.image_s, self._paused()
        topic = subscriptions.topic(IMAGE)
        if not subscriptions.publishers(IMAGE) and silent_s < self.config.stale_after_s:
            report("source", None)  # discovery takes a moment
        elif not subscriptions.publishers(IMAGE):
            hint = self._similar_topics()
            words = f"nobody publishes {topic}{hint}: start the camera, or remap image"
            report("source", words, ERROR)
        elif silent_s > self.config.stale_after_s and not paused:
            report(
                "source", f"no image for {silent_s:.1f} s on {topic}: does the camera run?", ERROR
            )
        elif silent_s <= self.config.stale_after_s:
            report("source", None)
        missing = self._inputs.missing()
        if CAMERA_INFO in missing and not subscriptions.publishers(CAMERA_INFO):
            missing[CAMERA_INFO] = (
                f"nobody publishes {subscriptions.topic(CAMERA_INFO)}: remap camera_info; "
                "without it there are no poses"
            )
        report("sync", "; ".join(missing.values()) or None, ERROR)

    def _similar_topics(self) -> str:
        """Published topics of the right type, as a hint for a missing remapping."""
        graph = dict(self._node.get_topic_names_and_types())
        published = {
            name: types
            for name, types in graph.items()
            if not _is_output(name, graph) and self._node.count_publishers(name)
        }
        wanted = self._subscriptions.topic(IMAGE)
        packed = f"{wanted}/compressed"
        if not self.config.compressed and COMPRESSED in published.get(packed, ()):
            return f" (there is {packed}: set image_transport: compressed)"
        kind, other = (COMPRESSED, RAW) if self.config.compressed else (RAW, COMPRESSED)
        found = _images(published, kind)
        if found:
            return f" (there is {', '.join(found[:3])})"
        found = _images(published, other)
        transport = "raw" if self.config.compressed else "compressed"
        return f" (there is {found[0]}: set image_transport: {transport})" if found else ""

    def _paused(self) -> bool:
        """Whether simulated time stands still (a paused bag): then silence is no problem."""
        if not self._node.get_parameter("use_sim_time").value:
            return False
        now_ns = self._node.get_clock().now().nanoseconds
        paused, self._clock_ns = now_ns == self._clock_ns, now_ns
        self._health.set_facts(clock="paused" if paused else "running")
        return paused

    def _report_duplicates(self) -> None:
        words = [
            f"{len(who)} publishers on {self._subscriptions.topic(key)} ({', '.join(who)}): two "
            "cameras on one topic give nonsense; remap one (after a crash this ends by itself)"
            for key in (IMAGE, CAMERA_INFO, DEPTH)
            if len(who := self._subscriptions.publishers(key)) > 1
        ]
        self._health.report("publishers", "; ".join(words) or None)

    def _report_losses(self) -> None:
        health, now_s = self._health, time.monotonic()
        images = (IMAGE, DEPTH, RIGHT)
        lost = sum(self._subscriptions.lost(k) for k in images)
        avoidable = any(not self._subscriptions.is_reliable(k) for k in images)
        health.set_facts(queue=f"{self._worker.backlog} waiting")
        health.counts["lost_by_dds"] = lost
        health.counts["dropped_busy"] = self._worker.dropped
        health.counts["unpaired"] = self._inputs.unpaired
        health.counts["refused_stamps"] = self._inputs.refused
        if lost > self._lost_before and avoidable:
            self._lost_before, self._lost_s = lost, now_s
            health.report("loss", f"{lost} images lost on the way: {LOSS_REMEDY}")
        elif now_s - self._lost_s > LOSS_WARNING_S:
            health.report("loss", None)
        self._report_backlog()

    def _report_backlog(self) -> None:
        behind, overflowed = self._worker.backlog, self._worker.overflowed
        self._health.counts["dropped_full"] = overflowed
        if overflowed > self._overflowed_before:
            words = f"queue: all is full (queue_mb): {overflowed} images dropped; play slower"
            self._health.report("queue", words, ERROR)
        elif behind > BACKLOG_WARNING:
            words = f"{behind} frames wait (queue: all): play the bag slower (--rate)"
            self._health.report("queue", words)
        else:
            self._health.report("queue", None)
        self._overflowed_before = overflowed
