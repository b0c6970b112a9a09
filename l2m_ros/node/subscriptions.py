"""Subscribes with the quality of service that the publishers offer.

What a frame needs (image, camera_info, and what a parameter demands) is subscribed to from
activation on, reliably: best-effort images over 512 KB are mostly lost in Fast DDS's default
shared memory (measured at 640x480: 2 to 20 of 100 arrive; reliable: 100). Other inputs are
subscribed to when somebody publishes them, so that a subscription means: this input is used.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy.qos as rq
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import LifecycleNode

try:  # Iron and newer
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.inputs import Report
from l2m_ros.frames.messages import message_class
from l2m_ros.node.fastdds import PROFILE_VARIABLES

AUTO = "auto"
LOSSLESS_DEPTH = 1000
# What to do about images that DDS loses; the sender's process needs the same setting.
LOSS_REMEDY = (
    "best-effort images do not fit Fast DDS's default shared memory (512 KB): let the driver "
    f"publish reliably, or start driver AND node with {PROFILE_VARIABLES[0]}="
    "<share/l2m_ros>/config/fastdds_large_images.xml"
)


@dataclass(frozen=True)
class TopicRequest:
    """A topic to subscribe to."""

    key: str  # of inputs.TOPICS
    type: str  # sensor_msgs/Image
    topic: str  # full name
    depth: int
    needed: bool = True  # False: only once somebody publishes it


@dataclass
class _OpenSubscription:
    subscription: Any
    qos: Any
    lost: int = 0


class Subscriptions:
    """Call `open` once, and `update` often while a topic is missing; it costs about 0.1 ms a topic.

    on_message(key, message) is called in the executor's thread.
    """

    def __init__(
        self,
        node: LifecycleNode,
        requests: list[TopicRequest],
        on_message: Callable[[str, Any], None],
        report: Report,
    ) -> None:
        self._node = node
        self._requests = {request.key: request for request in requests}
        self._on_message = on_message
        self._report = report
        self._open: dict[str, _OpenSubscription] = {}
        self._offers: dict[str, list[Any]] = {key: [] for key in self._requests}
        for request in requests:
            declare_overrides(node, request.topic)

    def open(self) -> None:
        """Subscribe to what is needed; callbacks may come from now on."""
        for request in self._requests.values():
            if request.needed:
                self._match_publishers(request, [])

    def update(self) -> None:
        """Find the publishers, subscribe with their QoS, report what does not fit."""
        qos_words: list[str] = []
        for key, request in self._requests.items():
            offers = self._node.get_publishers_info_by_topic(request.topic)
            self._offers[key] = offers
            ours = [offer for offer in offers if _same_type(offer.topic_type, request.type)]
            if ours:
                self._match_publishers(request, ours)
            qos_words += self._qos_problems(request, offers)
        self._report("qos", "; ".join(qos_words) or None)

    def publishers(self, key: str) -> list[str]:
        """Full names of the nodes that publish a topic."""
        return [_name(offer) for offer in self._offers.get(key, [])]

    def topic(self, key: str) -> str:
        return self._requests[key].topic

    def lost(self, key: str) -> int:
        """How many messages DDS reports as lost."""
        return self._open[key].lost if key in self._open else 0

    def is_reliable(self, key: str) -> bool:
        """Where it is, losses come from this node being busy: it would have dropped them itself."""
        opened = self._open.get(key)
        return opened is None or opened.qos.reliability == rq.ReliabilityPolicy.RELIABLE

    def _match_publishers(self, request: TopicRequest, offers: list[Any]) -> None:
        qos = self._qos(request, offers)
        now = self._open.get(request.key)
        if now is not None and _policies(now.qos) == _policies(qos):
            return
        if now is not None:
            self._node.destroy_subscription(now.subscription)
        opened = _OpenSubscription(None, qos, now.lost if now else 0)
        opened.subscription = self._subscribe(request, opened)
        self._open[request.key] = opened

    def _subscribe(self, request: TopicRequest, opened: _OpenSubscription) -> Any:
        def lost(event: Any) -> None:
            opened.lost += event.total_count_change

        on_message = functools.partial(self._on_message, request.key)
        kind = message_class(request.type)
        try:
            # What does not fit is replaced by the next `update`, or reported by it.
            events = SubscriptionEventCallbacks(message_lost=lost, incompatible_qos=_ignore)
            return self._node.create_subscription(
                kind, request.topic, on_message, opened.qos, event_callbacks=events
            )
        except UnsupportedEventTypeError:  # not every middleware counts what it loses
            return self._node.create_subscription(kind, request.topic, on_message, opened.qos)

    def _qos(self, request: TopicRequest, offers: list[Any]) -> Any:
        overrides = {name: self._override(request.topic, name) for name in OVERRIDES}
        profiles = [offer.qos_profile for offer in offers]
        reliable = all(p.reliability == rq.ReliabilityPolicy.RELIABLE for p in profiles)
        latched = bool(profiles) and all(
            p.durability == rq.DurabilityPolicy.TRANSIENT_LOCAL for p in profiles
        )
        reliability = rq.ReliabilityPolicy["RELIABLE" if reliable else "BEST_EFFORT"]
        durability = rq.DurabilityPolicy["TRANSIENT_LOCAL" if latched else "VOLATILE"]
        if overrides["reliability"] != AUTO:
            reliability = rq.ReliabilityPolicy[str(overrides["reliability"]).upper()]
        if overrides["durability"] != AUTO:
            durability = rq.DurabilityPolicy[str(overrides["durability"]).upper()]
        depth = int(overrides["depth"]) or request.depth
        return rq.QoSProfile(depth=depth, reliability=reliability, durability=durability)

    def _override(self, topic: str, policy: str) -> Any:
        return self._node.get_parameter(override_name(topic, policy)).value

    def _qos_problems(self, request: TopicRequest, offers: list[Any]) -> list[str]:
        words = []
        for offer in offers:
            who = _name(offer)
            if not _same_type(offer.topic_type, request.type):
                words.append(_wrong_type(request, who, offer.topic_type))
                continue
            if request.key not in self._open:
                continue
            compatible, why = rq.qos_check_compatible(
                offer.qos_profile, self._open[request.key].qos
            )
            if compatible == rq.QoSCompatibility.ERROR:
                words.append(
                    f"nothing of {who} arrives on {request.topic}: its quality of service does not "
                    f"fit ({' '.join(why.split())}); change qos_overrides.{request.topic}"
                    ".subscription.*, or the publisher"
                )
        return words

    def destroy(self) -> None:
        for opened in self._open.values():
            self._node.destroy_subscription(opened.subscription)
        self._open.clear()


def _ignore(event: Any) -> None:
    """rclpy's own callback would log each best-effort driver as incompatible."""


