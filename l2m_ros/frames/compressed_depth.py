"""compressedDepth of image_transport -> metres: a header of 12 bytes, then PNG or RVL.

header    int32 kind (1 = inverse depth), float32 A, float32 B
PNG       16 bit: millimetres (16UC1), or the inverse depth q (32FC1): metres = A / (q - B)
RVL       uint32 width, uint32 height, then runs of zeros and of differences (Wilson 2017)
"""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.encodings import MILLIMETRE_M, SATURATED
from l2m_ros.image_header import USUAL, SizeLimits, check_sides
from l2m_ros.images import decoded
from l2m_ros.types import FloatArray

HEADER = struct.Struct("<iff")
RVL_SIZE = struct.Struct("<II")
NAME = "compressedDepth"


def decompress_depth(data: Any, fmt: str, limits: SizeLimits = USUAL) -> FloatArray:
    """(H, W) float32 metres, NaN where unknown; `fmt` is CompressedImage.format, such as
    "16UC1; compressedDepth png"."""
    encoding = fmt.partition(";")[0].strip()
    if NAME not in fmt or encoding not in ("16UC1", "32FC1"):
        raise InvalidInput(
            f"depth of format {fmt!r} cannot be read: publish 16UC1 or 32FC1 by image_transport's "
            f"{NAME} (jpeg would smear depth over edges)"
        )
    packed = bytes(memoryview(data).cast("B"))
    if len(packed) <= HEADER.size:
        raise InvalidInput(f"the {NAME} image is cut off: {len(packed)} bytes")
    _, a, b = HEADER.unpack_from(packed)
    body = packed[HEADER.size :]
    levels = decode_rvl(body, limits) if "rvl" in fmt.lower() else _png(body, limits)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if encoding == "16UC1":
            depth = levels.astype(np.float32) * MILLIMETRE_M
            depth[levels == SATURATED] = np.nan
        else:
            depth = np.float32(a) / (levels.astype(np.float32) - np.float32(b))
        depth[~((levels > 0) & (depth > 0) & (depth < np.inf))] = np.nan
    return np.asarray(depth)


def _png(body: bytes, limits: SizeLimits) -> npt.NDArray[np.uint16]:
    levels = decoded(body, NAME, cv2.IMREAD_UNCHANGED, limits)
    if levels.ndim != 2 or levels.dtype != np.uint16:
        raise InvalidInput(f"{NAME} holds {levels.dtype} of {levels.ndim} dimensions: not 16-bit")
    return levels


def decode_rvl(body: bytes, limits: SizeLimits = USUAL) -> npt.NDArray[np.uint16]:
    """(H, W) of an RVL stream with its size in front.

    Four bits at a time, the highest first in each little-endian word: three bits of a number,
    the lowest first, and one that says whether more follow. The numbers are, over and over: how
    many zeros, how many others, and of each the difference to the one before, as zigzag.
    """
    if len(body) < RVL_SIZE.size:
        raise InvalidInput(f"the {NAME} image is cut off: {len(body)} bytes")
    width, height = RVL_SIZE.unpack_from(body)
    check_sides(width, height, NAME, limits)
    numbers = _numbers(body[RVL_SIZE.size :])
    pixels = np.zeros(width * height, np.int64)
    at = filled = level = 0
    while filled < pixels.size and at + 1 < len(numbers):
        zeros, others = int(numbers[at]), int(numbers[at + 1])
        zigzag = numbers[at + 2 : at + 2 + others]
        filled += zeros
        if filled + others > pixels.size or len(zigzag) < others or zeros + others == 0:
            break
        values = level + np.cumsum((zigzag >> 1) ^ -(zigzag & 1))
        pixels[filled : filled + others] = values
        level = int(values[-1]) if others else level
        filled, at = filled + others, at + 2 + others
    if filled < pixels.size:
        raise InvalidInput(f"the {NAME} image is damaged: {filled} of {pixels.size} pixels")
    return (pixels & 0xFFFF).astype(np.uint16).reshape(height, width)


def _numbers(packed: bytes) -> npt.NDArray[np.int64]:
    words = np.frombuffer(packed[: len(packed) // 4 * 4], "<u4")
    nibbles = (
        ((words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & 15).ravel().astype(np.int64)
    )
    last = np.flatnonzero(nibbles < 8)
    if last.size == 0:
        return np.empty(0, np.int64)
    nibbles = nibbles[: last[-1] + 1]
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(nibbles.size) - np.repeat(first, last - first + 1)
    # More than 10 groups of three bits do not fit the format's 32: damaged, caught by the count.
    return np.add.reduceat((nibbles & 7) << (3 * np.minimum(place, 10)), first)
