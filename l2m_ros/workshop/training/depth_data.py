"""Images with known depth, and what `lite`'s encoder sees in them: to learn metres from.

    images of a world      rendered from anywhere a camera may be, near things too
    images of a sequence   colour, depth and K of an RGB-D recording
    samples                cropped, stretched, mirrored, recoloured; encoded once, kept as float16

The encoder is frozen, so a training step costs the head alone. What is learnt is
log(depth / focal length in px) of the network's input, which holds for any camera and any crop.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2m_ros import images
from l2m_ros.engines.backend import Array, Backend
from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_text
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.evaluation.scenes import read_rgb
from l2m_ros.workshop.simulation.render import render
from l2m_ros.workshop.simulation.world import World, make_world

CELL = 16  # px of a side
LEAST_KNOWN = 0.4  # share of a cell's pixels whose depth must be known
FEATURES = ("coarse", "middle")


@dataclass(frozen=True, eq=False)
class DepthImage:
    rgb: ByteArray  # (H, W, 3)
    K: FloatArray  # (3, 3)
    depth: FloatArray  # (H, W) metres, NaN = unknown


# --- sources ----------------------------------------------------------------------------------


def images_of_world(seed: int, count: int, size: tuple[int, int]) -> Iterator[DepthImage]:
    """Views of one rendered world, each with another camera; at most 3 tries a view."""
    rng = np.random.default_rng([seed, 77])
    world = make_world("varied", seed)
    made = 0
    for _ in range(3 * count):
        camera = _camera(rng, size)
        pose = _somewhere(world, rng)
        if rng.random() < 0.4:
            pose = _nearer(world, pose, rng)
        picture = render(world.view(pose), camera)
        if _worth(picture.depth_m):
            made += 1
            yield DepthImage(picture.rgb, camera.K, picture.depth_m)
        if made == count:
            return


def _camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    width, height = size
    focal_px = 0.5 * width / np.tan(np.deg2rad(rng.uniform(48.0, 88.0)) / 2)
    K = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1.0]])
    return Camera(width, height, K)


def _somewhere(world: World, rng: np.random.Generator) -> FloatArray:
    """A camera in the free space, or a step beside it; it looks anywhere, mostly downwards."""
    low, high = world.free_box_m
    step = np.array([0.5, 0.5, 0.0])
    place = rng.uniform(low - step, high + step)
    around = np.pi if world.sky is None else 1.2
    yaw, pitch, roll = rng.uniform(-around, around), rng.normal(-0.15, 0.22), rng.normal(0, 0.06)
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    pose[:3, 3] = place
    return pose


def _nearer(world: World, pose: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The camera moved forward until what it looks at is 0.4 to 1.6 m away."""
    view, ray = world.view(pose), np.array([[0.0, 0.0, 1.0]])
    depth = float(view.depth_m(view.first_hit(ray), ray)[0])
    wanted = rng.uniform(0.4, 1.6)
    if not np.isfinite(depth) or depth < wanted:
        return pose
    moved = pose.copy()
    moved[:3, 3] += (depth - wanted) * pose[:3, 2]
    return moved


def _worth(depth: FloatArray) -> bool:
    """Neither inside of something nor all sky."""
    known = depth[np.isfinite(depth)]
    if known.size < 0.5 * depth.size:
        return False
    return bool(np.quantile(known, 0.02) > 0.15 and np.median(known) > 0.35)


def images_of_sequence(folder: Path, every: int = 1) -> Iterator[DepthImage]:
    """Frames of an RGB-D recording: images/, depth/, meta.json with K."""
    path = folder / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(read_text(path))
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    for name, entry in sorted(meta.get("cameras", {}).items())[::every]:
        file = folder / "depth" / f"{Path(name).stem}.png"
        if not file.is_file():
            continue
        raw = images.read_grey16(file)
        depth = np.where(raw == 0, np.nan, raw * np.float32(meta["depth_scale"]))
        K = np.asarray(entry.get("K") or meta["K"], float)
        yield DepthImage(read_rgb(folder / "images" / name), K, depth.astype(np.float32))


# --- samples ----------------------------------------------------------------------------------


