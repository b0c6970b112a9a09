"""Scenes with ground truth on disk, read with words for whatever is wrong.

    SCENE/images/*           depth/<stem>.png     uint16, metres = value * depth_scale, 0 = unknown
    SCENE/meta.json          K or cameras[name].K, width, height, world_from_camera, max_depth
    SCENE/pairs.json         [{"a", "b", "T_b_a": 4x4, "metric"} or {"a", "b", "H_b_a": 3x3}]

T_b_a takes points of camera a into camera b, H_b_a pixels of a into b. Image a is the query and
b the keyframe, so T_b_a is what `keyframe_from_camera` should be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2m_ros import images
from l2m_ros.errors import InvalidInput
from l2m_ros.files import inside, read_file
from l2m_ros.image_header import ANY_SIDES, checked_size
from l2m_ros.images import read_rgb
from l2m_ros.types import ByteArray, Camera, FloatArray, Frame

Size = tuple[int, int]  # (width, height)

RIGID_TOLERANCE = 1e-3  # of R^T R - I in a file: cameras written with five digits are fine


@dataclass(frozen=True, eq=False)
class View:
    """An image, with its camera and depth where the scene knows them."""

    rgb: ByteArray  # (H, W, 3)
    camera: Camera | None
    depth: FloatArray | None  # (H, W) metres, NaN = unknown

    @property
    def size(self) -> Size:
        return self.rgb.shape[1], self.rgb.shape[0]

    def shrunk(self, longest_px: int | None) -> View:
        """Image, camera and depth together, the longest side at most `longest_px`."""
        longest = max(self.size)
        if longest_px is None or longest <= longest_px:
            return self
        width, height = (round(side * longest_px / longest) for side in self.size)
        rgb = cv2.resize(self.rgb, (width, height), interpolation=cv2.INTER_AREA)
        camera = None if self.camera is None else self.camera.resized(width, height)
        depth = self.depth
        if depth is not None:  # nearest: a mean across an edge lies on neither surface
            depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return View(rgb, camera, depth)

    def frame(self) -> Frame:
        if self.camera is None:
            raise InvalidInput("this image has no camera matrix: its scene has homographies only")
        return Frame(self.rgb, self.camera, self.depth)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images and the truth between them: exactly one of the matrices is there."""

    a: str
    b: str
    b_from_a: FloatArray | None = None  # 4x4
    homography: FloatArray | None = None  # 3x3, pixels of a -> pixels of b at full size
    metric: bool = False
    overlap: float = 0.5  # share of the views that both see, where pairs.json says so


@dataclass(frozen=True, eq=False)
class Scene:
    """A folder whose two JSON files have been read and checked; images are read when asked for."""

    name: str
    folder: Path
    pairs: list[Pair]
    meta: dict[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """pose, or homography for planar scenes."""
        return "homography" if self.pairs and self.pairs[0].homography is not None else "pose"

    def limited(self, count: int | None) -> Scene:
        """At most `count` pairs, spread over the list."""
        if count is None or count >= len(self.pairs):
            return self
        chosen = np.linspace(0, len(self.pairs) - 1, count).round().astype(int)
        return replace(self, pairs=[self.pairs[i] for i in chosen])

    def view(self, name: str) -> View:
        rgb = read_rgb(inside(self.folder / "images", name))
        size = (rgb.shape[1], rgb.shape[0])
        return View(rgb, self._camera(name, size), self._depth(name, size))

    def check_view(self, name: str) -> None:
        """Refuse at once what `view` would refuse of its image and camera, and one without depth.

        By headers alone: a training reads thousands of views, each when it is drawn.
        """
        path = inside(self.folder / "images", name)
        size = checked_size(read_file(path, images.MAX_BYTES), str(path))
        camera, depth = self._camera(name, size), self._depth_path(name)
        if camera is None or not depth.is_file():
            raise InvalidInput(f"{self.folder}: {name} has no depth or no camera to train with")
        found = checked_size(read_file(depth, images.MAX_BYTES), str(depth), ANY_SIDES)
        if found != size:
            raise InvalidInput(f"{depth} is {found[0]}x{found[1]}, its image {size[0]}x{size[1]}")

    def world_from_camera(self, name: str) -> FloatArray | None:
        matrix = self.meta.get("cameras", {}).get(name, {}).get("world_from_camera")
        if matrix is None:
            return None
        return rigid(matrix, f"{self.folder}/meta.json: world_from_camera of {name}")

    def _camera(self, name: str, size: Size) -> Camera | None:
        where = f"{self.folder}/meta.json: {name}"
        entry = self.meta.get("cameras", {}).get(name, {})
        stated = (entry.get("width", size[0]), entry.get("height", size[1]))
        if stated != size:
            raise InvalidInput(
                f"{where} is {size[0]}x{size[1]} but its camera says {stated[0]}x{stated[1]}"
            )
        K = entry.get("K") or self.meta.get("K")
        if K is None:
            if self.kind == "pose":
                raise InvalidInput(f"{where} has no K, neither its own nor the scene's")
            return None
        matrix = _matrix(K, (3, 3), f"{where}: K")
        try:
            return Camera(*size, matrix)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error}") from error

    def _depth_path(self, name: str) -> Path:
        return self.folder / "depth" / f"{Path(name).stem}.png"

    def _depth(self, name: str, size: Size) -> FloatArray | None:
        path = self._depth_path(name)
        if not path.is_file():
            return None
        raw = images.read_grey16(path)
        if raw.shape != size[::-1]:
            found = f"{raw.shape} of {raw.dtype}"
            raise InvalidInput(f"{path}: expected uint16 of {size[1]}x{size[0]} rows, is {found}")
        scale = self.meta.get("depth_scale")
        if not _is_positive(scale):
            raise InvalidInput(f"{self.folder}/meta.json: depth needs a positive depth_scale")
        depth = raw.astype(np.float32) * np.float32(scale)
        unknown = (raw == 0) | (depth > self.meta.get("max_depth", np.inf))
        return np.asarray(np.where(unknown, np.float32(np.nan), depth))


