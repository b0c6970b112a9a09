"""Lifted photographs on disk: webdataset-style tars, written whole and renamed.

    shard-000000.tar       members <key>.<part>, one key per photograph
    shard-000000.json      which photographs went in, which were skipped and why
    lift.json              the options; a run is continued only with the same ones

    <key>.json             photograph, K, views [{K, view_from_photograph | photograph_from_view}]
    <key>.photo.jpg        the photograph, of the depth's size
    <key>.view<i>.jpg      a new view
    <key>.npz              depth, and per view i: depth_i, source_i, seen_i, unlabelled_i;
                           per pair of neighbours: warp_i_j, visible_i_j, unknown_i_j

Warps and sources are uint16 in steps of 1/64 pixel from -64 (so 1/128 px at most is lost).
A shard exists under its name only when it is complete, so an interrupted run is continued by
running it again.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_file, write_whole
from l2m_ros.image_header import SizeLimits
from l2m_ros.images import MAX_BYTES, decoded, read_arrays
from l2m_ros.types import ByteArray, FloatArray

STEPS_PER_PX, ORIGIN_PX = 64, -64.0
LIMITS = SizeLimits(smallest_side=1)
MAX_SIDE_PX = 65535 // STEPS_PER_PX + int(ORIGIN_PX)  # 959: what uint16 reaches


@dataclass(frozen=True, eq=False)
class Sample:
    """One lifted photograph as it is stored and read back."""

    key: str
    meta: dict[str, Any]
    images: dict[str, ByteArray]  # "photo", "view0", ...
    arrays: dict[str, npt.NDArray[Any]]


def quantised(px: FloatArray) -> npt.NDArray[np.uint16]:
    """Pixels as uint16; what lies outside of [-64, 959] is clipped (it is never visible)."""
    steps = np.rint((px - ORIGIN_PX) * STEPS_PER_PX)
    return np.clip(np.nan_to_num(steps), 0, 65535).astype(np.uint16)


def pixels(steps: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The inverse of `quantised`."""
    return steps.astype(np.float32) / np.float32(STEPS_PER_PX) + np.float32(ORIGIN_PX)


def write_atomically(path: Path, data: bytes) -> None:
    """The whole file or nothing; a full disk is a refusal that says what to do."""
    remedy = (
        f"what is complete was kept. Free at least {len(data) / 1e6:.0f} MB and run the same "
        "command again: it continues here"
    )
    write_whole(path, data, remedy)


def remove_leftovers(folder: Path) -> None:
    """Half-written files of runs that were killed; those of a living process are left alone."""
    for partial in folder.glob(".*.part"):
        process = partial.suffixes[-2].lstrip(".")
        if process.isdigit() and not Path("/proc", process).exists():
            partial.unlink(missing_ok=True)


def pack(samples: list[Sample]) -> bytes:
    """The tar of a shard; the same samples give the same bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for name, data in _members(sample):
                info = tarfile.TarInfo(f"{sample.key}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    yield "json", json.dumps(sample.meta, sort_keys=True).encode()
    for name, rgb in sample.images.items():
        bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        yield f"{name}.jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    packed = io.BytesIO()
    np.savez_compressed(packed, **sample.arrays)
    yield "npz", packed.getvalue()


def read_shard(path: str | Path) -> Iterator[Sample]:
    """The samples of one shard, in order."""
    parts: dict[str, dict[str, bytes]] = {}
    try:
        # Not compressed: a few kB could unpack to gigabytes.
        with tarfile.open(fileobj=io.BytesIO(read_file(Path(path), MAX_BYTES)), mode="r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    key, _, name = member.name.partition(".")
                    parts.setdefault(key, {})[name] = file.read()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InvalidInput(f"{path}: is not a whole shard: {error}") from error
    for key, members in parts.items():
        yield sample_from(key, members, str(path))


def sample_from(key: str, members: dict[str, bytes], where: str) -> Sample:
    missing = {"json", "npz"} - set(members)
    if missing:
        raise InvalidInput(f"{where}: {key} lacks {', '.join(sorted(missing))}")
    try:
        images = {
            name.removesuffix(".jpg"): np.asarray(
                cv2.cvtColor(decoded(data, name, cv2.IMREAD_COLOR, LIMITS), cv2.COLOR_BGR2RGB)
            )
            for name, data in members.items()
            if name.endswith(".jpg")
        }
        return Sample(key, json.loads(members["json"]), images, read_arrays(members["npz"]))
    except ValueError as error:  # InvalidInput, or json's
        raise InvalidInput(f"{where}: {key} is damaged: {error}") from error


def shard_name(number: int) -> str:
    return f"shard-{number:06d}"


def is_whole(path: Path) -> bool:
    """A tar reaches its end: two empty blocks, filled up to a record."""
    size = path.stat().st_size
    if size == 0 or size % tarfile.RECORDSIZE:
        return False
    with path.open("rb") as file:
        file.seek(-2 * tarfile.BLOCKSIZE, os.SEEK_END)
        return not any(file.read())
