"""Photographs on disk: found, checked before they are decoded, read as RGB.

The size stands in a file's header. It is read first, so that a few kilobytes that unpack to
gigabytes (a decompression bomb) are refused instead of filling the memory.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# 100 megapixels decode to 300 MB; the largest cameras in common use stay below.
MAX_PIXELS = 100_000_000


def find_photographs(folder: str | Path) -> list[Path]:
    """Every photograph under a folder (or the one file named), sorted by path."""
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder of photographs")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise InvalidInput(f"{folder}: holds no photographs ({', '.join(SUFFIXES)})")
    return found


def read_photograph(path: str | Path, longest_side: int | None = None) -> ByteArray:
    """(H, W, 3) uint8 RGB, shrunk so that its longest side is at most `longest_side`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    return decode_photograph(data, str(path), longest_side)


def decode_photograph(data: bytes, name: str, longest_side: int | None = None) -> ByteArray:
    """The same from the bytes of a file; `name` is for the message of a refusal."""
    check_size(data, name)
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise InvalidInput(f"{name}: is damaged: its header is readable, its pixels are not")
    height, width = bgr.shape[:2]
    if longest_side is not None and max(width, height) > longest_side:
        scale = longest_side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    rgb: ByteArray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def check_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) from the header; refuses what is damaged, unknown or too large."""
    if not data:
        raise InvalidInput(f"{name}: is empty")
    try:
        size = header_size(data)
    except (struct.error, IndexError) as error:
        raise InvalidInput(f"{name}: is damaged: its header is cut off") from error
    if size is None:
        raise InvalidInput(f"{name}: is not a JPEG, PNG, WebP or BMP image")
    width, height = size
    if not _is_whole(data):
        raise InvalidInput(f"{name}: is damaged: its end is missing")
    if width <= 0 or height <= 0:
        raise InvalidInput(f"{name}: is damaged: its header says {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise InvalidInput(
            f"{name}: {width}x{height} pixels are more than the {MAX_PIXELS:,} that are decoded; "
            "shrink it first"
        )
    return width, height


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
    return None


def _is_whole(data: bytes) -> bool:
    """Does the file reach its own end? OpenCV fills what is missing with grey and says nothing."""
    if data[:2] == b"\xff\xd8":
        # The end marker cannot occur in coded pixels; thumbnails have theirs before the frame.
        return data.rfind(b"\xff\xd9") > _jpeg_frame(data)
    if data[:4] == b"RIFF":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    return data[:2] == b"BM" or b"IEND" in data[-64:]


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
