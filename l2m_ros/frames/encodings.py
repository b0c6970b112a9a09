"""Bytes of an image message -> pixels. Knows encodings, rows and byte order; no ROS.

The common encodings are read here: cv_bridge breaks with NumPy 2 and copies where a view will do
(rgb8 and 32-bit depth are read in place).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.image_header import USUAL, SizeLimits
from l2m_ros.images import decoded
from l2m_ros.types import ByteArray, FloatArray

Pixels = npt.NDArray[Any]
MILLIMETRE_M = np.float32(0.001)
SATURATED = 65535  # of 16 bits: some drivers write it where they know nothing


@dataclass(frozen=True)
class Encoding:
    """How one pixel lies in memory, and how an array of them becomes RGB."""

    dtype: str  # of numpy
    channels: int
    to_rgb: Callable[[Pixels], Pixels]
    rows: tuple[int, int] = (1, 1)  # stored rows per image row, as a fraction (nv12: 3/2)
    even: tuple[int, int] = (1, 1)  # width and height must be multiples of these


def _cv(code: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code))


def _high_byte(code: int | None) -> Callable[[Pixels], Pixels]:
    """16 bits to 8 by the full range: the same in every frame."""

    def convert(pixels: Pixels) -> Pixels:
        eight = (pixels >> 8).astype(np.uint8)
        return eight if code is None else np.asarray(cv2.cvtColor(eight, code))

    return convert


def _as_is(pixels: Pixels) -> Pixels:
    return pixels


# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the first two.
_BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}
_CHANNELS = {
    "mono": (1, cv2.COLOR_GRAY2RGB),
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
}


def _table() -> dict[str, Encoding]:
    table = {}
    for name, (channels, code) in _CHANNELS.items():
        table[f"{name}8"] = Encoding("u1", channels, _as_is if code is None else _cv(code))
        table[f"{name}16"] = Encoding("u2", channels, _high_byte(code))
    for name, code in _BAYER.items():
        table[f"bayer_{name}8"] = Encoding("u1", 1, _cv(code), even=(2, 2))
        table[f"bayer_{name}16"] = Encoding("u2", 1, _high_byte(code), even=(2, 2))
    for name, code in (("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)):
        table[name] = Encoding("u1", 1, _cv(code), rows=(3, 2), even=(2, 2))
    uyvy = Encoding("u1", 2, _cv(cv2.COLOR_YUV2RGB_UYVY), even=(2, 1))
    yuyv = Encoding("u1", 2, _cv(cv2.COLOR_YUV2RGB_YUYV), even=(2, 1))
    # The OpenCV type names say nothing of colour; drivers that use them mean OpenCV's order.
    opencv = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16"}
    return (
        table
        | {"yuv422": uyvy, "uyvy": uyvy, "yuv422_yuy2": yuyv, "yuyv": yuyv}
        | {alias: table[name] for alias, name in opencv.items()}
    )


ENCODINGS: dict[str, Encoding] = _table()
DEPTH_ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}


BIT_DEPTHS = (10, 12, 14, 16)  # of cameras whose images come in 16 bits


def to_rgb(
    data: Any,
    *,
    width: int,
    height: int,
    step: int,
    encoding: str,
    big_endian: bool = False,
    bits: int = 16,
) -> ByteArray:
    """(H, W, 3) uint8 of an image message's bytes; a view of them where the encoding is rgb8.

    bits: how many of 16 the camera fills; brighter values are cut.
    """
    layout = _layout_of(encoding)
    pixels = _stored(data, layout, width, height, step, encoding, big_endian)
    if layout.dtype == "u2" and bits < 16:
        pixels = np.minimum(pixels, 2**bits - 1).astype(np.uint16) << (16 - bits)
    return layout.to_rgb(pixels)


def bits_used(
    data: Any, *, width: int, height: int, step: int, encoding: str, big_endian: bool = False
) -> int:
    """Bits of the brightest value of a 16-bit image; 0 for any other."""
    layout = ENCODINGS.get(encoding)
    if layout is None or layout.dtype != "u2":
        return 0
    pixels = _stored(data, layout, width, height, step, encoding, big_endian)
    return int(pixels.max()).bit_length()


def _layout_of(encoding: str) -> Encoding:
    layout = ENCODINGS.get(encoding)
    if layout is None:
        raise InvalidInput(
            f"image encoding {encoding!r} is unknown; known are {', '.join(ENCODINGS)}: "
            "set the camera driver to one of them"
        )
    return layout


def _stored(
    data: Any,
    layout: Encoding,
    width: int,
    height: int,
    step: int,
    encoding: str,
    big_endian: bool,
) -> Pixels:
    """The pixels as they lie in memory."""
    even_width, even_height = layout.even
    if width % even_width or height % even_height:
        raise InvalidInput(f"{encoding} cannot be {width}x{height}: its sides must be even")
    stored_rows = height * layout.rows[0] // layout.rows[1]
    return _view(data, width, stored_rows, layout.channels, step, layout.dtype, big_endian)


def to_depth(
    data: Any, *, width: int, height: int, step: int, encoding: str, big_endian: bool = False
) -> FloatArray:
    """(H, W) float32 metres, NaN where unknown (0, negative, infinite, the largest of 16 bits).

    A view of the bytes where they are float32 and unknown depth is NaN already, as REP-118 asks.
    """
    if encoding not in DEPTH_ENCODINGS:
        raise InvalidInput(
            f"depth encoding {encoding!r} is unknown: publish 16UC1 (millimetres) or 32FC1 (metres)"
        )
    raw = _view(data, width, height, 1, step, DEPTH_ENCODINGS[encoding], big_endian)
    if raw.dtype.kind == "u":
        depth: FloatArray = raw.astype(np.float32)
        depth *= MILLIMETRE_M
        depth[(raw == 0) | (raw == SATURATED)] = np.nan
        return depth
    with np.errstate(invalid="ignore"):
        known = raw > 0
        known &= raw < np.inf
    if not big_endian and np.count_nonzero(known) + np.count_nonzero(np.isnan(raw)) == raw.size:
        return raw
    depth = raw.astype(np.float32)
    depth[~known] = np.nan
    return depth


def _view(
    data: Any, width: int, rows: int, channels: int, step: int, dtype: str, big_endian: bool
) -> Pixels:
    """The message's bytes as (rows, width[, channels]), not copied; rows may be padded."""
    if width <= 0 or rows <= 0:
        raise InvalidInput(f"the image is empty ({width}x{rows}): is the camera driver running?")
    order = np.dtype(dtype).newbyteorder(">" if big_endian else "<")
    row_bytes = width * channels * order.itemsize
    if step < row_bytes:
        raise InvalidInput(
            f"step is {step} bytes but a row of {width} pixels takes {row_bytes}: "
            "the message contradicts itself; check the driver's width, step and encoding"
        )
    buffer = memoryview(data).cast("B")
    needed = step * (rows - 1) + row_bytes
    if buffer.nbytes < needed:
        raise InvalidInput(
            f"the image is cut off: {buffer.nbytes} bytes of {needed}; "
            "check the driver's height and step, and the link to the camera"
        )
    strides = (step, channels * order.itemsize, order.itemsize)
    pixels: Pixels = np.ndarray((rows, width, channels), order, buffer, 0, strides)
    pixels.flags.writeable = False
    return pixels[..., 0] if channels == 1 else pixels


