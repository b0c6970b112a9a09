"""Photographs on disk: found, checked before they are decoded, read as RGB."""

from __future__ import annotations

from pathlib import Path

import cv2

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_file
from l2m_ros.image_header import SizeLimits, checked_size
from l2m_ros.images import MAX_BYTES, decoded
from l2m_ros.types import ByteArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# A small photograph or a thumbnail serves to train on, so the shortest side is not judged here.
LIMITS = SizeLimits(pixels=100_000_000, smallest_side=1)


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
    bgr = decoded(photograph_bytes(path), str(path), cv2.IMREAD_COLOR, LIMITS)
    height, width = bgr.shape[:2]
    if longest_side is not None and max(width, height) > longest_side:
        scale = longest_side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    rgb: ByteArray = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return rgb


def photograph_bytes(path: str | Path) -> bytes:
    """The file as it is."""
    try:
        return read_file(Path(path), MAX_BYTES)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error


def check_size(data: bytes, name: str) -> tuple[int, int]:
    """(width, height) from the header; refuses what is damaged, unknown or too large."""
    return checked_size(data, name, LIMITS)
