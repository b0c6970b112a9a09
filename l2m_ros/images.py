"""Pictures and depth maps from files, or one line that says what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, FloatArray

MAX_PIXELS = 120_000_000  # a picture beyond is a mistake or a decompression bomb


def read_rgb(path: Path) -> ByteArray:
    """(H, W, 3) uint8. Grey becomes RGB, an alpha channel is dropped, 16 bit is refused."""
    image = _decoded(path)
    if image.dtype != np.uint8:
        raise InvalidInput(
            f"{path} holds {image.dtype} pixels: bring them to 8 bit first, for example by "
            "cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)"
        )
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] not in (3, 4):
        raise InvalidInput(f"{path} has {image.shape[2]} channels: give a grey or colour picture")
    return np.ascontiguousarray(image[:, :, 2::-1])  # BGR(A) -> RGB


def read_depth(path: Path, scale_m: float) -> FloatArray:
    """(H, W) float32 metres, NaN = unknown. PNG: value x scale_m, 0 unknown; .npy: metres."""
    if not scale_m > 0:
        raise InvalidInput(f"the depth scale must be positive, got {scale_m:g}")
    if path.suffix == ".npy":
        try:
            depth = np.load(path, allow_pickle=False).astype(np.float32)
        except ValueError as error:
            raise InvalidInput(f"{path} is not a NumPy array: {error}") from error
    else:
        raw = _decoded(path)
        if raw.ndim != 2 or raw.dtype != np.uint16:
            raise InvalidInput(
                f"{path} is {raw.dtype} with {raw.ndim} dimensions: depth is a 16-bit grey PNG "
                "(value x scale = metres) or a float .npy in metres"
            )
        depth = raw.astype(np.float32) * np.float32(scale_m)
    known = (depth > 0) & np.isfinite(depth)
    return np.asarray(np.where(known, depth, np.nan), np.float32)


def _decoded(path: Path) -> npt.NDArray[Any]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if content.size == 0:
        raise InvalidInput(f"{path} is empty")
    try:
        image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # beyond OpenCV's own limit of 2^30 pixels
        raise InvalidInput(f"{path} cannot be decoded: {error.err}") from error
    if image is None:
        raise InvalidInput(
            f"{path} is not a picture that OpenCV reads, or it is cut short: give a whole PNG, "
            "JPEG or TIFF"
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise InvalidInput(
            f"{path} has {image.shape[1]}x{image.shape[0]} pixels, more than "
            f"{MAX_PIXELS // 1_000_000} million: shrink it first"
        )
    return np.asarray(image)


def write_rgb(path: Path, rgb: ByteArray) -> None:
    """A picture as its suffix says; the folder is made."""
    done, encoded = cv2.imencode(path.suffix, rgb[:, :, ::-1])
    if not done:
        raise InvalidInput(f"cannot write {path}: use .png or .jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded.tobytes())
