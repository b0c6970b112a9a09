"""Joins messages of several topics by their stamps.

The first topic leads: a set is complete when each other topic has a message within the slop of the
leader's stamp. Sets come out in the leader's order. A leader is given up only when a later one is
complete (or too many wait), never because of a stamp that another topic shows: one wrong stamp
costs one set at most. ROS's message_filters is not used: its queues delete their smallest stamps
first, so that a stamp in the future stays for ever and ten of them end all matching.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Sequence
from typing import Any

from l2m_ros.frames.messages import stamp_ns

MessageSet = dict[str, Any]  # message by topic
LIVE_LIMIT, LOSSLESS_LIMIT = 10, 1000  # messages that wait in each topic ...
MAX_BYTES = 2**30  # ... and what they take: 1000 of Full HD have 6 GB


class _Waiting:
    """The messages of one topic that wait, by stamp; the oldest arrival leaves when they are too
    many or take too much memory, whatever its stamp."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        self._bytes = 0
        self._keys: list[tuple[int, int]] = []  # (stamp, number of arrival), sorted
        self._messages: dict[tuple[int, int], Any] = {}
        self._arrivals: deque[tuple[int, int]] = deque()
        self._count = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, stamp: int, message: Any) -> int:
        """How many messages were dropped for it."""
        key = (stamp, self._count)
        self._count += 1
        bisect.insort(self._keys, key)
        self._messages[key] = message
        self._bytes += bytes_of(message)
        self._arrivals.append(key)
        left = 0
        while self._is_full():
            left += self._remove(self._arrivals.popleft())
        return left

    def _is_full(self) -> bool:
        waiting = len(self._keys)
        return waiting > self._limit or (waiting > 1 and self._bytes > self._max_bytes)

    def stamps(self) -> list[int]:
        return [stamp for stamp, _ in self._keys]

    def newest(self) -> int | None:
        return self._keys[-1][0] if self._keys else None

    def nearest(self, stamp: int, slop_ns: int) -> int | None:
        """The stamp nearest to this one, within the slop."""
        here = bisect.bisect_left(self._keys, (stamp, -1))
        near = [key[0] for key in self._keys[max(here - 1, 0) : here + 1]]
        best = min(near, key=lambda s: abs(s - stamp), default=None)
        return best if best is not None and abs(best - stamp) <= slop_ns else None

    def take(self, stamp: int) -> Any:
        """The first message of that stamp; it and all before it are gone."""
        here = bisect.bisect_left(self._keys, (stamp, -1))
        message = self._messages[self._keys[here]]
        self.drop(lambda s: s <= stamp)
        return message

    def drop(self, unwanted: Any) -> None:
        for key in [key for key in self._keys if unwanted(key[0])]:
            self._remove(key)
        self._arrivals = deque(key for key in self._arrivals if key in self._messages)

    def _remove(self, key: tuple[int, int]) -> int:
        message = self._messages.pop(key, None)
        if message is None:
            return 0
        self._bytes -= bytes_of(message)
        del self._keys[bisect.bisect_left(self._keys, key)]
        return 1


class Synchroniser:
    """Leader by leader, in order; `patient` waits until no closer partner can come.

    Not patient, a partner within the slop is taken at once (low latency); patient, the outcome does
    not depend on the order in which topics arrive (replays). `unpaired` counts leaders given up.
    """

    def __init__(
        self,
        topics: Sequence[str],
        *,
        slop_ns: int,
        patient: bool = False,
        limit: int = LIVE_LIMIT,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.topics = tuple(topics)
        self.unpaired = 0
        self._slop_ns = slop_ns
        self._patient = patient
        self._waiting = {topic: _Waiting(limit, max_bytes) for topic in topics}

    def add(self, topic: str, message: Any) -> list[MessageSet]:
        """Store a message; the sets that it completed, in the leader's order."""
        stamp = stamp_ns(message)
        left = self._waiting[topic].add(stamp, message)
        leads = topic == self.topics[0]
        self.unpaired += left if leads else 0
        leaders = self._waiting[self.topics[0]]
        sets = []
        for leader in [stamp] if leads else leaders.stamps():
            partners = self._partners(leader)
            if partners is not None:
                sets.append(self._take(leader, partners))
        return sets

    def forget(self, before_ns: int) -> None:
        """Time jumped back to this stamp: drop everything later."""
        for topic, waiting in self._waiting.items():
            leads = topic == self.topics[0]
            waiting.drop(lambda s, leads=leads: leads or s > before_ns + self._slop_ns)

    def _partners(self, leader: int) -> dict[str, int] | None:
        """Stamp of the partner by topic; None = not all are there yet."""
        partners = {}
        for topic in self.topics[1:]:
            waiting = self._waiting[topic]
            best = waiting.nearest(leader, self._slop_ns)
            if best is None:
                return None
            if self._patient and best < leader and (waiting.newest() or 0) < leader:
                return None  # a closer one may still come
            partners[topic] = best
        return partners

    def _take(self, leader: int, partners: dict[str, int]) -> MessageSet:
        leaders = self._waiting[self.topics[0]]
        before = len(leaders)
        taken = {self.topics[0]: leaders.take(leader)}
        self.unpaired += before - len(leaders) - 1
        return taken | {topic: self._waiting[topic].take(s) for topic, s in partners.items()}


def make_synchroniser(
    topics: Sequence[str], *, slop_ns: int, lossless: bool, max_bytes: int = MAX_BYTES
) -> Synchroniser:
    """Live: low latency, few wait. Lossless: patient, the same result for every timing."""
    limit = LOSSLESS_LIMIT if lossless else LIVE_LIMIT
    return Synchroniser(topics, slop_ns=slop_ns, patient=lossless, limit=limit, max_bytes=max_bytes)


def bytes_of(message: Any) -> int:
    """Memory that a message's pixels hold."""
    return len(getattr(message, "data", ()))
