"""Writes ROS 2 bags (mcap or sqlite3) that Humble and everything later read, without ROS.

Metadata version 8: version 9 writes the QoS as a list, on which Humble fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from l2m_ros.bags.messages import Messages
from l2m_ros.errors import InvalidInput
from l2m_ros.files import BAG_SUFFIXES, whole_folder

METADATA_VERSION = 8
STORAGES = dict(zip(BAG_SUFFIXES, (StoragePlugin.MCAP, StoragePlugin.SQLITE3), strict=True))
INFINITE_S = (9223372036, 854775807)  # rmw's "no deadline", as recorders write it
LATCHED = ("/tf_static",)


class BagWriter:
    """`write` a message to a topic; `messages` makes them."""

    def __init__(self, writer: Writer) -> None:
        self.messages = Messages()
        self._writer = writer
        self._connections: dict[str, Any] = {}

    def add_topic(self, topic: str, type_name: str) -> None:
        """Not needed before `write`, but a topic without messages is listed too."""
        self._connections[topic] = self._writer.add_connection(
            topic,
            type_name,
            typestore=self.messages.store,
            offered_qos_profiles=[_qos(latched=topic in LATCHED)],
        )

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        if topic not in self._connections:
            self.add_topic(topic, message.__msgtype__)
        data = self.messages.store.serialize_cdr(message, message.__msgtype__)
        self._writer.write(self._connections[topic], stamp_ns, data)


@contextmanager
def open_bag_writer(
    path: Path, *, force: bool = False, custom_data: Mapping[str, str] | None = None
) -> Iterator[BagWriter]:
    """Writes the folder `path`, whole or not at all; its suffix (.mcap, .db3) names the storage."""
    if path.suffix not in STORAGES:
        raise InvalidInput(f"a bag's name ends in {' or '.join(STORAGES)}, got {path}")
    with whole_folder(path, force=force) as made:
        writer = Writer(made, version=METADATA_VERSION, storage_plugin=STORAGES[path.suffix])
        for key, value in (custom_data or {}).items():
            writer.set_custom_data(key, value)
        with writer:
            yield BagWriter(writer)


def _qos(*, latched: bool) -> Qos:
    """Reliable, so that reliable and best-effort subscribers both connect; tf_static latched."""
    never = QosTime(*INFINITE_S)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        QosHistory.KEEP_LAST,
        1 if latched else 10,
        QosReliability.RELIABLE,
        durability,
        never,
        never,
        QosLiveliness.AUTOMATIC,
        never,
        False,
    )
