"""Pictures, depth, arrays and matrices as bytes, and back. Nothing here is ever unpickled."""

from __future__ import annotations

import io
import json

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values
from l2m_ros.image_header import ANY_SIDES
from l2m_ros.images import decoded, read_arrays
from l2m_ros.types import ByteArray, Camera, FloatArray

PNG = b"\x89PNG"  # how a PNG begins
JPEG_QUALITY = 90  # matches of a keyframe at 90 and at 100 differ by less than their noise
LARGEST = 65535  # of 16 bit
PNG_LEVEL = 6  # depth of a real sensor takes 0.8 of what OpenCV's default level makes of it
MATRIX = "<f8"
LEVELS = 255  # of a number in a cell


def encode_image(rgb: ByteArray, quality: int = JPEG_QUALITY) -> bytes:
    bgr = np.ascontiguousarray(rgb[:, :, ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def decode_image(content: bytes) -> ByteArray:
    """(H, W, 3) uint8 RGB."""
    image = _decoded(content, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(image[:, :, ::-1])


def encode_depth(depth_m: FloatArray, scale_m: float) -> bytes:
    """PNG of 16 bit; unknown (NaN) and what 16 bit cannot hold become 0."""
    units = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) / scale_m)
    units[(units < 0) | (units > LARGEST)] = 0
    level = [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL]
    _, encoded = cv2.imencode(".png", units.astype(np.uint16), level)
    return encoded.tobytes()


def decode_depth(content: bytes, scale_m: float) -> FloatArray:
    """(H, W) float32 metres, NaN = unknown."""
    raw = _decoded(content, cv2.IMREAD_UNCHANGED)
    if raw.dtype != np.uint16 or raw.ndim != 2:
        raise InvalidInput(f"a keyframe's depth is {raw.dtype} with {raw.ndim} dimensions")
    metres = raw.astype(np.float32) * np.float32(scale_m)
    return np.where(raw > 0, metres, np.float32(np.nan))


def _decoded(content: bytes, flags: int) -> ByteArray:
    return decoded(content, "a keyframe's picture", flags, ANY_SIDES)


def encode_matrix(matrix: FloatArray | None) -> bytes | None:
    return None if matrix is None else np.ascontiguousarray(matrix, MATRIX).tobytes()


def decode_matrix(content: bytes | None, side: int) -> FloatArray | None:
    """(side, side) float64, or None where nothing was stored."""
    if content is None:
        return None
    if len(content) != 8 * side * side:
        raise InvalidInput(
            f"a {side}x{side} matrix has {8 * side * side} bytes, not {len(content)}"
        )
    return np.frombuffer(content, MATRIX).reshape(side, side).astype(np.float64)


def encode_camera(camera: Camera) -> str:
    return json.dumps(
        {
            "width": camera.width,
            "height": camera.height,
            "K": camera.K.tolist(),
            "distortion": camera.distortion,
            "D": camera.D.tolist(),
        }
    )


def decode_camera(text: str) -> Camera:
    with foreign_values("a keyframe's camera"):
        raw = json.loads(text)
        K, D = np.array(raw["K"], float), np.array(raw["D"], float)
        return Camera(raw["width"], raw["height"], K, raw["distortion"], D)


def encode_arrays(arrays: dict[str, FloatArray]) -> bytes:
    """Features as fp16, float64 (pixels of points, which fp16 moves by 0.5) as float32."""
    out = io.BytesIO()
    np.savez(out, **{name: _half(a) for name, a in arrays.items()})
    return out.getvalue()


def decode_arrays(content: bytes) -> dict[str, FloatArray]:
    """fp16 becomes float32 again."""
    return {name: _single(array) for name, array in read_arrays(content).items()}


def encode_cells(grid: FloatArray) -> bytes:
    """(H, W, D) descriptors as one byte a number, between the least and most of each channel."""
    least, most = grid.min(axis=(0, 1)), grid.max(axis=(0, 1))
    step = np.maximum((most - least) / LEVELS, 1e-6).astype(np.float32)
    codes = np.clip(np.rint((grid - least) / step), 0, LEVELS).astype(np.uint8)
    out = io.BytesIO()
    np.savez(out, codes=codes, least=least.astype(np.float32), step=step)
    return out.getvalue()


def decode_cells(content: bytes) -> FloatArray:
    """(H, W, D) float32, each within half a step of what it was."""
    arrays = read_arrays(content)
    codes, least, step = (arrays.get(name) for name in ("codes", "least", "step"))
    if codes is None or least is None or step is None:
        raise InvalidInput(f"a keyframe's cells are {sorted(arrays)}")
    of_channel = codes.shape[-1:]
    if codes.dtype != np.uint8 or codes.ndim != 3 or not codes.size:
        raise InvalidInput(f"a keyframe's cells are {codes.dtype} of shape {codes.shape}")
    if least.shape != of_channel or step.shape != of_channel:
        raise InvalidInput(f"a keyframe's cells have {codes.shape[-1]} channels, not {step.shape}")
    return codes.astype(np.float32) * step + least


def _half(array: FloatArray) -> FloatArray:
    array = np.asarray(array)
    if array.dtype.kind != "f":
        return array
    if array.dtype == np.float64:
        return array.astype(np.float32)
    finite = np.finfo(np.float16)
    return np.clip(array, finite.min, finite.max).astype(np.float16)


def _single(array: FloatArray) -> FloatArray:
    return array.astype(np.float32) if array.dtype == np.float16 else array
