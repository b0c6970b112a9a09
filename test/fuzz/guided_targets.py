"""Parsers of what comes from outside, each as a function of bytes, with inputs to begin with.

Only an L2MError may come out. `coverage_guided.py` changes the bytes; nothing here knows of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fuzz.test_cards import CARD
from fuzz.test_files import ARRAYS, DEPTHS, PICTURES, SHARD, saved
from l2m_ros.bags.recording import open_recording
from l2m_ros.bags.recovery import recovered
from l2m_ros.engines.model_card import load_card
from l2m_ros.errors import L2MError
from l2m_ros.frames.compressed_depth import decompress_depth
from l2m_ros.image_header import SizeLimits, focal_in_widths
from l2m_ros.images import decoded, read_array, read_arrays
from l2m_ros.mapping.store import open_map
from l2m_ros.parameters.file import parameter_values
from l2m_ros.workshop.evaluation.scenes import load_scene
from l2m_ros.workshop.evaluation.trajectory import read_tum
from l2m_ros.workshop.gaussians.ply import read_ply
from l2m_ros.workshop.gaussians.record import read_record
from l2m_ros.workshop.gaussians.sources import load_captures
from l2m_ros.workshop.lifting.shards import read_shard

LIMITS = SizeLimits(pixels=1 << 14, smallest_side=1)
TUM = b"0.1 1 2 3 0 0 0 1\n# x\n0.2 1 2 3 0 0 0 1\n"
K = [[50.0, 0, 11.5], [0, 50, 9.5], [0, 0, 1]]
POSED = {f"{i}.png": {"world_from_camera": np.eye(4).tolist(), "stamp_s": i} for i in range(4)}
META = json.dumps({"K": K, "cameras": POSED, "depth_scale": 0.001, "max_depth": 9.0})
PAIRS = json.dumps([{"a": "0.png", "b": "1.png", "T_b_a": np.eye(4).tolist(), "metric": True}])
FRAMES = [
    {"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(4)
]
ENTRY = {"width": 24, "height": 20, "K": K, "world_from_camera": np.eye(4).tolist()}
RECORD = {"source": ".", "longest_px": 320, "views": 9, "metric": True, "held_out": 1}
NAMES = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2",
         "rot_0", "rot_1", "rot_2", "rot_3")  # fmt: skip
PLY = "ply\nformat binary_little_endian 1.0\nelement vertex 2\n" + "".join(
    f"property float {name}\n" for name in NAMES
)


@dataclass(frozen=True)
class Target:
    """A parser of bytes and whole inputs of it."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


_FOLDER = Path(tempfile.mkdtemp(prefix="l2m_fuzz"))
(_FOLDER / "images").mkdir()
for _i in range(4):
    (_FOLDER / "images" / f"{_i}.png").write_bytes(PICTURES[".png"])


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    def parse(content: bytes) -> object:
        path = _FOLDER / name
        path.write_bytes(content)
        try:
            return read(path)
        finally:
            path.unlink(missing_ok=True)

    return parse


def _picture(content: bytes) -> None:
    focal_in_widths(content)
    assert decoded(content, "p", cv2.IMREAD_UNCHANGED, LIMITS).size


def _compressed_depth(content: bytes) -> None:
    form = "16UC1; compressedDepth png" if content[:1] < b"\x80" else "32FC1; compressedDepth rvl"
    depth = decompress_depth(content[1:], form, LIMITS)
    assert (np.isnan(depth) | (depth > 0)).all()


def _scene(content: bytes) -> None:
    meta, _, pairs = content.partition(b"\0")
    (_FOLDER / "meta.json").write_bytes(meta)
    (_FOLDER / "pairs.json").write_bytes(pairs)
    try:
        scene = load_scene(_FOLDER)
        for pair in scene.pairs:
            scene.view(pair.a)
    finally:
        for name in ("meta.json", "pairs.json"):
            (_FOLDER / name).unlink()


def _recording(path: Path) -> None:
    with open_recording(path.parent) as recording:
        for shot in recording.shots():
            assert shot.truth is None or np.isfinite(shot.truth).all()


def _bag(path: Path) -> None:
    bag = recovered(path)
    if bag is not None:
        for topic in list(bag.types):
            for _ in bag.messages([topic]):
                pass


def _map(path: Path) -> None:
    store = open_map(str(path))
    try:
        store.info()
        store.vocabulary()
        for read in (store.poses, store.edges, store.descriptors):
            with contextlib.suppress(L2MError):
                read()
        for id in store.ids():
            with contextlib.suppress(L2MError):
                store.keyframe(id).frame()
    finally:
        store.close()


def _captures(path: Path) -> None:
    for capture in load_captures(path.parent).items:
        assert np.isfinite(capture.view.camera_from_world).all()


def _map_seed() -> bytes:
    from fakes.keyframes import features, map_keyframe

    path = _FOLDER / "seed.l2m"
    store = open_map(str(path), create=True)
    store.add(map_keyframe(1), (), features(), np.ones(4, np.float32))
    store.close()
    content = path.read_bytes()
    path.unlink()
    return content


def _bag_seed() -> bytes:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            time = store.types["builtin_interfaces/msg/Time"]
            where = writer.add_connection("/t", "builtin_interfaces/msg/Time", typestore=store)
            for k in range(3):
                raw = store.serialize_cdr(time(k, 0), "builtin_interfaces/msg/Time")
                writer.write(where, k, raw)
        return (path / "bag.mcap").read_bytes()


def targets() -> dict[str, Target]:
    """By name."""
    record = json.dumps({**RECORD, "cameras": {"0.png": ENTRY}}).encode()
    transforms = json.dumps({"fl_x": 50.0, "w": 24, "h": 20, "frames": FRAMES}).encode()
    return {
        "picture": Target(_picture, tuple(PICTURES.values())),
        "depth": Target(_compressed_depth, (b"\0" * 13 + DEPTHS[".png"], b"\xff" * 40)),
        "npy": Target(_in_file("a.npy", read_array), (saved(np.ones((3, 4), np.float32)),)),
        "npz": Target(read_arrays, (ARRAYS,)),
        "shard": Target(_in_file("s.tar", lambda p: list(read_shard(p))), (SHARD,)),
        "card": Target(_in_file("card.yaml", load_card), (json.dumps(CARD).encode(),)),
        "parameters": Target(
            _in_file("p.yaml", lambda p: parameter_values(p, {})),
            (b"/**:\n  ros__parameters:\n    model: orb\n    tracking: {subpixel: true}\n",),
        ),
        "scene": Target(_scene, (f"{META}\0{PAIRS}".encode(),)),
        "recording": Target(_in_file("meta.json", _recording), (META.encode(),)),
        "bag": Target(_in_file("b.mcap", _bag), (_bag_seed(),)),
        "map": Target(_in_file("m.l2m", _map), (_map_seed(),)),
        "truth": Target(_in_file("t.tum", read_tum), (TUM,)),
        "gaussians": Target(
            _in_file("s.ply", read_ply), (f"{PLY}end_header\n".encode() + bytes(4 * 28),)
        ),
        "record": Target(
            _in_file("r.json", lambda p: read_record(p.with_suffix(".ply"))), (record,)
        ),
        "nerfstudio": Target(_in_file("transforms.json", _captures), (transforms,)),
    }  # fmt: skip


os.environ.setdefault("L2M_FUZZ", "1")
