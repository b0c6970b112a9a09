"""Bags that end in the middle: a robot lost power, a disk was full, a copy broke off.

The index of an mcap stands at its end and metadata.yaml is written last, so such a bag has
neither. Its messages are read one after another from the beginning, up to the first byte that
makes no sense.

    mcap     magic, then records: opcode (1 byte), length (8 bytes), content
    db3      rows of `messages` in the order in which they were written
"""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from l2m_ros.errors import InvalidInput

MAGIC = b"\x89MCAP0\r\n"
SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 3, 4, 5, 6, 15
MAX_CHUNK_BYTES = 1 << 30  # unpacked; recorders write 1 to 10 MB
NS = 1_000_000_000

Raw = tuple[str, int, bytes]  # topic, nanoseconds when it was recorded, CDR


class Storage(Protocol):
    """What a damaged bag still holds."""

    types: dict[str, str]  # sensor_msgs/msg/Image by topic
    definitions: dict[str, str]  # text of a .msg by its type

    def messages(self) -> Iterator[Raw]: ...


class RecoveredBag:
    """The same as `reader.Bag`, for a bag without index or metadata."""

    def __init__(self, path: Path, storages: list[Storage]) -> None:
        self.path = path
        self._storages = storages
        self._counts: Counter[str] = Counter()
        self._first_ns = self._last_ns = 0
        for topic, time_ns, _ in self._all():
            self._first_ns = self._first_ns or time_ns
            self._last_ns = max(self._last_ns, time_ns)
            self._counts[topic] += 1
        self.types = {t: kind for s in storages for t, kind in s.types.items() if self._counts[t]}
        self._store = _typestore(storages)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def words(self) -> str:
        seconds = (self._last_ns - self._first_ns) / NS
        return f"{len(self)} messages of its first {seconds:.1f} s are whole and are used"

    def messages(self, topics: list[str]) -> Iterator[tuple[str, Any]]:
        for topic, _, raw in self.raw_messages(topics):
            try:
                message = self._store.deserialize_cdr(raw, self.types[topic])
            except Exception:  # what a parser makes of damaged bytes; the message is lost
                continue
            yield topic, message

    def raw_messages(self, topics: list[str]) -> Iterator[Raw]:
        return (one for one in self._all() if one[0] in topics)

    def span_ns(self) -> tuple[int, int]:
        return self._first_ns, self._last_ns

    def count(self, topic: str) -> int:
        return self._counts[topic]

    def _all(self) -> Iterator[Raw]:
        for storage in self._storages:
            yield from storage.messages()


def recovered(path: Path) -> RecoveredBag | None:
    """What can be read of a ROS 2 bag that does not open; None where there is nothing."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in STORAGES)
    storages = [STORAGES[file.suffix](file) for file in files if file.suffix in STORAGES]
    bag = RecoveredBag(path, storages)
    return bag if len(bag) else None


def _typestore(storages: list[Storage]) -> Any:
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    for storage in storages:
        for kind, text in storage.definitions.items():
            if kind not in store.fielddefs:
                try:
                    store.register(get_types_from_msg(text, kind))
                except Exception:  # a damaged definition: its messages are left out
                    continue
    return store


# --- mcap -----------------------------------------------------------------------------------


class McapStorage:
    """One .mcap, read forward."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}
        self._schemas: dict[int, str] = {}
        self._topics: dict[int, str] = {}

    def messages(self) -> Iterator[Raw]:
        with self._path.open("rb") as file:
            size = self._path.stat().st_size
            if file.read(len(MAGIC)) != MAGIC:
                return
            while (head := file.read(9)) and len(head) == 9:
                code, length = struct.unpack("<BQ", head)
                left = size - file.tell()
                if code == DATA_END or (length > left and code != CHUNK):
                    return
                length = min(length, left)  # the last chunk as far as it goes
                if code in (SCHEMA, CHANNEL, MESSAGE, CHUNK):
                    try:
                        yield from sorted(self._record(code, file.read(length)), key=_time)
                    except (struct.error, ValueError, IndexError, RuntimeError, MemoryError):
                        continue  # this record is damaged; the next one may be whole
                else:
                    file.seek(length, 1)

    def _record(self, code: int, body: bytes) -> list[Raw]:
        if code == CHUNK:
            return self._chunk(body)
        if code == MESSAGE:
            channel, _, log_ns, _ = struct.unpack_from("<HIQQ", body)
            topic = self._topics.get(channel)
            return [] if topic is None else [(topic, log_ns, body[22:])]
        (number,) = struct.unpack_from("<H", body)
        if code == SCHEMA:
            name, at = _text(body, 2)
            encoding, at = _text(body, at)
            self._schemas[number] = name
            if encoding == "ros2msg":
                self.definitions[name] = _text(body, at)[0]
        else:
            (schema,) = struct.unpack_from("<H", body, 2)
            topic, _ = _text(body, 4)
            if schema in self._schemas:
                self._topics[number] = topic
                self.types[topic] = self._schemas[schema]
        return []

    def _chunk(self, body: bytes) -> list[Raw]:
        unpacked_bytes, _ = struct.unpack_from("<QI", body, 16)
        compression, at = _text(body, 28)
        if unpacked_bytes > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk of {unpacked_bytes} bytes")
        records = _unpacked(compression, body[at + 8 :], unpacked_bytes)
        found, at = [], 0
        while at + 9 <= len(records):
            code, length = struct.unpack_from("<BQ", records, at)
            if at + 9 + length > len(records):
                break
            if code in (SCHEMA, CHANNEL, MESSAGE):
                found += self._record(code, records[at + 9 : at + 9 + length])
            at += 9 + length
        return found


