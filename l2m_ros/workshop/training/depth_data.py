"""Images with known depth, and what `lite`'s encoder sees in them: to learn metres from.

    images of a sequence   colour, depth and K of an RGB-D recording
    pictures               cropped, stretched, mirrored, recoloured; kept as JPEG
    samples                what the encoder sees in them, once, as float16

The encoder is frozen, so a training step costs the head alone. What is learnt is
log(depth / focal length in px) of the network's input, which holds for any camera and any crop.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.engines.backend import Array, Backend
from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, read_file, write_whole
from l2m_ros.images import MAX_BYTES, read_arrays
from l2m_ros.matching.mono_depth import HEAD_FEATURES
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.evaluation.scenes import load_cameras

CELL = 16  # px of a side
LEAST_KNOWN = 0.4  # share of a cell's pixels whose depth must be known


@dataclass(frozen=True, eq=False)
class DepthImage:
    rgb: ByteArray  # (H, W, 3)
    K: FloatArray  # (3, 3)
    depth: FloatArray  # (H, W) metres, NaN = unknown


# --- sources ----------------------------------------------------------------------------------


def images_of_sequence(folder: Path, every: int = 1) -> Iterator[DepthImage]:
    """Frames of an RGB-D recording: images/, depth/, meta.json with K."""
    scene = load_cameras(folder)
    for name in sorted(scene.meta.get("cameras", {}))[::every]:
        view = scene.view(name)
        if view.depth is not None:
            assert view.camera is not None
            yield DepthImage(view.rgb, view.camera.K, view.depth)


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
    gamma, gains = np.exp(rng.normal(0, 0.25)), rng.normal(1.0, 0.08, 3)
    curve = (np.arange(256)[:, None] / 255.0) ** gamma * gains
    x = cv2.LUT(rgb, np.clip(255 * curve, 0, 255).astype(np.uint8)[:, None])
    colour = 0.0 if rng.random() < 0.2 else rng.uniform(0.4, 1.2)
    x = cv2.transform(x, colour * np.eye(3) + (1 - colour) / 3)
    if rng.random() < 0.4:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.4, 1.8))
    noise = rng.standard_normal(x.shape[:2], np.float32)[..., None]
    return np.clip(x + np.float32(255 * rng.uniform(0.0, 0.03)) * noise, 0, 255).astype(np.uint8)


def cell_labels(depth: FloatArray, K: FloatArray) -> FloatArray:
    """(rows, columns) log of depth over focal length of each cell, NaN = too little known.

    The median of every second pixel's each way.
    """
    rows, columns, side = depth.shape[0] // CELL, depth.shape[1] // CELL, CELL // 2
    blocks = depth[: rows * CELL : 2, : columns * CELL : 2].reshape(rows, side, columns, side)
    blocks = blocks.swapaxes(1, 2).reshape(rows, columns, side * side)
    known = np.isfinite(blocks) & (blocks > 0)
    middle = np.sort(np.where(known, blocks, np.inf), axis=2)
    count = known.sum(axis=2)
    at = np.maximum(count - 1, 0) // 2
    median = np.take_along_axis(middle, at[..., None], axis=2)[..., 0]
    enough = count >= LEAST_KNOWN * side * side
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(median / np.sqrt(K[0, 0] * K[1, 1]))
    return np.where(enough, log, np.nan).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images as files in memory with their labels: kept, so that another encoder may see them."""

    jpeg: Sequence[bytes]
    labels: Array  # (N, rows, columns) float32, NaN = unknown
    place: Array  # (N,) int

    def __len__(self) -> int:
        return len(self.labels)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lengths = np.array([len(file) for file in self.jpeg])
        data = np.frombuffer(b"".join(self.jpeg), np.uint8)
        packed = io.BytesIO()  # into a full disk, zipfile would complain a second time
        np.savez(packed, data=data, lengths=lengths, labels=self.labels, place=self.place)
        write_whole(path, packed.getvalue())

    @staticmethod
    def load(path: Path) -> Pictures:
        with foreign_values(f"{path} (delete it to have it made anew)"):
            kept = read_arrays(read_file(path, MAX_BYTES), MAX_BYTES)
            ends = np.cumsum(kept["lengths"])
            data = kept["data"].tobytes()
            files = [data[end - n : end] for end, n in zip(ends, kept["lengths"], strict=True)]
            return Pictures(files, kept["labels"], kept["place"])


def pictures_of(
    views: Iterator[DepthImage], place: int, size: tuple[int, int], crops: int, seed: int
) -> Pictures:
    """Each view as it is, and `crops` times cropped and recoloured."""
    rng = np.random.default_rng([seed, place])
    files, labels = [], []
    for view in views:
        parts = [stretched(cropped(view, rng), size) for _ in range(crops)]
        coloured = [DepthImage(recoloured(p.rgb, rng), p.K, p.depth) for p in parts]
        for one in (stretched(view, size), *coloured):
            done, file = cv2.imencode(".jpg", one.rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            assert done
            files.append(file.tobytes())
            labels.append(cell_labels(one.depth, one.K))
    if not labels:
        raise InvalidInput("no image with depth: nothing to learn from")
    return Pictures(files, np.stack(labels), np.full(len(labels), place))


@dataclass(frozen=True, eq=False)
class Samples:
    """What a head learns from: features of N images, their labels, the place of each."""

    cells: Array  # (N, C, h, w) float16 at 1/16
    context: Array  # (N, C, h / 2, w / 2) float16 at 1/32
    labels: Array  # (N, h, w) float32, NaN = unknown
    place: Array  # (N,) int
    family: Array  # (N,) int: the member of the head that shall not see it, -1 = none

    def __len__(self) -> int:
        return len(self.labels)


def merged(parts: Sequence[Samples]) -> Samples:
    names = Samples.__dataclass_fields__
    return Samples(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def encoded(pictures: Pictures, backend: Backend, family: int = -1) -> Samples:
    """By the encoder of a matcher whose input has the pictures' size."""
    cells, context = [], []
    for file in pictures.jpeg:
        bgr = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
        tensor = np.ascontiguousarray(bgr[..., ::-1].transpose(2, 0, 1)[None], np.float32)
        found = backend.run("encode", {"image": tensor / np.float32(255.0)})
        host = backend.to_host({name: found[name] for name in HEAD_FEATURES})
        cells.append(host["eyes"][0].astype(np.float16))
        context.append(host["eyes_wide"][0].astype(np.float16))
    families = np.full(len(pictures), family)
    return Samples(np.stack(cells), np.stack(context), pictures.labels, pictures.place, families)
