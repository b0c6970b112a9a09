"""Where a photograph's depth comes from: files, a monocular network, or imagination.

Every source gives an inverse depth of median 1 (the scale of a single photograph is unknown
anyway) over the photograph's pixels, and a mask of where it is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros import images
from l2m_ros.errors import BackendUnavailable, InvalidInput, ModelError
from l2m_ros.files import read_file
from l2m_ros.image_header import ANY_SIDES
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.procedural import FARTHEST, NEAREST, procedural_inverse_depth
from l2m_ros.workshop.lifting.views import BoolArray

SUFFIXES = (".png", ".npy", ".npz", ".tiff", ".tif", ".exr", ".pfm")
LEAST_KNOWN = 0.3  # share of the pixels; less cannot carry a view
SAME_ASPECT = 0.02  # depth of another size is resized if its sides have this same ratio
LEAST_SPREAD = 1e-3  # (max - min) / median below which depth is called constant
DISPARITY_FLOOR = 0.001  # L2M: disparity scaled to [0, 1], plus this


@dataclass(frozen=True, eq=False)
class Lifted:
    """Inverse depth over the photograph's pixels."""

    inverse_depth: FloatArray  # (h, w) float32, median 1, positive everywhere
    known: BoolArray  # (h, w) False where it was made up to close a gap


class DepthSource(Protocol):
    """One call per photograph; `name` is its path under the folder of photographs."""

    def lift(
        self, rgb: ByteArray, name: str, K: FloatArray, rng: np.random.Generator
    ) -> Lifted: ...


@dataclass(frozen=True)
class ProceduralDepth:
    """Planes, rooms, hills and objects: see `procedural`."""

    strength: float = 1.0

    def lift(self, rgb: ByteArray, name: str, K: FloatArray, rng: np.random.Generator) -> Lifted:
        w = procedural_inverse_depth(rng, rgb, K, self.strength)
        return Lifted(w, np.ones(w.shape, bool))


@dataclass(frozen=True)
class DepthFiles:
    """Depth maps beside the photographs: DIR/<same path>.png, .npy, .npz, .tiff, .exr, .pfm.

    Only the shape of the depth matters, not its unit. 0, negative, NaN and infinity = unknown.
    """

    folder: Path
    disparity: bool = False  # the files hold disparity or inverse depth (up to scale and shift)

    def lift(self, rgb: ByteArray, name: str, K: FloatArray, rng: np.random.Generator) -> Lifted:
        path = _beside(self.folder, name)
        values = _of_size(read_map(path), rgb.shape[1], rgb.shape[0], str(path))
        if self.disparity:
            return from_disparity(values, str(path))
        return from_depth(values, str(path))


