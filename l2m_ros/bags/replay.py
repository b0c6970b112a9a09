"""A recorded bag as the node would have seen it: no ROS graph, no rclpy, faster than real time.

    messages of the bag, in its order -> Inputs -> FrameBuilder -> Tracker -> FrameResult

The same parts as the node's with `queue: all`, so the results are the same.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.builder import FrameBuilder
from l2m_ros.frames.inputs import (
    CAMERA_INFO,
    DEPTH,
    IMAGE,
    ODOM,
    RIGHT,
    RIGHT_INFO,
    Bundle,
    InputOptions,
    Inputs,
)
from l2m_ros.frames.messages import read_transform, stamp_ns
from l2m_ros.frames.outputs import FrameNames, FrameResult
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.parameters.table import Values, base_from_camera, matcher_options, tracker_options
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import FloatArray

GROUND_TRUTH = "/ground_truth/pose"  # where `l2m simulate` writes it
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEPTH_WORDS = ("depth", "disparity")
OTHER_WORDS = ("right", "cam1", "mask", "infra")


@dataclass(frozen=True)
class BagTopics:
    """Which of the bag's topics is which input; None = not there, or not to be used."""

    image: str
    camera_info: str
    depth: str | None = None
    right_image: str | None = None
    right_camera_info: str | None = None
    odom: str | None = None

    def inputs(self) -> dict[str, str]:
        """The node's input by topic of the bag."""
        topics = {
            IMAGE: self.image,
            CAMERA_INFO: self.camera_info,
            DEPTH: self.depth,
            RIGHT: self.right_image,
            RIGHT_INFO: self.right_camera_info,
            ODOM: self.odom,
        }
        return {topic: name for name, topic in topics.items() if topic}


