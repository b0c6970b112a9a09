"""Bags open for reading: mcap or sqlite3 of ROS 2, or a ROS 1 bag; whole, damaged or cut off.

What a recorder left behind when the power went is read up to the cut, with a warning. Whatever a
parser raises over damaged bytes becomes one line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from l2m_ros.bags.recovery import RecoveredBag, recovered, refusal
from l2m_ros.errors import InvalidInput

Warn = Callable[[str], None]


class Bag:
    """A bag that opens."""

    def __init__(self, reader: AnyReader, path: Path, warn: Warn) -> None:
        self._reader, self._warn = reader, warn
        self.path = path
        self.types = {c.topic: c.msgtype for c in reader.connections}

    def messages(self, topics: list[str]) -> Iterator[tuple[str, Any]]:
        """(topic, message) in the order of recording; a damaged message is left out."""
        types, lost = {c.topic: c.msgtype for c in self._reader.connections}, 0
        for topic, _, raw in self.raw_messages(topics):
            try:
                message = self._reader.deserialize(raw, types[topic])
            except Exception as error:  # whatever its parser makes of damaged bytes
                lost += 1
                if lost == 1:
                    self._warn(
                        f"{self.path}: a message on {topic} is damaged and left out: {error}"
                    )
                continue
            yield topic, message

    def raw_messages(self, topics: list[str]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, nanoseconds when it was recorded, CDR)."""
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        found = self._reader.messages(connections=connections)
        while True:
            try:
                connection, time_ns, raw = next(found)
            except StopIteration:
                return
            except Exception as error:
                self._warn(f"{self.path}: damaged ({error}); what comes after is left out")
                return
            yield connection.topic, time_ns, bytes(raw)

    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were recorded."""
        return self._reader.start_time, self._reader.end_time - 1

    def count(self, topic: str) -> int:
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)


@contextmanager
def open_bag(path: Path, warn: Warn | None = None) -> Iterator[Bag | RecoveredBag]:
    """Raises InvalidInput where nothing can be read; `warn` gets a line about what is damaged."""
    if not path.exists():
        raise InvalidInput(f"{path}: there is no such bag")
    warn = warn or _on_stderr
    reader, bag = _opened(path, warn)
    try:
        yield bag
    finally:
        if reader is not None:
            reader.close()


def _opened(path: Path, warn: Warn) -> tuple[AnyReader | None, Bag | RecoveredBag]:
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
        reader.open()
        return reader, Bag(reader, path, warn)
    except Exception as error:  # rosbags' own, and what its parsers raise over damaged bytes
        try:
            bag = recovered(path)
        except OSError:
            bag = None
        if bag is None:
            raise refusal(path, error) from error
        warn(f"{path}: cut off or damaged ({' '.join(str(error).split())[:120]}); {bag.words()}")
        return None, bag


def _on_stderr(words: str) -> None:
    print(f"l2m: {words}", file=sys.stderr)