def _name(offer: Any) -> str:
    """Full name of the publishing node; DDS may discover the topic before the node's name."""
    if "UNKNOWN" in offer.node_name:
        return "a node not yet known by name"
    return f"{offer.node_namespace.rstrip('/')}/{offer.node_name}"


def _policies(qos: Any) -> tuple[Any, ...]:
    return qos.reliability, qos.durability, qos.depth


def _same_type(offered: str, requested: str) -> bool:
    return offered.replace("/msg/", "/") == requested


def _wrong_type(request: TopicRequest, who: str, offered: str) -> str:
    hint = "remap it"
    if offered.endswith("CompressedImage"):
        hint = "set image_transport: compressed and remap image to the topic without /compressed"
    return f"{who} publishes {offered} on {request.topic}, {request.type} is needed: {hint}"


OVERRIDES: dict[str, Any] = {"reliability": AUTO, "durability": AUTO, "depth": 0}
_CHOICES = {
    "reliability": (AUTO, "reliable", "best_effort"),
    "durability": (AUTO, "volatile", "transient_local"),
}


def override_name(topic: str, policy: str) -> str:
    return f"qos_overrides.{topic}.subscription.{policy}"


def declare_overrides(node: LifecycleNode, topic: str) -> None:
    """The standard names of QoS overrides, with one value more: auto.

    rclpy's own QoSOverridingOptions would fix the first publisher's offer for ever.
    """
    for policy, default in OVERRIDES.items():
        name = override_name(topic, policy)
        if not node.has_parameter(name):
            words = f"{policy} of the subscription to {topic}; {default} = as the publisher offers"
            descriptor = ParameterDescriptor(description=words, read_only=True)
            try:
                node.declare_parameter(name, default, descriptor)
            except (InvalidParameterTypeException, InvalidParameterValueException) as error:
                raise InvalidInput(f"{name}: {' '.join(str(error).split())}") from error
        value = node.get_parameter(name).value
        if policy in _CHOICES and str(value).lower() not in _CHOICES[policy]:
            raise InvalidInput(f"{name} is {value!r}; known: {', '.join(_CHOICES[policy])}")
