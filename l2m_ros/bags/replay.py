"""Tracks a recorded bag as the node would: no ROS graph, no rclpy, faster than real time.

    messages of the bag, in its order -> Inputs -> FrameBuilder -> Tracker -> FrameResult

The same parts as the node's with `queue: all`, so the results are the same.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from l2m_ros.bags.reader import Bag
from l2m_ros.bags.recovery import RecoveredBag
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
    Report,
)
from l2m_ros.frames.messages import read_transform, stamp_ns
from l2m_ros.frames.outputs import FrameNames, FrameResult
from l2m_ros.frames.static_transforms import StaticTransforms
from l2m_ros.image_header import SizeLimits
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.mono_depth import load_depth_reader
from l2m_ros.parameters.table import (
    PARAMETERS,
    Values,
    base_from_camera,
    depth_reader_options,
    matcher_options,
    sync_options,
    tracker_options,
)
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import FloatArray

FARTHEST_M = 1e9  # from its origin; a truth beyond is a mistake of units or a broken file
STATIC = "/tf_static"
# What belongs to a graph, to timing or to a life cycle: none of it is there.
WITHOUT_EFFECT = ("autostart", "publish_tf", "image_transport", "depth_transport",
                  "stale_after_s", "queue", "queue_mb", "encode_ahead", "frames.map",
                  *(name for name in PARAMETERS if name.startswith("map.")))  # fmt: skip
GROUND_TRUTH = "/ground_truth/pose"  # where `l2m simulate` writes it
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
DEPTH_WORDS = ("depth", "disparity")
NODE = "l2m"  # the matcher's name: its topics are /l2m/odometry and so on
OTHER_WORDS = ("right", "cam1", "mask", "infra")


AnyBag = Bag | RecoveredBag


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


def find_topics(bag: AnyBag, given: dict[str, str | None]) -> BagTopics:
    """The topics given, and for the others what their types and names suggest."""
    for topic in filter(None, given.values()):
        if topic not in bag.types:
            raise InvalidInput(f"{bag.path}: no topic {topic}; it holds {_listing(bag)}")
    _check_types(bag, given)
    image = given.get("image") or _single(
        bag, "an image", IMAGES, without=DEPTH_WORDS + OTHER_WORDS
    )
    right = given.get("right_image") or _first(bag, IMAGES, ("right", "cam1"), without=DEPTH_WORDS)
    chosen = {
        "image": image,
        "camera_info": given.get("camera_info") or _info_of(bag, image),
        "depth": given.get("depth") or _depth_of(bag),
        "right_image": right,
        "right_camera_info": given.get("right_camera_info") or (right and _info_of(bag, right)),
        "odom": given.get("odom") or _first(bag, ("nav_msgs/msg/Odometry",), ("odom",)),
    }
    _check_apart(bag, chosen)
    return BagTopics(**{field.name: chosen[field.name] for field in fields(BagTopics)})


def _check_apart(bag: AnyBag, chosen: dict[str, str | None]) -> None:
    """A topic is one input: as two, the second would take the first one's messages."""
    images = ("image", "depth", "right_image")
    for name in images:
        others = [n for n in images if n != name and chosen[n] == chosen[name]]
        if chosen[name] and others:
            both = " and ".join(f"--{n.replace('_', '-')}" for n in (name, *others))
            raise InvalidInput(f"{bag.path}: {chosen[name]} is taken for {both}: name another one")


TYPES_OF = {
    "image": IMAGES,
    "camera_info": ("sensor_msgs/msg/CameraInfo",),
    "depth": IMAGES,
    "right_image": IMAGES,
    "right_camera_info": ("sensor_msgs/msg/CameraInfo",),
    "odom": ("nav_msgs/msg/Odometry",),
}


def _check_types(bag: AnyBag, given: dict[str, str | None]) -> None:
    for name, topic in given.items():
        if topic and name in TYPES_OF and bag.types[topic] not in TYPES_OF[name]:
            raise InvalidInput(
                f"{bag.path}: {topic} is of {bag.types[topic]}; --{name.replace('_', '-')} takes "
                f"{' or '.join(TYPES_OF[name])}"
            )


