"""Frames of a recording, one after another: a bag, or a folder of images with a meta.json.

images/*.jpg        colour, or L_*.jpg and R_*.jpg of a rectified stereo camera
depth/<stem>.png    16 bit, metres = value * depth_scale, 0 = unknown
meta.json           K, or cameras[name].K; stamp_s, world_from_camera, scene, world_of, ...;
                    odom: odom_from_camera by wheels or an IMU; depth_stamp_s, if not stamp_s
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.bags.reader import open_bag
from l2m_ros.bags.replay import (
    GROUND_TRUTH,
    AnyBag,
    BagTopics,
    Mounting,
    bundles_of,
    find_topics,
    frame_builder,
    input_options,
    read_truth,
)
from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, inside, read_json
from l2m_ros.frames.inputs import Inputs
from l2m_ros.geometry import se3
from l2m_ros.images import read_depth, read_rgb
from l2m_ros.parameters.file import parameter_values
from l2m_ros.parameters.table import Values
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import Camera, FloatArray, Frame

FRAME_S = 0.2  # between images of a folder that has no stamps
LATEST_S = 9e9  # beyond it nanoseconds leave 64 bits
TRUTHS = (GROUND_TRUTH, "/truth")
TRUTH_WITHIN_NS = 5_000_000


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a recording, and what the recording knows of it."""

    frame: Frame
    name: str
    truth: FloatArray | None = None  # world_from_camera
    odometry: OdometrySample | None = None
    base_from_camera: FloatArray | None = None  # None: odometry is of the camera itself


@dataclass(frozen=True, eq=False)
class Recording:
    """`shots()` reads the frames anew each time; world: the name of what truth is given in."""

    path: Path
    count: int
    world: str | None
    _source: Any = field(repr=False)

    def shots(self) -> Iterator[Shot]:
        yield from self._source()


@contextmanager
def open_recording(
    path: Path, world: str | None = None, values: Values | None = None
) -> Iterator[Recording]:
    """A folder with a meta.json, else a bag. values: the node's parameters, for a bag."""
    if (path / "meta.json").is_file():
        yield _folder(path, world)
        return
    if path.is_dir() and (path / "images").is_dir():
        raise InvalidInput(f"{path} holds images but no meta.json: write one with K and cameras")
    with open_bag(path) as bag:
        found = find_topics(bag, {})
        truth = _truth_of(bag)
        named = world or (f"bag {path.resolve().name}" if truth else None)
        given = values or parameter_values()
        shots = lambda: _bag_shots(bag, found, truth, given)  # noqa: E731
        yield Recording(path, bag.count(found.image), named, shots)


# --- folders ---------------------------------------------------------------------------------


def _folder(path: Path, world: str | None) -> Recording:
    meta = read_json(path / "meta.json")
    with foreign_values(path / "meta.json"):
        cameras = dict(meta["cameras"])
        there = [n for n in cameras if inside(path / "images", n).is_file()]
        names = [n for n in there if not n.startswith("R_")]
        names.sort(key=lambda n: (float(cameras[n].get("stamp_s", 0.0)), n))
        stamps = [float(cameras[n].get("stamp_s", i * FRAME_S)) for i, n in enumerate(names)]
        if not all(abs(stamp) < LATEST_S for stamp in stamps):
            raise InvalidInput(f"{path / 'meta.json'}: each stamp_s must be a time in seconds")
        named = world or meta.get("world_of") or meta.get("scene") or path.resolve().name
    if not names:
        raise InvalidInput(f"{path}: none of the images that meta.json names is in images/")
    return Recording(
        path,
        len(names),
        named,
        lambda: (_folder_shot(path, meta, *one) for one in zip(names, stamps, strict=True)),
    )