class MonocularDepth:
    """A monocular network as ONNX, fed as Depth Anything V2 is.

    Input (1, 3, H, W) RGB scaled to [0, 1], less ImageNet's mean, by its deviation; sides a
    multiple of 14, the shorter one 518 unless the graph fixes them. Output: disparity up to
    scale and shift, (1, h, w) or (1, 1, h, w). `disparity=False` for networks that give depth.
    """

    MEAN = np.array([0.485, 0.456, 0.406], np.float32)
    DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
    SHORTER_SIDE, MULTIPLE = 518, 14

    def __init__(self, model: Path, *, disparity: bool = True) -> None:
        self.model, self.disparity = model, disparity
        self._session = open_onnx(model)
        self._input = self._session.get_inputs()[0]
        if len(self._input.shape) != 4:
            raise ModelError(
                f"{model}: takes an input of shape {self._input.shape}; a depth network takes "
                "one image (1, 3, H, W)"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the model anew."""
        return partial(MonocularDepth, disparity=self.disparity), (self.model,)

    def lift(self, rgb: ByteArray, name: str, K: FloatArray, rng: np.random.Generator) -> Lifted:
        raw = self._session.run(None, {self._input.name: self._fed(rgb)})[0]
        values = np.squeeze(np.asarray(raw, np.float32))
        if values.ndim != 2:
            raise ModelError(f"{self.model}: gave an output of shape {np.shape(raw)}, not a map")
        values = cv2.resize(values, rgb.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        where = f"{self.model} on {name}"
        return from_disparity(values, where) if self.disparity else from_depth(values, where)

    def _fed(self, rgb: ByteArray) -> FloatArray:
        height, width = self._size(rgb)
        image = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
        scaled = (image.astype(np.float32) / 255.0 - self.MEAN) / self.DEVIATION
        return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])

    def _size(self, rgb: ByteArray) -> tuple[int, int]:
        """(height, width): what the graph fixes, else by the convention above."""
        fixed = self._input.shape[2:]
        if all(isinstance(side, int) for side in fixed):
            return int(fixed[0]), int(fixed[1])
        scale = self.SHORTER_SIDE / min(rgb.shape[:2])
        sides = [max(1, round(s * scale / self.MULTIPLE)) * self.MULTIPLE for s in rgb.shape[:2]]
        return sides[0], sides[1]


def open_onnx(model: Path) -> Any:
    """A CPU session of ONNX Runtime for a model file that the user names."""
    if not model.is_file():
        raise ModelError(f"{model}: no such model file")
    try:
        from l2m_ros.engines.onnxruntime import open_session
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"{model} needs ONNX Runtime: pip install 'l2m_ros[onnx]'"
        ) from error
    return open_session(model, threads=2)


def from_depth(depth: FloatArray, where: str) -> Lifted:
    """Inverse depth of median 1 from depth in any unit; 0, negative and NaN = unknown."""
    known = np.isfinite(depth) & (depth > 0)
    return _normalised(np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0), known, where)


def from_disparity(disparity: FloatArray, where: str) -> Lifted:
    """From disparity up to scale and shift: scaled to [0, 1] plus 0.001, as L2M does."""
    known = np.isfinite(disparity)
    _require_known(known, where)
    low, high = np.quantile(disparity[known], (0.001, 0.999))
    scaled = np.clip((disparity - low) / max(high - low, 1e-12), 0, 1) + DISPARITY_FLOOR
    if high - low <= LEAST_SPREAD * max(abs(float(high)), 1e-12):
        raise InvalidInput(f"{where}: is constant ({high:g}): there is nothing to lift")
    return _normalised(np.where(known, scaled, 0.0), known, where)


def _normalised(w: FloatArray, known: BoolArray, where: str) -> Lifted:
    _require_known(known, where)
    median = float(np.median(w[known]))
    spread = float(np.ptp(w[known]))
    if spread <= LEAST_SPREAD * median:
        raise InvalidInput(f"{where}: is constant: there is nothing to lift")
    w = np.clip(w / median, FARTHEST, NEAREST).astype(np.float32)
    if not known.all():
        w = _closed(w, known)
    return Lifted(w, known)


def _require_known(known: BoolArray, where: str) -> None:
    share = float(known.mean())
    if share < LEAST_KNOWN:
        raise InvalidInput(
            f"{where}: only {share:.0%} of the depth is known (not NaN, not 0); "
            f"at least {LEAST_KNOWN:.0%} is needed"
        )


def _closed(w: FloatArray, known: BoolArray) -> FloatArray:
    """Gaps take the value of the nearest known pixel; they are never supervised."""
    _, label = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    value_of = np.zeros(int(label.max()) + 1, np.float32)
    value_of[label[known]] = w[known]
    return np.where(known, w, value_of[label])


def _beside(folder: Path, name: str) -> Path:
    """The depth file of a photograph: the same path, any of the known endings."""
    stem = (folder / name).with_suffix("")
    for suffix in SUFFIXES:
        candidate = stem.with_name(stem.name + suffix)
        if candidate.is_file():
            return candidate
    raise InvalidInput(f"{stem}{{{','.join(SUFFIXES)}}}: no depth file for this photograph")


def read_map(path: Path) -> FloatArray:
    """(h, w) float32 from a file of one channel."""
    try:
        values = np.squeeze(_map_values(path))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: is damaged: {' '.join(str(error).split())}") from error
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InvalidInput(
            f"{path}: must hold one number per pixel, got {values.shape} of {values.dtype}"
        )
    return values.astype(np.float32)


def _map_values(path: Path) -> npt.NDArray[Any]:
    if path.suffix == ".npy":
        return images.read_array(path)
    if path.suffix == ".npz":
        arrays = images.read_arrays(read_file(path, images.MAX_BYTES))
        return next(iter(arrays.values()), np.empty(0))
    content = read_file(path, images.MAX_BYTES)
    return images.decoded(content, str(path), cv2.IMREAD_UNCHANGED, ANY_SIDES)


def _of_size(values: FloatArray, width: int, height: int, where: str) -> FloatArray:
    """Resized to the photograph (nearest: depth is never averaged over an edge)."""
    rows, columns = values.shape
    if (columns, rows) == (width, height):
        return values
    if abs(columns * height / (rows * width) - 1.0) > SAME_ASPECT:
        raise InvalidInput(
            f"{where}: is {columns}x{rows} but its photograph has the shape of {width}x{height}: "
            "it belongs to another image or was cropped"
        )
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