def _depth_of(bag: AnyBag) -> str | None:
    """Raw depth, else image_transport's compressedDepth (a JPEG of depth is of no use)."""
    packed = [t for t in _of_type(bag, IMAGES[1:], ()) if t.endswith("/compressedDepth")]
    return _first(bag, IMAGES[:1], ("depth",)) or next(iter(packed), None)


def _first(
    bag: AnyBag, types: tuple[str, ...], words: tuple[str, ...], without: tuple[str, ...] = ()
) -> str | None:
    """The first topic of these types whose name holds one of the words."""
    return next((t for t in _of_type(bag, types, without) if any(w in t for w in words)), None)


def _single(bag: AnyBag, what: str, types: tuple[str, ...], without: tuple[str, ...]) -> str:
    found = _of_type(bag, types, without)
    if len(found) != 1:
        these = ", ".join(found) or "none"
        raise InvalidInput(
            f"{bag.path}: which topic is {what}? found {these}; say it with --image TOPIC "
            f"(the bag holds {_listing(bag)})"
        )
    return found[0]


def _of_type(bag: AnyBag, types: tuple[str, ...], without: tuple[str, ...]) -> list[str]:
    """Leaves out what a matcher published: its odometry would be taken for the wheels'."""
    return sorted(
        topic
        for topic, kind in bag.types.items()
        if kind in types
        and not any(word in topic for word in without)
        and topic.split("/")[-2:-1] != [NODE]
    )


def _info_of(bag: AnyBag, image: str) -> str:
    """The CameraInfo beside an image: the one that shares most of its path."""
    infos = _of_type(bag, ("sensor_msgs/msg/CameraInfo",), ())
    if not infos:
        raise InvalidInput(f"{bag.path}: no camera_info; record it along with the image")
    here = image.split("/")
    shared = [sum(a == b for a, b in zip(here, t.split("/"), strict=False)) for t in infos]
    return infos[shared.index(max(shared))]


def _listing(bag: AnyBag) -> str:
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(bag.types.items()))


def replay(
    bag: AnyBag,
    topics: BagTopics,
    values: Values,
    report: Report = lambda key, words: None,
    matcher: Matcher | None = None,
) -> Iterator[FrameResult]:
    """Every frame of the bag, tracked; frames whose messages make no frame are left out.

    `report` hears what the node would say of its inputs in /diagnostics, when it changes.
    `matcher` stands in for the one that the parameters name.
    """
    inputs = Inputs(input_options(topics, values), report)
    builder = frame_builder(topics, values, report)
    if matcher is None:
        matcher = load_matcher(values["model"], **matcher_options(values))
    reader = load_depth_reader(values["mono_depth"], matcher, **depth_reader_options(values))
    tracker = Tracker(matcher, tracker_options(values), reader)
    mounting = Mounting(bag, values)
    names = FrameNames(values["frames.odom"], values["frames.base"], values["frames.keyframe"])
    left_out = LeftOut("frame")
    for bundle in bundles_of(bag, topics, inputs):
        if bundle.reset:
            tracker.reset()
        try:
            frame = builder.build(bundle)
        except InvalidInput as error:
            left_out.add(f"frame at {bundle.stamp_ns}", error)
            continue
        base = mounting.base_from_camera(frame.frame_id)
        tracker.reconfigure(replace(tracker.options, base_from_camera=base))
        result = tracker.process(frame, inputs.odometry_at(frame.stamp_ns))
        inputs.learn(result, base)
        yield FrameResult(result, names, base)
    left_out.end()