def _time(raw: Raw) -> int:
    return raw[1]


def _text(body: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<I", body, at)
    end = at + 4 + length
    if end > len(body):
        raise ValueError("a text beyond its record")
    return body[at + 4 : end].decode(), end


def _unpacked(compression: str, packed: bytes, size: int) -> bytes:
    """lz4 and zstd by the libraries that rosbags brings; never more than the size stated."""
    if not compression:
        return packed
    if compression == "lz4":
        import lz4.frame

        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size))
    if compression == "zstd":
        try:
            from compression import zstd
        except ImportError:
            from backports import zstd
        return bytes(zstd.ZstdDecompressor().decompress(packed, max_length=size))
    raise ValueError(f"unknown compression {compression!r}")


# --- sqlite3 --------------------------------------------------------------------------------


class SqliteStorage:
    """One .db3. Rows are read by their number: the index by time may lie beyond the cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.types: dict[str, str] = {}
        self.definitions: dict[str, str] = {}

    def messages(self) -> Iterator[Raw]:
        where = f"{self._path.absolute().as_uri()}?mode=ro&immutable=1"
        try:
            database = sqlite3.connect(where, uri=True)
        except sqlite3.Error:
            return
        try:
            # Without it SQLite refuses a file that is shorter than its header says.
            database.execute("PRAGMA writable_schema=ON")
            topics = {}
            for number, name, kind in database.execute("SELECT id, name, type FROM topics"):
                topics[number] = str(name)
                self.types[str(name)] = str(kind)
            rows = "SELECT topic_id, timestamp, data FROM messages NOT INDEXED ORDER BY rowid"
            for number, time_ns, data in database.execute(rows):
                if number in topics and isinstance(time_ns, int) and isinstance(data, bytes):
                    yield topics[number], time_ns, data
        except (sqlite3.Error, OverflowError, UnicodeDecodeError):
            return  # what comes after this page is lost
        finally:
            database.close()


# Public recordings that `l2m scene import` reads, and the files that show them.
LAYOUTS = [
    ("tum", ("rgb.txt", "depth.txt")),
    ("euroc", ("mav0/cam0/sensor.yaml",)),
    ("kitti", ("image_0", "calib.txt", "times.txt")),
    ("kitti", ("image_00/timestamps.txt", "oxts")),
    ("7scenes", ("frame-*.color.png", "frame-*.pose.txt")),
]
STORAGES: dict[str, Any] = {".mcap": McapStorage, ".db3": SqliteStorage}


def refusal(path: Path, error: BaseException) -> InvalidInput:
    """Why a bag cannot be read, in words."""
    for layout, files in LAYOUTS:
        if all(any(path.glob(pattern)) for pattern in files):
            return InvalidInput(
                f"{path}: no bag, but in the layout of {layout}; make a bag of it: "
                f"l2m scene import {layout} {path} --out NAME.mcap"
            )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        if (path / "meta.json").is_file():
            return InvalidInput(
                f"{path}: no bag, but a folder of images with meta.json, which l2m map build, "
                "localize, calibrate and evaluate take"
            )
        reason = "the folder holds no metadata.yaml"
    return InvalidInput(
        f"{path}: not a bag that can be read ({reason}); give the folder that `ros2 bag record` "
        "wrote, a .mcap or .db3 in such a folder, or a ROS 1 .bag"
    )