class Bag:
    """mcap or sqlite3 of ROS 2, or a ROS 1 bag, open for reading."""

    def __init__(self, reader: AnyReader, path: Path) -> None:
        self._reader = reader
        self.path = path
        self.types = {c.topic: c.msgtype for c in reader.connections}

    def messages(self, topics: list[str]) -> Iterator[tuple[str, Any]]:
        for connection, _, raw in self._reader.messages(connections=self._connections(topics)):
            yield connection.topic, self._reader.deserialize(raw, connection.msgtype)

    def raw_messages(self, topics: list[str]) -> Iterator[tuple[str, int, bytes]]:
        """(topic, nanoseconds when it was recorded, CDR)."""
        for connection, time_ns, raw in self._reader.messages(
            connections=self._connections(topics)
        ):
            yield connection.topic, time_ns, raw

    def _connections(self, topics: list[str]) -> list[Any]:
        return [c for c in self._reader.connections if c.topic in topics]

    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were recorded."""
        return self._reader.start_time, self._reader.end_time - 1

    def count(self, topic: str) -> int:
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    if not path.exists():
        raise InvalidInput(f"{path}: there is no such bag")
    try:
        with AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            yield Bag(reader, path)
    except AnyReaderError as error:
        raise InvalidInput(
            f"{path}: not a bag that can be read ({error}); give the folder that `ros2 bag "
            "record` wrote, a .mcap or .db3 in such a folder, or a ROS 1 .bag"
        ) from error


def find_topics(bag: Bag, given: dict[str, str | None]) -> BagTopics:
    """The topics given, and for the others what their types and names suggest."""
    for topic in filter(None, given.values()):
        if topic not in bag.types:
            raise InvalidInput(f"{bag.path}: no topic {topic}; it holds {_listing(bag)}")
    image = given.get("image") or _single(
        bag, "an image", IMAGES, without=DEPTH_WORDS + OTHER_WORDS
    )
    right = given.get("right_image") or _first(bag, IMAGES, ("right", "cam1"), without=DEPTH_WORDS)
    chosen = {
        "image": image,
        "camera_info": given.get("camera_info") or _info_of(bag, image),
        "depth": given.get("depth") or _first(bag, IMAGES[:1], ("depth",)),
        "right_image": right,
        "right_camera_info": given.get("right_camera_info") or (right and _info_of(bag, right)),
        "odom": given.get("odom") or _first(bag, ("nav_msgs/msg/Odometry",), ("odom",)),
    }
    return BagTopics(**{field.name: chosen[field.name] for field in fields(BagTopics)})


def _first(
    bag: Bag, types: tuple[str, ...], words: tuple[str, ...], without: tuple[str, ...] = ()
) -> str | None:
    """The first topic of these types whose name holds one of the words."""
    return next((t for t in _of_type(bag, types, without) if any(w in t for w in words)), None)


def _single(bag: Bag, what: str, types: tuple[str, ...], without: tuple[str, ...]) -> str:
    found = _of_type(bag, types, without)
    if len(found) != 1:
        these = ", ".join(found) or "none"
        raise InvalidInput(
            f"{bag.path}: which topic is {what}? found {these}; say it with --image TOPIC "
            f"(the bag holds {_listing(bag)})"
        )
    return found[0]


def _of_type(bag: Bag, types: tuple[str, ...], without: tuple[str, ...]) -> list[str]:
    return sorted(
        topic
        for topic, kind in bag.types.items()
        if kind in types and not any(word in topic for word in without)
    )


def _info_of(bag: Bag, image: str) -> str:
    """The CameraInfo beside an image: the one that shares most of its path."""
    infos = _of_type(bag, ("sensor_msgs/msg/CameraInfo",), ())
    if not infos:
        raise InvalidInput(f"{bag.path}: no camera_info; record it along with the image")
    here = image.split("/")
    shared = [sum(a == b for a, b in zip(here, t.split("/"), strict=False)) for t in infos]
    return infos[shared.index(max(shared))]


def _listing(bag: Bag) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(bag.types.items()))


def replay(bag: Bag, topics: BagTopics, values: Values) -> Iterator[FrameResult]:
    """Every frame of the bag, tracked; frames whose messages make no frame are left out."""
    inputs = Inputs(_input_options(topics, values))
    builder = FrameBuilder(rectified=values["rectified"], image_topic=topics.image)
    matcher = load_matcher(values["model"], **matcher_options(values))
    tracker = Tracker(matcher, tracker_options(values))
    base = base_from_camera(values)
    names = FrameNames(values["frames.odom"], values["frames.base"], values["frames.keyframe"])
    for bundle in _bundles(bag, topics, inputs):
        if bundle.reset:
            tracker.reset()
        try:
            frame = builder.build(bundle)
        except InvalidInput as error:
            print(f"frame at {bundle.stamp_ns} left out: {error}", file=sys.stderr)
            continue
        result = tracker.process(frame, inputs.odometry_at(frame.stamp_ns))
        yield FrameResult(result, names, base)


def _bundles(bag: Bag, topics: BagTopics, inputs: Inputs) -> Iterator[Bundle]:
    input_of_topic = topics.inputs()
    for topic, message in bag.messages(list(input_of_topic)):
        yield from inputs.add(input_of_topic[topic], message, received_s=0.0)
    yield from inputs.flush()


def _input_options(topics: BagTopics, values: Values) -> InputOptions:
    return InputOptions(
        depth=topics.depth is not None and values["depth"] != "ignore",
        right=topics.right_image is not None and values["right"] != "ignore",
        odom=topics.odom is not None and values["odom"] != "ignore",
        slop_ns=round(values["sync.slop_s"] * 1e9),
        odom_gap_ns=round(values["sync.odom_gap_s"] * 1e9),
        lossless=True,
    )


def read_truth(bag: Bag, topic: str) -> tuple[list[int], list[FloatArray]]:
    """Stamps and 4x4 of a PoseStamped, PoseWithCovarianceStamped or Odometry topic."""
    if topic not in bag.types:
        raise InvalidInput(f"{bag.path}: no topic {topic}; it holds {_listing(bag)}")
    stamps, poses = [], []
    for _, message in bag.messages([topic]):
        pose = message.pose.pose if hasattr(message.pose, "pose") else message.pose
        stamps.append(stamp_ns(message))
        poses.append(read_transform(_Transform(pose.position, pose.orientation)))
    if not stamps:
        raise InvalidInput(f"{bag.path}: topic {topic} holds no poses")
    return stamps, poses


@dataclass(frozen=True)
class _Transform:
    """A Pose in the words of a Transform."""

    translation: Any
    rotation: Any
