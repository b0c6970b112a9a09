"""Messages between the node and the map's process: a head in JSON, then arrays as plain bytes.

    4 bytes length | {"what": ..., "values": {...}, "arrays": [[name, dtype, shape], ...]} | bytes

Nothing is pickled: what a pipe brings can be numbers and texts, and nothing that runs.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import IO, Any, TypeVar, get_type_hints

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.files import WRONG_VALUES
from l2m_ros.mapping import codec
from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Frame

Array = npt.NDArray[Any]
T = TypeVar("T")

LENGTH = struct.Struct("<I")
LARGEST_HEAD, LARGEST_BODY = 1 << 24, 1 << 31
KINDS = ("|u1", "<f4", "<f8")
MOST_AXES = 8


@dataclass(frozen=True, eq=False)
class Message:
    """What is asked or answered, its numbers and texts, its arrays."""

    what: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)


def write(file: IO[bytes], message: Message) -> None:
    """The whole message; BrokenPipeError where nobody reads any more."""
    arrays = {name: np.ascontiguousarray(a) for name, a in message.arrays.items()}
    listed = [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()]
    head = json.dumps({"what": message.what, "values": message.values, "arrays": listed}).encode()
    file.write(LENGTH.pack(len(head)) + head)
    for array in arrays.values():
        file.write(array.data.cast("B") if array.size else b"")
    file.flush()


def read(file: IO[bytes]) -> Message | None:
    """The next message; None where the other side has ended, also in the middle of one.

    Raises InvalidInput where what comes is no message.
    """
    start = _exactly(file, LENGTH.size)
    if start is None:
        return None
    (length,) = LENGTH.unpack(start)
    if length > LARGEST_HEAD:
        raise InvalidInput(f"a message's head has {length} bytes")
    content = _exactly(file, length)
    if content is None:
        return None
    what, values, listed = _head(bytes(content))
    arrays: dict[str, Array] = {}
    for name, kind, shape in listed:
        array = _array(file, kind, shape)
        if array is None:
            return None
        arrays[name] = array
    return Message(what, values, arrays)


def _head(content: bytes) -> tuple[str, dict[str, Any], list[tuple[str, str, list[int]]]]:
    """What is said, its values, and (name, kind, shape) of the arrays that follow."""
    try:
        head = json.loads(content)
        what, values = head["what"], head["values"]
        listed = [(name, kind, [*shape]) for name, kind, shape in head["arrays"]]
    except (*WRONG_VALUES, RecursionError) as error:
        raise InvalidInput(f"a message's head cannot be read ({error!r})") from error
    total = sum(map(_bytes_of, listed))
    if not isinstance(what, str) or not isinstance(values, dict) or total > LARGEST_BODY:
        raise InvalidInput(f"a message's head says {what!r} and {total} bytes of arrays")
    return what, values, listed


def _bytes_of(listed: tuple[Any, Any, list[Any]]) -> int:
    name, kind, shape = listed
    counts = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
    if not isinstance(name, str) or kind not in KINDS or not counts or len(shape) > MOST_AXES:
        raise InvalidInput(f"a message's array {name!r} is {kind} of shape {shape}")
    return math.prod(shape) * np.dtype(kind).itemsize


def _array(file: IO[bytes], kind: str, shape: list[int]) -> Array | None:
    content = _exactly(file, math.prod(shape) * np.dtype(kind).itemsize)
    return None if content is None else np.frombuffer(content, kind).reshape(shape)


def _exactly(file: IO[bytes], count: int) -> bytearray | None:
    content = bytearray(count)
    view, got = memoryview(content), 0
    while got < count:
        new = file.readinto(view[got:])  # type: ignore[attr-defined]
        if not new:
            return None
        got += new
    return content


# --- what travels -------------------------------------------------------------------------------


def picked_message(what: str, picked: Picked) -> Message:
    """A frame for the map."""
    frame = picked.scene
    values = {
        "stamp_ns": frame.stamp_ns,
        "frame_id": frame.frame_id,
        "camera": codec.encode_camera(frame.camera),
        "chain": picked.chain,
        "parent_ns": picked.parent_ns,
        "scale_source": picked.scale_source,
    }
    if frame.right_camera is not None:
        values["right_camera"] = codec.encode_camera(frame.right_camera)
    if picked.odometry is not None:
        values["odometry_ns"] = picked.odometry.stamp_ns
    of_frame = {name: getattr(frame, name) for name in FRAME_ARRAYS}
    of_pose = {name: getattr(picked, name) for name in POSE_ARRAYS}
    odometry, of_base = picked.odometry, {}
    if odometry is not None:
        of_base = {f"odometry_{name}": getattr(odometry, name) for name in ODOMETRY_ARRAYS}
    arrays = {name: a for name, a in (of_frame | of_pose | of_base).items() if a is not None}
    return Message(what, values, arrays)


FRAME_ARRAYS = ("rgb", "depth", "right_rgb", "right_from_camera")
POSE_ARRAYS = ("odom_from_camera", "keyframe_from_camera", "covariance", "base_from_camera")
FIX_ARRAYS = ("map_from_odom", "map_from_camera", "covariance")
ODOMETRY_ARRAYS = ("odom_from_base", "covariance", "timing")


def picked_from(message: Message) -> Picked:
    """The other way."""
    values, arrays = message.values, message.arrays
    right = values.get("right_camera")
    frame = Frame(
        camera=codec.decode_camera(values["camera"]),
        right_camera=None if right is None else codec.decode_camera(right),
        stamp_ns=values["stamp_ns"],
        frame_id=values["frame_id"],
        rgb=arrays["rgb"],
        **{name: arrays.get(name) for name in FRAME_ARRAYS[1:]},
    )
    poses: dict[str, Any] = {name: arrays.get(name) for name in POSE_ARRAYS}
    odometry = None
    if "odometry_ns" in values:
        of_base = {name: arrays[f"odometry_{name}"] for name in ODOMETRY_ARRAYS}
        odometry = OdometrySample(values["odometry_ns"], **of_base)
    known = values["chain"], values["parent_ns"], values["scale_source"]
    return Picked(frame, *known, odometry=odometry, **poses)


def filled(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass of numbers, texts, tuples and such dataclasses, from what `asdict` made of it."""
    hints = get_type_hints(kind)
    given = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        value, inner = values[entry.name], hints[entry.name]
        if is_dataclass(inner):
            value = filled(inner, value)  # type: ignore[arg-type]
        given[entry.name] = tuple(value) if isinstance(value, list) else value
    return kind(**given)
