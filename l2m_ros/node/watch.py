"""What comes in and what does not: publishers that come and go, topics missing, late, doubled or
lossy. Each is told by its name, with the remedy."""

from __future__ import annotations

import time
from dataclasses import replace

import rclpy.clock
from rclpy.lifecycle import LifecycleNode

from l2m_ros.frames.inputs import CAMERA_INFO, DEPTH, IMAGE, ODOM, RIGHT, TOPICS, Inputs
from l2m_ros.node.diagnostics import ERROR, Health
from l2m_ros.node.plan import OPTIONAL, Plan
from l2m_ros.node.subscriptions import LOSS_REMEDY, Subscriptions
from l2m_ros.node.worker import Worker

REVIEW_S = 0.1  # while an input is missing, and while topics of one driver are being discovered
REVIEWS_CALM = 10  # afterwards every so many of them
REVIEWS_EAGER = 20  # after a publisher came or went: its other topics follow
BACKLOG_TOLD = 100  # bundles waiting in a lossless queue before it is said
LOSS_TOLD_S = 10.0  # so long after the last loss it is still told


class InputWatch:
    """A timer of its own, in the executor's thread."""

    def __init__(
        self,
        node: LifecycleNode,
        subscriptions: Subscriptions,
        inputs: Inputs,
        worker: Worker,
        health: Health,
        plan: Plan,
    ) -> None:
        self._node, self._subscriptions, self._inputs = node, subscriptions, inputs
        self._worker, self._health, self.plan = worker, health, plan
        self.image_s = time.monotonic()  # when the last image came
        self._clock_ns = -1
        self._reviews = self._changed = 0
        self._known: list[list[str]] = []
        self._lost_before = 0
        self._lost_s = float("-inf")
        steady = rclpy.clock.Clock(clock_type=rclpy.clock.ClockType.STEADY_TIME)
        self._timer = node.create_timer(REVIEW_S, self._review, clock=steady)

    def stop(self) -> None:
        self._node.destroy_timer(self._timer)

    def _review(self) -> None:
        self._reviews += 1
        complete = all(self._subscriptions.publishers(key) for key in (IMAGE, CAMERA_INFO))
        settled = self._reviews - self._changed > REVIEWS_EAGER
        if complete and settled and self._reviews % REVIEWS_CALM:
            return
        self._subscriptions.review()
        known = [self._subscriptions.publishers(key) for key in TOPICS]
        if known != self._known:
            self._known, self._changed = known, self._reviews
        self._adapt()
        self._tell_missing()
        self._tell_sources()
        self._tell_losses()

    def _adapt(self) -> None:
        """Optional inputs that came or went."""
        published = {key: bool(self._subscriptions.publishers(key)) for key in OPTIONAL}
        used = [key for key in OPTIONAL if self.plan.uses(key, published=published[key])]
        options = replace(
            self._inputs.options,
            depth=DEPTH in used,
            right=RIGHT in used,
            odom=ODOM in used,
        )
        if options != self._inputs.options:
            self._inputs.reconfigure(options)
            self._health.set_facts(inputs=", ".join([IMAGE, *used]))

    def _tell_missing(self) -> None:
        note, subscriptions = self._health.note, self._subscriptions
        silent_s, paused = time.monotonic() - self.image_s, self._paused()
        topic = subscriptions.topic(IMAGE)
        if not subscriptions.publishers(IMAGE):
            note(
                "source",
                f"nobody publishes {topic}{self._candidates()}: start the camera, or remap image",
                ERROR,
            )
        elif silent_s > self.plan.stale_after_s and not paused:
            note("source", f"no image for {silent_s:.1f} s on {topic}: does the camera run?", ERROR)
        elif silent_s <= self.plan.stale_after_s:
            note("source", None)
        missing = self._inputs.missing()
        if CAMERA_INFO in missing and not subscriptions.publishers(CAMERA_INFO):
            missing[CAMERA_INFO] = (
                f"nobody publishes {subscriptions.topic(CAMERA_INFO)}: remap camera_info; "
                "without it there are no poses"
            )
        note("sync", "; ".join(missing.values()) or None, ERROR)

    def _candidates(self) -> str:
        """Topics of the right type, for whoever forgot to remap."""
        graph = self._node.get_topic_names_and_types()
        ours = self._node.get_fully_qualified_name()
        kind = "CompressedImage" if self.plan.compressed else "Image"
        found = [
            name
            for name, types in graph
            if f"sensor_msgs/msg/{kind}" in types and not name.startswith(ours + "/")
        ]
        found = [name for name in found if self._node.count_publishers(name)]
        return f" (there is {', '.join(found[:3])})" if found else ""

    def _paused(self) -> bool:
        """Simulated time that stands still: a paused bag, nothing to complain about."""
        if not self._node.get_parameter("use_sim_time").value:
            return False
        now_ns = self._node.get_clock().now().nanoseconds
        stands, self._clock_ns = now_ns == self._clock_ns, now_ns
        self._health.set_facts(clock="paused" if stands else "running")
        return stands

    def _tell_sources(self) -> None:
        words = [
            f"{len(who)} publishers on {self._subscriptions.topic(key)} ({', '.join(who)}): two "
            "cameras on one topic give nonsense; remap one (after a crash this ends by itself)"
            for key in (IMAGE, CAMERA_INFO, DEPTH)
            if len(who := self._subscriptions.publishers(key)) > 1
        ]
        self._health.note("publishers", "; ".join(words) or None)

    def _tell_losses(self) -> None:
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
            health.note("loss", f"{lost} images lost on the way: {LOSS_REMEDY}")
        elif now_s - self._lost_s > LOSS_TOLD_S:
            health.note("loss", None)
        behind = self._worker.backlog
        words = f"{behind} frames wait (queue: all): play the bag slower (--rate)"
        health.note("queue", words if behind > BACKLOG_TOLD else None)
