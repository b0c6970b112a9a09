"""Posed images to build a scene from: our own scenes, COLMAP text, nerfstudio's transforms.json.

    FOLDER/meta.json            an evaluation scene, a sequence, or what `l2m simulate` wrote
    FOLDER/transforms.json      nerfstudio (OpenGL axes: y up, z backward)
    FOLDER[/sparse[/0]]/cameras.txt, images.txt   COLMAP, images in FOLDER/images

Pixel centres lie at integers here and at one half in COLMAP and nerfstudio: principal points
are moved by half a pixel. Images with a lens are undistorted to the same K.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, inside, read_json, read_text
from l2m_ros.geometry.camera import undistort_maps
from l2m_ros.mapping.export import COLMAP_LENSES, NERFSTUDIO_LENSES
from l2m_ros.progress import track
from l2m_ros.types import DISTORTION_LENGTHS, ByteArray, Camera, FloatArray
from l2m_ros.workshop.evaluation.scenes import View, load_cameras, read_rgb, rigid
from l2m_ros.workshop.gaussians.labels import at_jump, depth_at
from l2m_ros.workshop.gaussians.model import PosedCamera

LEAST_IMAGES = 3
Y_DOWN = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL camera axes -> ours


@dataclass(frozen=True, eq=False)
class Capture:
    """An image, where it was taken, and its depth where known."""

    name: str
    rgb: ByteArray  # (H, W, 3)
    view: PosedCamera
    depth: FloatArray | None  # (H, W) along the optical axis, NaN = unknown

    def shrunk(self, longest_px: int) -> Capture:
        small = View(self.rgb, self.view.camera, self.depth).shrunk(longest_px)
        assert small.camera is not None
        view, depth = replace(self.view, camera=small.camera), small.depth
        if depth is not None and self.depth is not None:
            depth = _between_pixels(self.depth, depth)
        return Capture(self.name, small.rgb, view, depth)


def _between_pixels(full: FloatArray, nearest: FloatArray) -> FloatArray:
    """`nearest`, interpolated away from depth edges: on a floor the nearest pixel is 0.5 % off."""
    height, width = nearest.shape
    v, u = np.mgrid[:height, :width]
    size = np.array(full.shape[::-1]) / (width, height)
    at = (np.stack([u, v], axis=-1) + 0.5) * size - 0.5
    column, row = at.round().astype(int).clip(0, np.array(full.shape[::-1]) - 1).transpose(2, 0, 1)
    between = depth_at(full, at)
    smooth = (between > 0) & ~at_jump(full)[row, column]
    return np.where(smooth, between, nearest).astype(nearest.dtype)


@dataclass(frozen=True)
class HoldOut:
    """Views `first`, `first` + `every`, ... are measured on and never trained on."""

    every: int = 8
    first: int = 4

    def __post_init__(self) -> None:
        if self.every < 2 or not 0 <= self.first < self.every:
            raise InvalidInput(
                "EVERY:FIRST holds out one view of EVERY (2 at least), FIRST is 0 to EVERY - 1; "
                f"got {self.every}:{self.first}"
            )


@dataclass(frozen=True, eq=False)
class Captures:
    """All images of a source, and which of them are held out."""

    source: Path
    items: list[Capture]
    metric: bool
    held_out_names: frozenset[str] = frozenset()

    def holding_out(self, which: HoldOut | Collection[str]) -> Captures:
        """The same images; those of a rule, or of these names, are held out."""
        if isinstance(which, HoldOut):
            which = [capture.name for capture in self.items[which.first :: which.every]]
        return replace(self, held_out_names=frozenset(which))

    @property
    def held_out(self) -> list[Capture]:
        return [c for c in self.items if c.name in self.held_out_names]

    @property
    def training(self) -> list[Capture]:
        return [c for c in self.items if c.name not in self.held_out_names]


def load_folder(
    source: Path, *, longest_px: int = 320, limit: int = 200, only: Collection[str] | None = None
) -> Captures:
    """At most `limit` images, spread over the source, shrunk to `longest_px`.

    With `only`, just the images of these names, however many.
    """
    for marker, reader in READERS:
        if (source / marker).is_file():
            with foreign_values(source / marker):
                names, read, metric = reader(source)
            break
    else:
        raise InvalidInput(
            f"{source}: holds none of {', '.join(marker for marker, _ in READERS)}: give a scene "
            "(meta.json), nerfstudio's transforms.json, or COLMAP's text files (run `colmap "
            "model_converter --output_type TXT` on a binary model)"
        )
    names = spread(names, limit, only, source, "posed images")
    items = []
    for name in track(names, "reading images"):
        with foreign_values(f"{source / marker}: {name}"):
            items.append(read(name).shrunk(longest_px))
    return Captures(source, items, metric)


def spread(
    names: list[str], limit: int, only: Collection[str] | None, source: Path, what: str
) -> list[str]:
    """At most `limit` of the names, evenly; those of `only`, however many, where it is given."""
    if len(names) < LEAST_IMAGES:
        raise InvalidInput(
            f"{source}: {len(names)} {what} are too few: give at least {LEAST_IMAGES}"
        )
    if only is not None:
        return [name for name in names if name in only]
    if len(names) <= limit:
        return names
    return [names[i] for i in np.linspace(0, len(names) - 1, limit).round().astype(int)]


def _scene(source: Path) -> Any:
    scene = load_cameras(source)
    meta = scene.meta
    names = [
        name
        for name, entry in meta.get("cameras", {}).items()
        if "world_from_camera" in entry and (entry.get("K") or meta.get("K"))
    ]

    def read(name: str) -> Capture:
        view, pose = scene.view(name), scene.world_from_camera(name)
        assert view.camera is not None and pose is not None
        return Capture(name, view.rgb, PosedCamera(view.camera, np.linalg.inv(pose)), view.depth)

    return sorted(names), read, bool(meta.get("metric", False))


def _nerfstudio(source: Path) -> Any:
    meta = read_json(source / "transforms.json")
    frames = {frame["file_path"]: frame for frame in meta.get("frames", [])}

    def read(name: str) -> Capture:
        path = inside(source, name)
        rgb = read_rgb(path if path.suffix else path.with_suffix(".png"))
        entry = {**meta, **frames[name]}
        camera = _nerfstudio_camera(entry, rgb, f"{source}/transforms.json: {name}")
        pose = rigid(entry["transform_matrix"], f"{name}: transform_matrix") @ Y_DOWN
        return undistorted(name, rgb, camera, np.linalg.inv(pose))

    return sorted(frames), read, False


def _nerfstudio_camera(entry: dict[str, Any], rgb: ByteArray, where: str) -> Camera:
    height, width = rgb.shape[:2]
    stated = float(entry.get("w", width))
    if "fl_x" in entry:
        fx = float(entry["fl_x"])
    elif "camera_angle_x" in entry:
        fx = 0.5 * stated / np.tan(0.5 * float(entry["camera_angle_x"]))
    else:
        raise InvalidInput(f"{where} has no focal length (fl_x or camera_angle_x)")
    scale = width / stated  # images may have been shrunk since
    fy = float(entry.get("fl_y", fx)) * scale
    cx = float(entry.get("cx", stated / 2)) * scale - 0.5
    cy = float(entry.get("cy", float(entry.get("h", height / scale)) / 2)) * scale - 0.5
    K = np.array([[fx * scale, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    model = str(entry.get("camera_model", "OPENCV"))
    if model not in NERFSTUDIO_MODELS:
        raise InvalidInput(
            f"{where} is of model {model}: undistort first, to {', '.join(NERFSTUDIO_MODELS)}"
        )
    kind = NERFSTUDIO_MODELS[model]
    names = NERFSTUDIO_LENSES[kind][1]
    others = [name for name in NERFSTUDIO_NUMBERS if name not in names and entry.get(name, 0.0)]
    if others:
        raise InvalidInput(f"{where} has {', '.join(others)}: undistort first")
    D = [float(entry.get(name, 0.0)) for name in names]
    lens = (kind, np.array(D)) if any(D) or kind == "equidistant" else ("none", np.zeros(0))
    return Camera(width, height, K, *lens)


# nerfstudio's model -> ours
NERFSTUDIO_MODELS = {
    "PINHOLE": "plumb_bob",
    "SIMPLE_PINHOLE": "plumb_bob",
    **{model: kind for kind, (model, names) in NERFSTUDIO_LENSES.items() if names},
}
NERFSTUDIO_NUMBERS = ("k1", "k2", "k3", "k4", "p1", "p2")


def _colmap_at(folder: str) -> Any:
    def reader(source: Path) -> Any:
        return _colmap(source, source / folder)

    return reader


def _colmap(source: Path, model: Path) -> Any:
    cameras = {line[0]: line[1:] for line in _rows(model / "cameras.txt")}
    # Every second line lists the image's points; it may be empty.
    lines = read_text(model / "images.txt").splitlines()
    headers = [line.split() for line in lines if line and not line.startswith("#")][::2]
    with_points = [line for line in lines if not line.startswith("#")]
    if any(not line.strip() for line in with_points):
        headers = [line.split() for line in with_points[::2] if line.strip()]
    images = {" ".join(row[9:]): row for row in headers}

    def read(name: str) -> Capture:
        row = images[name]
        rgb = read_rgb(inside(source / "images", name))
        camera = _colmap_camera(cameras[row[8]], rgb, f"{model}/cameras.txt: {row[8]}")
        w, x, y, z = (float(v) for v in row[1:5])
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
        pose[:3, 3] = [float(v) for v in row[5:8]]
        pose = rigid(pose, f"{name}: its pose")
        return undistorted(name, rgb, camera, pose)

    return sorted(images), read, False


def _rows(path: Path) -> Iterator[list[str]]:
    for line in read_text(path).splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.split()


# COLMAP's model -> (ours; which parameters are fx, fy, cx, cy; how many of D follow)
COLMAP_MODELS: dict[str, tuple[str, Sequence[int], int]] = {
    "SIMPLE_PINHOLE": ("none", (0, 0, 1, 2), 0),
    "SIMPLE_RADIAL": ("plumb_bob", (0, 0, 1, 2), 1),
    "RADIAL": ("plumb_bob", (0, 0, 1, 2), 2),
    **{model: (kind, (0, 1, 2, 3), count) for kind, (model, count) in COLMAP_LENSES.items()},
}


def _colmap_camera(row: list[str], rgb: ByteArray, where: str) -> Camera:
    model, stated, values = row[0], (int(row[1]), int(row[2])), [float(v) for v in row[3:]]
    if model not in COLMAP_MODELS:
        raise InvalidInput(
            f"{where} is of model {model}: undistort first (`colmap image_undistorter`)"
        )
    kind, intrinsic, count = COLMAP_MODELS[model]
    fx, fy, cx, cy = (values[i] for i in intrinsic)
    K = np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1.0]])
    D = np.zeros(DISTORTION_LENGTHS[kind][-1])
    D[:count] = values[max(intrinsic) + 1 :][:count]
    lens = (kind, D) if D.any() or kind == "equidistant" else ("none", np.zeros(0))
    return Camera(*stated, K, *lens).resized(rgb.shape[1], rgb.shape[0])


def undistorted(
    name: str, rgb: ByteArray, camera: Camera, pose: FloatArray, depth: FloatArray | None = None
) -> Capture:
    """The image without its lens; pose is camera_from_world."""
    if camera.distortion != "none":
        maps = undistort_maps(camera)
        rgb = cv2.remap(rgb, *maps, cv2.INTER_LINEAR)
        if depth is not None:  # depth of two surfaces has no mean
            depth = cv2.remap(
                depth, *maps, cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT, borderValue=float("nan"),
            )  # fmt: skip
    return Capture(name, rgb, PosedCamera(camera.pinhole(), pose), depth)


READERS = [
    ("meta.json", _scene),
    ("transforms.json", _nerfstudio),
    ("sparse/0/cameras.txt", _colmap_at("sparse/0")),
    ("sparse/cameras.txt", _colmap_at("sparse")),
    ("cameras.txt", _colmap_at(".")),
]