def _folder_shot(path: Path, meta: dict[str, Any], name: str, stamp_s: float) -> Shot:
    with foreign_values(f"{path / 'meta.json'}: {name}"):
        entry = meta["cameras"][name]
        frame = Frame(
            read_rgb(path / "images" / name),
            _camera(path, meta, name),
            _folder_depth(path, meta, name),
            **_right(path, meta, name),
            stamp_ns=round(stamp_s * 1e9),
            depth_late_s=float(entry.get("depth_stamp_s", stamp_s)) - stamp_s,
        )
        truth, odom = entry.get("world_from_camera"), entry.get("odom")
        odometry = None
        if odom is not None:  # of the camera itself: base and camera are one
            pose = _rigid(path, name, odom, "odom")
            odometry = OdometrySample(frame.stamp_ns, pose, np.zeros((6, 6)))
        world_from_camera = None if truth is None else _rigid(path, name, truth)
        return Shot(frame, name, world_from_camera, odometry)


def _camera(path: Path, meta: dict[str, Any], name: str) -> Camera:
    entry = meta["cameras"][name]
    K = entry.get("K", meta.get("K"))
    if K is None:
        raise InvalidInput(f"{path / 'meta.json'}: {name} has no K, and there is none for all")
    rgb_size = entry.get("width"), entry.get("height")
    if None in rgb_size:
        rgb_size = read_rgb(path / "images" / name).shape[1::-1]
    return Camera(*rgb_size, np.array(K, float))


def _folder_depth(path: Path, meta: dict[str, Any], name: str) -> FloatArray | None:
    file = path / "depth" / f"{Path(name).stem}.png"
    if not file.is_file():
        return None
    depth = read_depth(file, float(meta.get("depth_scale", 0.001)))
    far = meta.get("max_depth")
    if far is not None:
        depth = np.where(depth <= float(far), depth, np.float32(np.nan))
    return depth if np.isfinite(depth).any() else None


def _right(path: Path, meta: dict[str, Any], name: str) -> dict[str, Any]:
    other = "R_" + name[2:]
    if not name.startswith("L_") or not (path / "images" / other).is_file():
        return {}
    right_from_camera = np.eye(4)
    baseline = meta.get("stereo_baseline_m")
    poses = [meta["cameras"].get(n, {}).get("world_from_camera") for n in (name, other)]
    if baseline is not None:
        right_from_camera[0, 3] = -float(baseline)
    elif None not in poses:
        left, right = (_rigid(path, name, pose) for pose in poses)
        right_from_camera = se3.compose(se3.inverse(right), left)
    else:
        return {}
    return {
        "right_rgb": read_rgb(path / "images" / other),
        "right_camera": _camera(path, meta, other),
        "right_from_camera": right_from_camera,
    }


def _rigid(path: Path, name: str, matrix: Any, what: str = "world_from_camera") -> FloatArray:
    T = np.asarray(matrix, float)
    if T.shape != (4, 4) or not np.isfinite(T).all() or not abs(np.linalg.det(T[:3, :3]) - 1) < 0.1:
        raise InvalidInput(f"{path / 'meta.json'}: {what} of {name} is no 4x4 pose")
    return se3.compose(T)  # files hold few digits


# --- bags ------------------------------------------------------------------------------------


def _truth_of(bag: AnyBag) -> dict[int, FloatArray]:
    topic = next((t for t in TRUTHS if t in bag.types), None)
    if topic is None:
        return {}
    stamps, poses = read_truth(bag, topic)
    return dict(zip(stamps, poses, strict=True))


def _bag_shots(
    bag: AnyBag, topics: BagTopics, truth: dict[int, FloatArray], values: Values
) -> Iterator[Shot]:
    inputs = Inputs(input_options(topics, values))
    builder, mounting = frame_builder(topics, values), Mounting(bag, values, by_default=True)
    stamps = np.array(sorted(truth), np.int64)
    for bundle in bundles_of(bag, topics, inputs):
        try:
            frame = builder.build(bundle)
        except InvalidInput:
            continue
        known = _at(stamps, truth, frame.stamp_ns)
        odometry = inputs.odometry_at(frame.stamp_ns)
        yield Shot(frame, "", known, odometry, mounting.base_from_camera(frame.frame_id))


def _at(stamps: np.ndarray, truth: dict[int, FloatArray], stamp_ns: int) -> FloatArray | None:
    if not len(stamps):
        return None
    nearest = int(stamps[np.abs(stamps - stamp_ns).argmin()])
    return truth[nearest] if abs(nearest - stamp_ns) <= TRUTH_WITHIN_NS else None