def shrunk_pair(pair: Pair, full_a: Size, small_a: Size, full_b: Size, small_b: Size) -> Pair:
    """The truth between the shrunk views; a pose stays as it is, a homography follows."""
    if pair.homography is None:
        return pair
    a, b = resizing(full_a, small_a), resizing(full_b, small_b)
    return replace(pair, homography=b @ pair.homography @ np.linalg.inv(a))


def resizing(full: Size, small: Size) -> FloatArray:
    """3x3, pixels of the full image -> pixels of the small one: u' + 1/2 = s (u + 1/2)."""
    x, y = small[0] / full[0], small[1] / full[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1.0]])


def find_scenes(paths: Sequence[Path]) -> list[Scene]:
    """Every path is a scene or a folder of scenes; they come in the order of their names."""
    scenes = []
    for path in paths:
        if not path.is_dir():
            raise InvalidInput(f"{path}: no such folder; a scene holds meta.json and pairs.json")
        if is_scene(path):
            scenes.append(load_scene(path))
            continue
        inside = [load_scene(child) for child in sorted(path.iterdir()) if is_scene(child)]
        if not inside:
            raise InvalidInput(f"{path} is no scene (meta.json, pairs.json) and holds none")
        scenes += inside
    return scenes


def is_scene(path: Path) -> bool:
    """One of the two files is enough: the other's absence is then said in words."""
    return (path / "meta.json").is_file() or (path / "pairs.json").is_file()


def load_cameras(folder: Path) -> Scene:
    """The images and cameras of a folder, whatever pairs it lists."""
    meta = _json(folder / "meta.json")
    if not isinstance(meta, dict) or not isinstance(meta.get("cameras", {}), dict):
        raise InvalidInput(f"{folder}/meta.json must hold an object, with cameras by image name")
    if not all(isinstance(camera, dict) for camera in meta.get("cameras", {}).values()):
        raise InvalidInput(f"{folder}/meta.json: each of cameras must be an object")
    if not _is_positive(meta.get("max_depth", 1.0)):
        raise InvalidInput(f"{folder}/meta.json: max_depth must be metres, and positive")
    return Scene(folder.resolve().name, folder, [], meta)


def load_scene(folder: Path) -> Scene:
    scene, entries = load_cameras(folder), _json(folder / "pairs.json")
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"{folder}/pairs.json must hold a list of at least one pair")
    pairs = [_pair(entry, folder, index) for index, entry in enumerate(entries)]
    if len({pair.homography is None for pair in pairs}) > 1:
        raise InvalidInput(f"{folder}/pairs.json mixes T_b_a and H_b_a: split it into two scenes")
    return replace(scene, pairs=pairs)


def _pair(entry: Any, folder: Path, index: int) -> Pair:
    where = f"{folder}/pairs.json: pair {index}"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} must be an object with a, b and T_b_a or H_b_a")
    for key in ("a", "b"):
        if not isinstance(entry.get(key), str):
            raise InvalidInput(f"{where} names no image {key}")
        if not inside(folder / "images", entry[key]).is_file():
            raise InvalidInput(f"{where}: there is no images/{entry[key]} in {folder}")
    if ("T_b_a" in entry) == ("H_b_a" in entry):
        raise InvalidInput(f"{where} needs exactly one of T_b_a (4x4) and H_b_a (3x3)")
    if "T_b_a" in entry:
        pose = rigid(entry["T_b_a"], f"{where}: T_b_a")
        overlap = entry.get("overlap", 0.5)
        if not isinstance(overlap, int | float) or not 0 <= overlap <= 1:
            raise InvalidInput(f"{where}: overlap {overlap!r} is no number from 0 to 1")
        return Pair(entry["a"], entry["b"], pose, None, bool(entry.get("metric")), float(overlap))
    H = _matrix(entry["H_b_a"], (3, 3), f"{where}: H_b_a")
    if abs(np.linalg.det(H)) < 1e-12:
        raise InvalidInput(f"{where}: H_b_a is singular")
    return Pair(entry["a"], entry["b"], homography=H)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(f"{path} is missing: a scene holds meta.json and pairs.json") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < 1e30


def _matrix(value: Any, shape: tuple[int, int], where: str) -> FloatArray:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"{where} is no matrix of numbers") from error
    if matrix.shape != shape or not np.isfinite(matrix).all():
        raise InvalidInput(
            f"{where} must be {shape[0]}x{shape[1]} finite numbers, got shape {matrix.shape}"
        )
    return matrix


def rigid(value: Any, where: str) -> FloatArray:
    """The nearest rotation is taken, so that rounding in the file does no harm."""
    matrix = _matrix(value, (4, 4), where)
    R = matrix[:3, :3]
    if np.abs(R.T @ R - np.eye(3)).max() > RIGID_TOLERANCE or np.linalg.det(R) < 0:
        raise InvalidInput(f"{where} does not hold a rotation (R^T R = I, det R = 1)")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 0:
        raise InvalidInput(f"{where} must end in the row 0 0 0 1, got {matrix[3].tolist()}")
    U, _, Vt = np.linalg.svd(R)
    nearest = np.array(matrix)
    nearest[:3, :3] = U @ Vt
    return nearest