class LeftOut:
    """Says why something of a bag is not used: each reason once, then how often."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._times: Counter[str] = Counter()

    def add(self, which: str, error: InvalidInput) -> None:
        reason = re.sub(r"[\d.]+", "#", str(error))
        self._times[reason] += 1
        if self._times[reason] == 1:
            print(f"{which} left out: {error}", file=sys.stderr)

    def end(self) -> None:
        more = sum(self._times.values()) - len(self._times)
        if more:
            print(f"... and {more} more {self._what}s for the same reasons", file=sys.stderr)


class Mounting:
    """base_from_camera: the parameter's, or the bag's /tf_static with `base_from_tf`.

    by_default: of /tf_static, too, where the parameter was left alone and /tf_static knows.
    """

    def __init__(self, bag: AnyBag, values: Values, *, by_default: bool = False) -> None:
        self._given, self._base = base_from_camera(values), values["frames.base"]
        self._asked = values["base_from_tf"]
        left_alone = list(values["base_from_camera"]) == PARAMETERS["base_from_camera"].default
        self._static: StaticTransforms | None = None
        if self._asked or (by_default and left_alone):
            self._static = StaticTransforms(message for _, message in bag.messages([STATIC]))

    def base_from_camera(self, camera_frame: str) -> FloatArray:
        if self._static is None:
            return self._given
        try:
            return self._static.lookup(self._base, camera_frame)
        except InvalidInput:
            if self._asked:
                raise
            return self._given


def without_effect(values: Values) -> list[str]:
    """Parameters that were set but mean nothing to a replay."""
    changed = [name for name in WITHOUT_EFFECT if values[name] != PARAMETERS[name].default]
    return [name for name in changed if (name, values[name]) != ("queue", "all")]


def bundles_of(bag: AnyBag, topics: BagTopics, inputs: Inputs) -> Iterator[Bundle]:
    """Every bundle of the bag, those that still wait at its end included."""
    input_of_topic, left_out = topics.inputs(), LeftOut("message")
    for topic, message in bag.messages(list(input_of_topic)):
        try:
            bundles = inputs.add(input_of_topic[topic], message, received_s=0.0)
        except InvalidInput as error:  # odometry of NaN: without it, as the node goes on
            left_out.add(f"a message on {topic}", error)
            continue
        yield from bundles
    left_out.end()
    yield from inputs.flush()


def frame_builder(
    topics: BagTopics, values: Values, report: Report = lambda key, words: None
) -> FrameBuilder:
    return FrameBuilder(
        rectified=values["rectified"],
        image_topic=topics.image,
        report=report,
        image_bits=values["image_bits"],
        depth_stamps=values["sync.depth_stamps"],
        limits=SizeLimits(pixels=values["max_image_pixels"]),
    )


def input_options(topics: BagTopics, values: Values) -> InputOptions:
    return replace(
        sync_options(values),
        depth=topics.depth is not None and values["depth"] != "ignore",
        right=topics.right_image is not None and values["right"] != "ignore",
        odom=topics.odom is not None and values["odom"] != "ignore",
        lossless=True,
    )


def read_truth(bag: AnyBag, topic: str) -> tuple[list[int], list[FloatArray]]:
    """Stamps and 4x4 of a PoseStamped, PoseWithCovarianceStamped or Odometry topic."""
    if topic not in bag.types:
        raise InvalidInput(f"{bag.path}: no topic {topic}; it holds {_listing(bag)}")
    stamps, poses = [], []
    for _, message in bag.messages([topic]):
        pose = getattr(message, "pose", None)
        pose = getattr(pose, "pose", pose)
        if pose is None:
            raise InvalidInput(
                f"{bag.path}: {topic} is of {bag.types[topic]} and holds no poses; a PoseStamped, "
                "PoseWithCovarianceStamped or Odometry topic is wanted"
            )
        T = read_transform(_Transform(pose.position, pose.orientation))
        if not np.isfinite(T).all() or np.abs(T[:3, 3]).max() > FARTHEST_M:
            raise InvalidInput(f"{bag.path}: {topic} holds a pose that cannot be: {T[:3, 3]}")
        stamps.append(stamp_ns(message))
        poses.append(T)
    if not stamps:
        raise InvalidInput(f"{bag.path}: topic {topic} holds no poses")
    return stamps, poses


@dataclass(frozen=True)
class _Transform:
    """A Pose with the field names of a Transform."""

    translation: Any
    rotation: Any