def stretched(image: DepthImage, size: tuple[int, int]) -> DepthImage:
    """Resized as `lite` resizes its input: both sides on their own."""
    width, height = image.rgb.shape[1], image.rgb.shape[0]
    if (width, height) == size:
        return image
    K = Camera(width, height, image.K).resized(*size).K
    small = size[0] < width
    rgb = cv2.resize(image.rgb, size, interpolation=cv2.INTER_AREA if small else cv2.INTER_LINEAR)
    depth = cv2.resize(image.depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return DepthImage(rgb, K, depth)


def cropped(image: DepthImage, rng: np.random.Generator) -> DepthImage:
    """A part of 50 to 100 % of the width, of another aspect; mirrored half the time."""
    rows, columns = image.depth.shape
    share, aspect = rng.uniform(0.5, 1.0), np.exp(rng.normal(0, 0.25))
    width = int(columns * min(share * max(aspect, 1.0), 1.0))
    height = int(rows * min(share / min(aspect, 1.0) if aspect < 1 else share / aspect, 1.0))
    width, height = max(width, columns // 3), max(height, rows // 3)
    x, y = int(rng.integers(columns - width + 1)), int(rng.integers(rows - height + 1))
    window = slice(y, y + height), slice(x, x + width)
    rgb, depth, K = image.rgb[window], image.depth[window], image.K.copy()
    K[0, 2], K[1, 2] = K[0, 2] - x, K[1, 2] - y
    if rng.random() < 0.5:
        rgb, depth = rgb[:, ::-1], depth[:, ::-1]
        K[0, 2] = width - 1 - K[0, 2]
    return DepthImage(np.ascontiguousarray(rgb), K, np.ascontiguousarray(depth))


def recoloured(rgb: ByteArray, rng: np.random.Generator) -> ByteArray:
    """Exposure, contrast, white balance, saturation, blur and noise of another camera."""
    x = rgb.astype(np.float32) / 255.0
    x = x ** np.exp(rng.normal(0, 0.25)) * rng.normal(1.0, 0.08, 3).astype(np.float32)
    grey = x.mean(axis=2, keepdims=True)
    x = grey + (x - grey) * (0.0 if rng.random() < 0.2 else rng.uniform(0.4, 1.2))
    if rng.random() < 0.4:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
    x = x + rng.normal(0, rng.uniform(0.0, 0.03), x.shape)
    return np.clip(255 * x, 0, 255).astype(np.uint8)


def cell_labels(depth: FloatArray, K: FloatArray) -> FloatArray:
    """(rows, columns) log of depth over focal length of each cell, NaN = too little known."""
    rows, columns = depth.shape[0] // CELL, depth.shape[1] // CELL
    blocks = depth[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL)
    blocks = blocks.swapaxes(1, 2).reshape(rows, columns, CELL * CELL)
    known = np.isfinite(blocks) & (blocks > 0)
    middle = np.sort(np.where(known, blocks, np.inf), axis=2)
    count = known.sum(axis=2)
    at = np.maximum(count - 1, 0) // 2
    median = np.take_along_axis(middle, at[..., None], axis=2)[..., 0]
    enough = count >= LEAST_KNOWN * CELL * CELL
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(median / np.sqrt(K[0, 0] * K[1, 1]))
    return np.where(enough, log, np.nan).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Samples:
    """What a head learns from: features of N images, their labels, the place of each."""

    features: Array  # (N, C, rows, columns) float16
    labels: Array  # (N, rows, columns) float32, NaN = unknown
    place: Array  # (N,) int

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=self.features, labels=self.labels, place=self.place)

    @staticmethod
    def load(paths: Sequence[Path]) -> Samples:
        parts = [np.load(path) for path in paths]
        return Samples(*(np.concatenate([p[name] for p in parts])
                         for name in ("features", "labels", "place")))  # fmt: skip


def encoded(backend: Backend, rgb: ByteArray) -> Array:
    """(C, rows, columns) float16 of an image of the encoder's size: `coarse`, `middle` halved."""
    tensor = np.ascontiguousarray(rgb.transpose(2, 0, 1)[None], np.float32) / np.float32(255.0)
    found = backend.run("encode", {"image": tensor})
    host = backend.to_host({name: found[name] for name in FEATURES})
    coarse, middle = host["coarse"][0], host["middle"][0]
    rows, columns = coarse.shape[1:]
    halved = middle.reshape(-1, rows, 2, columns, 2).mean(axis=(2, 4))
    return np.concatenate([coarse, halved]).astype(np.float16)


def samples_of(
    pictures: Iterator[DepthImage],
    place: int,
    backend: Backend,
    size: tuple[int, int],
    crops: int,
    seed: int,
) -> Samples:
    """Each picture as it is, and `crops` times cropped and recoloured."""
    rng = np.random.default_rng([seed, place])
    features, labels = [], []
    for picture in pictures:
        whole = stretched(picture, size)
        parts = [stretched(cropped(picture, rng), size) for _ in range(crops)]
        coloured = [DepthImage(recoloured(p.rgb, rng), p.K, p.depth) for p in parts]
        for one in (whole, *coloured):
            features.append(encoded(backend, one.rgb))
            labels.append(cell_labels(one.depth, one.K))
    if not labels:
        raise InvalidInput("no image with depth: nothing to learn from")
    return Samples(np.stack(features), np.stack(labels), np.full(len(labels), place))
