"""The publishers of the node: each output is computed only while somebody listens."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from l2m_ros.frames.messages import message_class
from l2m_ros.frames.outputs import OUTPUTS, FrameResult, Output
from l2m_ros.types import Correspondences


class Publishers:
    """All outputs of a node; made in configure, destroyed in cleanup."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publishers = {name: self._make(name, output) for name, output in OUTPUTS.items()}
        self._keyframe: int | None = None

    def _make(self, name: str, output: Output) -> Any:
        # Reliable serves every subscriber: reliable and best-effort ones.
        qos = QoSProfile(depth=output.depth, reliability=ReliabilityPolicy.RELIABLE)
        if output.latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        overriding = QoSOverridingOptions.with_default_policies()
        return self._node.create_lifecycle_publisher(
            message_class(output.type), f"~/{name}", qos, qos_overriding_options=overriding
        )

    def publish(self, tracked: FrameResult) -> None:
        """Compute and publish each output that has a subscriber."""
        for name, output in OUTPUTS.items():
            if not self.has_subscribers(name) or (
                output.per_keyframe and not self._keyframe_is_new(tracked)
            ):
                continue
            made = output.make(tracked)
            for message in made if isinstance(made, tuple) else (made,):
                if message is not None:
                    self._publishers[name].publish(message)
                    if output.per_keyframe:
                        self._keyframe = self._id(tracked)

    def has_subscribers(self, name: str) -> bool:
        """Whether to compute an output; latched events are for subscribers still to come, too."""
        output = OUTPUTS[name]
        kept_for_later = output.latched and not output.per_keyframe
        return kept_for_later or bool(self._publishers[name].get_subscription_count())

    def unsupported_outputs(self, tracked: FrameResult) -> str | None:
        """A problem for the diagnostics: subscribed topics that a sparse matcher cannot fill."""
        if not isinstance(tracked.result.match, Correspondences):
            return None
        names = [n for n, output in OUTPUTS.items() if output.dense and self.has_subscribers(n)]
        return f"~/{', ~/'.join(names)} need a dense matcher: set model: lite" if names else None

    def _keyframe_is_new(self, tracked: FrameResult) -> bool:
        return self._id(tracked) not in (None, self._keyframe)

    @staticmethod
    def _id(tracked: FrameResult) -> int | None:
        kept = tracked.result.keyframe
        return None if kept is None else hash((kept.id, kept.frame.stamp_ns))

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