@dataclass(frozen=True, eq=False)
class Unpacked:
    """The pixels of a compressed image, with the fields of a sensor_msgs/Image."""

    data: Pixels
    width: int
    height: int
    step: int
    encoding: str
    is_bigendian: bool = sys.byteorder == "big"


def unpacked(data: Any, fmt: str, limits: SizeLimits = USUAL) -> Unpacked:
    """A JPEG, PNG or whatever else OpenCV reads, with the bits that it has, not turned by EXIF.

    fmt: CompressedImage.format. image_transport packs a Bayer mosaic as it is and names it there:
    "bayer_rggb8; jpeg compressed ".
    """
    packed = bytes(memoryview(data).cast("B"))
    try:
        pixels = decoded(packed, "the compressed image", cv2.IMREAD_UNCHANGED, limits)
    except InvalidInput as error:
        raise InvalidInput(f"{error}; check its publisher and the link") from error
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    kind = {1: "mono", 3: "bgr", 4: "bgra"}.get(channels)
    if kind is None or pixels.dtype not in (np.uint8, np.uint16):
        raise InvalidInput(
            f"the compressed image holds {channels} channels of {pixels.dtype}: publish 8 or 16 "
            "bits, grey or colour"
        )
    named = fmt.partition(";")[0].strip().rstrip("0123456789")
    if kind == "mono" and named.startswith("bayer_"):
        kind = named
    height, width = pixels.shape[:2]
    encoding = f"{kind}{8 * pixels.itemsize}"
    return Unpacked(pixels, width, height, pixels.strides[0], encoding)
