"""Pictures and depth maps from files and from bytes, or one line that says what is wrong with them.

Everything that decodes pixels comes through `decoded`: the header is checked first.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
import threading
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.files import read_file, write_whole
from l2m_ros.image_header import ANY_SIDES, USUAL, SizeLimits, check_sides, checked_size
from l2m_ros.types import ByteArray, FloatArray

DEPTH_SCALE_M = 0.001  # metres per unit of a 16-bit PNG, as ROS's 16UC1 has it
MAX_BYTES = 1 << 30  # of a file; more is no picture
# What libjpeg prints where pixels are missing; it fills them with grey.
MISSING_PIXELS = (b"Premature end", b"premature end")
# What numpy and zipfile raise over damaged bytes.
DAMAGED = (
    ValueError, EOFError, TypeError, OverflowError, SyntaxError, KeyError, NotImplementedError,
    RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip


def read_rgb(path: str | Path, limits: SizeLimits = USUAL) -> ByteArray:
    """(H, W, 3) uint8, pixels as stored: EXIF's orientation would not turn the camera with them.

    Grey becomes RGB, an alpha channel is dropped, 16 bit is refused.
    """
    content = read_file(Path(path), MAX_BYTES)
    image = decoded(content, str(path), cv2.IMREAD_UNCHANGED, limits)
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


def read_depth(path: str | Path, scale_m: float = DEPTH_SCALE_M) -> FloatArray:
    """(H, W) float32 metres, NaN = unknown. PNG: value x scale_m, 0 unknown; .npy: metres."""
    path = Path(path)
    if not (scale_m > 0 and np.isfinite(scale_m)):
        raise InvalidInput(f"the depth scale must be positive, got {scale_m:g}")
    if path.suffix == ".npy":
        depth = read_array(path).astype(np.float32)
    else:
        raw = read_grey16(path)
        depth = raw.astype(np.float32) * np.float32(scale_m)
    with np.errstate(invalid="ignore"):
        known = (depth > 0) & np.isfinite(depth)
    return np.asarray(np.where(known, depth, np.nan), np.float32)


def read_grey16(path: Path) -> npt.NDArray[Any]:
    """(H, W) uint16 of a PNG or TIFF."""
    raw = decoded(read_file(path, MAX_BYTES), str(path), cv2.IMREAD_UNCHANGED, ANY_SIDES)
    if raw.ndim != 2 or raw.dtype != np.uint16:
        raise InvalidInput(
            f"{path} is {raw.dtype} with {raw.ndim} dimensions: depth is a 16-bit grey PNG "
            "(value x scale = metres) or a float .npy in metres"
        )
    return raw


def read_array(path: Path) -> npt.NDArray[Any]:
    """(H, W) numbers of a .npy whose header is believed only as far as the file reaches."""
    content = read_file(path, MAX_BYTES)
    if not content.startswith(b"\x93NUMPY"):
        raise InvalidInput(f"{path} is not a .npy array (is it an .npz, renamed?)")
    try:
        array = _npy(content)
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise InvalidInput(f"{path} is not a whole NumPy array: {reason}") from error
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise InvalidInput(
            f"{path} holds {array.shape} of {array.dtype}: one number per pixel is wanted"
        )
    check_sides(array.shape[1], array.shape[0], str(path), ANY_SIDES)
    return array


def read_arrays(content: bytes, max_bytes: int = MAX_BYTES) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a .npz by name; raises InvalidInput, also where it unpacks to too much."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > max_bytes:
                raise InvalidInput(f"it unpacks to {unpacked} bytes, more than {max_bytes}")
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _npy(archive.read(name)) for name in names}
    except InvalidInput:
        raise
    except DAMAGED as error:
        raise InvalidInput(f"no whole .npz: {' '.join(str(error).split())[:200]}") from error


def _npy(content: bytes) -> npt.NDArray[Any]:
    """A view of the bytes: numpy.load would first allocate whatever the header promises."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    count = math.prod(shape)
    if count * dtype.itemsize > len(content) - file.tell():
        raise ValueError(f"its header promises {shape} of {dtype}, the file is shorter")
    flat = np.frombuffer(content, dtype, count, file.tell())
    return flat.reshape(shape, order="F" if fortran_order else "C")


def decoded(data: bytes, name: str, flags: int, limits: SizeLimits = USUAL) -> npt.NDArray[Any]:
    """Pixels as cv2.imdecode gives them; refused by its header, or where pixels are missing."""
    checked_size(data, name, limits)
    try:
        with _DecoderLines() as lines:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise InvalidInput(f"{name} cannot be decoded: {getattr(error, 'err', error)}") from error
    if image is None or any(words in lines.content for words in MISSING_PIXELS):
        raise InvalidInput(f"{name}: is damaged: its header is readable, its pixels are not")
    return np.asarray(image)


class _DecoderLines:
    """Holds back what C decoders print to stderr, a line per broken frame; with their words in
    `content`. What other threads print meanwhile is passed on.
    """

    _lock = threading.Lock()
    _file: Any = None
    OURS = (b"JPEG", b"libpng", b"[ WARN", b"[ERROR", b"TIFF", b"imread_", b"WebP", b"Unsupported")

    def __enter__(self) -> _DecoderLines:
        self.content = b""
        self._lock.acquire()
        try:
            if _DecoderLines._file is None:
                _DecoderLines._file = tempfile.TemporaryFile(buffering=0)
            self._stderr = os.dup(2)
            os.dup2(self._file.fileno(), 2)
        except OSError:  # no stderr at all, or nowhere to keep it: then it is not held back
            self._stderr = -1
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if self._stderr >= 0:
                os.dup2(self._stderr, 2)
                os.close(self._stderr)
                self.content = self._taken()
        finally:
            self._lock.release()

    def _taken(self) -> bytes:
        if not self._file.seek(0, os.SEEK_END):
            return b""
        self._file.seek(0)
        content: bytes = self._file.read(1 << 16)
        self._file.seek(0)
        self._file.truncate()
        for line in content.splitlines(keepends=True):
            if not any(ours in line for ours in (*self.OURS, *MISSING_PIXELS)):
                os.write(2, line)
        return content


def write_figure(path: Path, figure: Any, **how: Any) -> None:
    """A matplotlib figure as a PNG; `how` goes to its savefig."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", **how)
    write_whole(path, picture.getvalue())


def check_picture(path: Path | None) -> None:
    """Before the work begins: the suffix names a kind of picture that can be written."""
    if path is not None and not (path.suffix and cv2.haveImageWriter(f"picture{path.suffix}")):
        raise InvalidInput(f"cannot write {path}: use .png or .jpg")


def write_rgb(path: Path, rgb: ByteArray) -> None:
    """A picture as its suffix says; the folder is made."""
    write_pixels(path, rgb[:, :, ::-1])


def write_pixels(path: Path, pixels: npt.NDArray[Any]) -> None:
    """The same in OpenCV's order of channels. cv2.imwrite would say nothing of a full disk."""
    try:
        done, encoded = cv2.imencode(path.suffix, pixels)
    except cv2.error:  # an unknown suffix
        done = False
    if not done:
        raise InvalidInput(f"cannot write {path}: use .png or .jpg")
    write_whole(path, encoded.tobytes())
