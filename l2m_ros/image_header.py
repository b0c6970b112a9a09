"""The size of a picture from its header, before anything is decoded: JPEG, PNG, BMP, WebP, TIFF,
PNM, PFM, OpenEXR.

A few kilobytes may unpack to gigabytes (a decompression bomb), and a decoder allocates before it
finds out that a file is cut off.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from l2m_ros.errors import InvalidInput

MAX_PIXELS = 120_000_000  # 360 MB of RGB; the largest cameras in common use stay below
# A side of 1 is no picture of anything; OpenCV's warps and resampling end at 2^15.
MIN_SIDE, MAX_SIDE = 16, 32_000
KINDS = "PNG, JPEG, BMP, WebP, TIFF or PNM"
_PNM_GAP = rb"\s+(?:#[^\n]*\n\s*)*"
PNM_HEADER = re.compile(rb"P[1-6fF]" + _PNM_GAP + rb"(\d{1,9})" + _PNM_GAP + rb"(\d{1,9})\s")
EXIF_IFD, FOCAL_35MM = 0x8769, 0xA405  # tags of EXIF
# TIFF tags: width, height, and what one strip or tile holds.
WIDTH, HEIGHT, TILE_WIDTH, TILE_HEIGHT = 256, 257, 322, 323


@dataclass(frozen=True)
class SizeLimits:
    """What a picture's sides may be. `pixels` also bounds what a decoder may allocate."""

    pixels: int = MAX_PIXELS
    smallest_side: int = MIN_SIDE
    largest_side: int = MAX_SIDE


USUAL = SizeLimits()
ANY_SIDES = SizeLimits(smallest_side=1, largest_side=1 << 20)


def checked_size(data: bytes, name: str, limits: SizeLimits = USUAL) -> tuple[int, int]:
    """(width, height) from the header; refuses what is damaged, cut off, unknown or too large."""
    if not data:
        raise InvalidInput(f"{name}: is empty")
    try:
        size = header_size(data)
        whole = size is None or _is_whole(data)
    except (struct.error, IndexError, ValueError) as error:
        raise InvalidInput(f"{name}: is damaged: its header is cut off") from error
    if size is None:
        raise InvalidInput(f"{name}: is not a {KINDS} image that can be read here")
    if not whole:
        raise InvalidInput(f"{name}: is damaged: its end is missing")
    check_sides(*size, name, limits)
    return size


def check_sides(width: int, height: int, name: str, limits: SizeLimits = USUAL) -> None:
    """Refuse sides that nothing here can work with."""
    if width <= 0 or height <= 0:
        raise InvalidInput(f"{name}: is damaged: its header says {width}x{height} pixels")
    if min(width, height) < limits.smallest_side:
        raise InvalidInput(
            f"{name}: {width}x{height} pixels are too few: both sides need {limits.smallest_side}"
        )
    if width * height > limits.pixels or max(width, height) > limits.largest_side:
        raise InvalidInput(
            f"{name}: {width}x{height} pixels are more than are decoded ({limits.pixels:,}, and "
            f"{limits.largest_side:,} a side): shrink it first"
        )


def header_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) as the header states them, None for a format that is not read here."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return struct.unpack(">II", data[16:24])  # type: ignore[return-value]
    if data[:2] == b"BM":
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_size(data)
    if data[:2] == b"\xff\xd8":
        return _jpeg_size(data)
    if data[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_size(data)
    if data[:4] == b"\x76\x2f\x31\x01":
        return _exr_size(data)
    found = PNM_HEADER.match(data[:1000])
    return (int(found[1]), int(found[2])) if found else None


def focal_in_widths(data: bytes) -> float | None:
    """Focal length over the longer side, from a JPEG's EXIF (FocalLengthIn35mmFilm); None where
    it says nothing. 35 mm film is 36 mm wide."""
    try:
        at = data.index(b"Exif\0\0", 0, 1 << 16) + 6
        found = _ifd(data[at:], None)
        millimetres = _ifd(data[at:], found[EXIF_IFD]).get(FOCAL_35MM, 0)
    except (ValueError, struct.error, IndexError, KeyError):
        return None
    return millimetres / 36.0 if 4 <= millimetres <= 2000 else None


def _ifd(data: bytes, at: int | None) -> dict[int, int]:
    """Whole numbers of a TIFF directory by tag; at None = the first one."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    if at is None:
        (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    tags = {}
    for k in range(count):
        entry = data[at + 2 + 12 * k : at + 14 + 12 * k]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        form = "H" if kind == 3 else "I"
        (tags[tag],) = struct.unpack(order + form, entry[8 : 8 + struct.calcsize(form)])
    return tags


def _is_whole(data: bytes) -> bool:
    """Does the file reach its own end? OpenCV fills what is missing with grey and says nothing."""
    if data[:2] == b"\xff\xd8":
        # The end marker cannot occur in coded pixels; thumbnails have theirs before the frame.
        return data.rfind(b"\xff\xd9") > _jpeg_frame(data)
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return data[:1] != b"\x89" or _png_is_whole(data)


def _png_is_whole(data: bytes) -> bool:
    """IHDR to IEND, chunk by chunk: OpenCV allocates whatever length a chunk claims (79 bytes took
    3.7 GB and 15 s)."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if (at == 8) != (kind == b"IHDR") or length > len(data) - at - 12:
            return False
        at += 12 + length
    return True


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(data[24:27], "little"),
            1 + int.from_bytes(data[27:30], "little"),
        )
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _exr_size(data: bytes) -> tuple[int, int]:
    at = data.index(b"dataWindow\0box2i\0", 0, 1 << 16) + len(b"dataWindow\0box2i\0") + 4
    left, top, right, bottom = struct.unpack("<4i", data[at : at + 16])
    return right - left + 1, bottom - top + 1


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Of the first page; where its tiles are larger than the picture, theirs: they are decoded
    whole."""
    tags = _ifd(data, None)
    width, height = tags.get(WIDTH, 0), tags.get(HEIGHT, 0)
    tile = tags.get(TILE_WIDTH, 0) * tags.get(TILE_HEIGHT, 0)
    larger = tile > 4 * max(width * height, 1 << 20)
    return (tags[TILE_WIDTH], tags[TILE_HEIGHT]) if larger else (width, height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    at = _jpeg_frame(data)
    height, width = struct.unpack(">HH", data[at + 4 : at + 8])
    return width, height


def _jpeg_frame(data: bytes) -> int:
    """Where the frame header's marker lies (SOF0..SOF15 without DHT, JPG and DAC)."""
    at = 2
    while True:
        while data[at] != 0xFF:
            at += 1
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return at
        at += 1
        if not (marker == 0x01 or 0xD0 <= marker <= 0xD8):  # these carry no length
            at += struct.unpack(">H", data[at : at + 2])[0]
