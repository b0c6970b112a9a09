"""Messages of several topics that belong together, by their stamps.

Two that do the same: `Synchroniser` (here, deterministic) and `FilterSynchroniser` (message_filters
where it is installed). The first topic leads: a set is complete when each other topic has a message
within the slop of it.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from l2m_ros.frames.messages import stamp_ns

MessageSet = dict[str, Any]  # message by topic


class Synchronising(Protocol):
    topics: tuple[str, ...]

    def add(self, topic: str, message: Any) -> list[MessageSet]:
        """Store a message; the sets that it completed, in the leader's order."""
        ...

    def forget(self, before_ns: int) -> None:
        """Time jumped back to this stamp: what lies after it is of no use any more."""
        ...


class Synchroniser:
    """Leader by leader, in order; `patient` waits until no closer partner can come.

    Not patient, a partner within the slop is taken at once (low latency); patient, the outcome does
    not depend on the order in which topics arrive (replays).
    """

    def __init__(
        self, topics: Sequence[str], *, slop_ns: int, patient: bool = False, limit: int = 10
    ) -> None:
        self.topics = tuple(topics)
        self._slop_ns = slop_ns
        self._patient = patient
        self._limit = limit
        self._queues: dict[str, deque[tuple[int, Any]]] = {topic: deque() for topic in topics}

    def add(self, topic: str, message: Any) -> list[MessageSet]:
        queue = self._queues[topic]
        queue.append((stamp_ns(message), message))
        if len(queue) > self._limit:
            queue.popleft()
        sets = []
        leaders = self._queues[self.topics[0]]
        while leaders:
            partners = self._partners(leaders[0][0])
            if partners is None:
                break
            _, leader = leaders.popleft()
            if len(partners) == len(self.topics) - 1:
                sets.append({self.topics[0]: leader} | self._take(partners))
        return sets

    def forget(self, before_ns: int) -> None:
        for topic, queue in self._queues.items():
            kept = [entry for entry in queue if entry[0] <= before_ns + self._slop_ns]
            self._queues[topic] = deque(kept if topic != self.topics[0] else [])

    def _partners(self, stamp: int) -> dict[str, int] | None:
        """Stamp of the partner by topic; None = wait; fewer than topics = none will come."""
        partners = {}
        waiting = False
        for topic in self.topics[1:]:
            stamps = [s for s, _ in self._queues[topic]]
            passed = bool(stamps) and stamps[-1] >= stamp
            best = min(stamps, key=lambda s: abs(s - stamp), default=None)
            if best is None or abs(best - stamp) > self._slop_ns:
                if passed:
                    return {}
                waiting = True
            elif self._patient and not passed:
                waiting = True
            else:
                partners[topic] = best
        return None if waiting else partners

    def _take(self, partners: dict[str, int]) -> MessageSet:
        taken = {}
        for topic, stamp in partners.items():
            queue = self._queues[topic]
            taken[topic] = next(message for s, message in queue if s == stamp)
            self._queues[topic] = deque(entry for entry in queue if entry[0] > stamp)
        return taken


class FilterSynchroniser:
    """The same by ROS's message_filters."""

    def __init__(self, topics: Sequence[str], *, slop_ns: int, limit: int = 10) -> None:
        self.topics = tuple(topics)
        self._slop_ns = slop_ns
        self._limit = limit
        self._connect()

    def _connect(self) -> None:
        mf = importlib.import_module("message_filters")
        self._complete: list[tuple[Any, ...]] = []
        self._filters = {topic: mf.SimpleFilter() for topic in self.topics}
        inputs = list(self._filters.values())
        if self._slop_ns:
            self._joint = mf.ApproximateTimeSynchronizer(inputs, self._limit, self._slop_ns * 1e-9)
        else:
            self._joint = mf.TimeSynchronizer(inputs, self._limit)
        # Its callback runs under its lock, which it loses on an exception: store and return.
        self._joint.registerCallback(lambda *messages: self._complete.append(messages))

    def add(self, topic: str, message: Any) -> list[MessageSet]:
        self._filters[topic].signalMessage(message)
        complete, self._complete[:] = list(self._complete), []
        return [dict(zip(self.topics, messages, strict=True)) for messages in complete]

    def forget(self, before_ns: int) -> None:
        self._connect()


def make_synchroniser(topics: Sequence[str], *, slop_ns: int, lossless: bool) -> Synchronising:
    """The one for this machine; lossless ones are deterministic, which message_filters is not."""
    if lossless:
        return Synchroniser(topics, slop_ns=slop_ns, patient=True, limit=1000)
    if len(topics) > 1 and has_message_filters():
        return FilterSynchroniser(topics, slop_ns=slop_ns)
    return Synchroniser(topics, slop_ns=slop_ns)


def has_message_filters() -> bool:
    try:
        return hasattr(importlib.import_module("message_filters"), "SimpleFilter")
    except ImportError:
        return False
