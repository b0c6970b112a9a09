"""The publishers of the node: each output is computed only while somebody listens."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

from l2m_ros.frames.messages import message_class
from l2m_ros.frames.outputs import OUTPUTS, Moment, Output
from l2m_ros.types import Correspondences


class Publishers:
    """All outputs of a node; made in configure, destroyed in cleanup."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._publishers = {name: self._make(name, output) for name, output in OUTPUTS.items()}
        self._keyframe: int | None = None

    def _make(self, name: str, output: Output) -> Any:
        # Reliable is what every subscriber can take; a best-effort reader gets it too.
        qos = QoSProfile(depth=output.depth, reliability=ReliabilityPolicy.RELIABLE)
        if output.latched:
            qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
        overriding = QoSOverridingOptions.with_default_policies()
        return self._node.create_lifecycle_publisher(
            message_class(output.type), f"~/{name}", qos, qos_overriding_options=overriding
        )

    def publish(self, moment: Moment) -> None:
        """Everything that somebody listens to."""
        for name, output in OUTPUTS.items():
            if not self.listened(name) or (output.latched and not self._keyframe_is_new(moment)):
                continue
            message = output.make(moment)
            if message is not None:
                self._publishers[name].publish(message)
                if output.latched:
                    self._keyframe = self._id(moment)

    def listened(self, name: str) -> bool:
        return bool(self._publishers[name].get_subscription_count())

    def in_vain(self, moment: Moment) -> list[str]:
        """Topics that somebody listens to but that a sparse matcher cannot fill."""
        if not isinstance(moment.result.match, Correspondences):
            return []
        return [name for name, output in OUTPUTS.items() if output.dense and self.listened(name)]

    def _keyframe_is_new(self, moment: Moment) -> bool:
        return self._id(moment) not in (None, self._keyframe)

    @staticmethod
    def _id(moment: Moment) -> int | None:
        kept = moment.result.keyframe
        return None if kept is None else hash((kept.id, kept.frame.stamp_ns))

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()
