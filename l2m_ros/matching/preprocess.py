"""Resizes an image of any size to the network's input, and maps pixels back.

    stretch     content = the whole input
    letterbox   content = the upper left part that keeps the image's shape, in whole
                multiples of the network's stride so that every output grid cuts exactly

Between image pixels u and input pixels p, centres at integers:  p + 1/2 = (u + 1/2) content / size
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.engines.model_card import InputSpec
from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray

if TYPE_CHECKING:
    import scipy.sparse

PIL_WEIGHT_BITS = 22  # PIL's fixed-point weights for 8-bit images


def check_rgb(rgb: Any) -> ByteArray:
    """The image, checked: (H, W, 3) uint8. The error says how to convert what is not."""
    array = np.asarray(rgb)
    what = f"image has shape {array.shape} and type {array.dtype}"
    if array.size == 0:
        raise InvalidInput(f"{what}: it is empty")
    if array.dtype != np.uint8:
        raise InvalidInput(f"{what}: scale it to 0..255 and convert it to uint8 first")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        raise InvalidInput(f"{what}: it is grey; repeat it: np.dstack([image] * 3)")
    if array.ndim == 3 and array.shape[2] == 4:
        raise InvalidInput(f"{what}: drop its alpha channel: image[..., :3]")
    if array.ndim != 3 or array.shape[2] != 3:
        raise InvalidInput(f"{what}: it must be (height, width, 3) RGB")
    return array


def content_size(spec: InputSpec, image_size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the part of the input that the image covers."""
    if spec.resize == "stretch":
        return spec.size
    scale = min(spec.width / image_size[0], spec.height / image_size[1])
    sides = [
        min(max(round(image * scale / spec.multiple), 1) * spec.multiple, limit)
        for image, limit in zip(image_size, spec.size, strict=True)
    ]
    return sides[0], sides[1]


def network_input(spec: InputSpec, rgb: ByteArray) -> npt.NDArray[np.float32]:
    """(1, 3, height, width) float32: resized, and (rgb / 255 - mean) / std."""
    width, height = content_size(spec, (rgb.shape[1], rgb.shape[0]))
    resized = resize(rgb, width, height, spec.interpolation)
    if (width, height) != spec.size:
        right, below = spec.width - width, spec.height - height
        resized = cv2.copyMakeBorder(
            resized, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(128, 128, 128)
        )
    # blobFromImage is one pass over the image: 0.4 ms at 640x480, NumPy takes 3 ms.
    blob: npt.NDArray[np.float32] = cv2.dnn.blobFromImage(resized, 1.0 / 255.0)
    if spec.mean != (0.0, 0.0, 0.0) or spec.std != (1.0, 1.0, 1.0):
        blob -= np.asarray(spec.mean, np.float32).reshape(1, 3, 1, 1)
        blob /= np.asarray(spec.std, np.float32).reshape(1, 3, 1, 1)
    return blob


def resize(rgb: ByteArray, width: int, height: int, interpolation: str) -> ByteArray:
    if (rgb.shape[1], rgb.shape[0]) == (width, height):
        return rgb
    if interpolation == "bicubic":
        return bicubic_like_pil(rgb, width, height)
    shrinking = width <= rgb.shape[1] and height <= rgb.shape[0]
    rule = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    out: ByteArray = cv2.resize(rgb, (width, height), interpolation=rule)
    return out


def bicubic_like_pil(rgb: ByteArray, width: int, height: int) -> ByteArray:
    """PIL's antialiased bicubic, bit for bit: along x first, rounded to bytes, then along y.

    (Pillow 13 goes along y first where that axis shrinks most: up to 19 grey levels apart in
    noise. The published matchers were made with the order kept here.)
    """
    h, w, channels = rgb.shape
    across = _pil_pass(_pil_weights(w, width), rgb.transpose(1, 0, 2).reshape(w, -1))
    columns = across.reshape(width, h, channels).transpose(1, 0, 2).reshape(h, -1)
    return _pil_pass(_pil_weights(h, height), columns).reshape(height, width, channels)


def _pil_pass(weights: scipy.sparse.csr_matrix, lines: npt.NDArray[np.uint8]) -> ByteArray:
    # Whole numbers below 2^53, so that float64 sums are exact.
    total = weights @ lines.astype(np.float64)
    rounded = np.floor((total + 2.0 ** (PIL_WEIGHT_BITS - 1)) / 2.0**PIL_WEIGHT_BITS)
    values: ByteArray = np.clip(rounded, 0, 255).astype(np.uint8)
    return values


@lru_cache(maxsize=16)  # cameras send one size
def _pil_weights(size_in: int, size_out: int) -> scipy.sparse.csr_matrix:
    """(size_out, size_in) fixed-point weights of one axis."""
    import scipy.sparse  # 0.1 s to import; lite needs none of it

    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    rows, columns, values = [], [], []
    for i in range(size_out):
        centre = (i + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), size_in)
        taps = np.arange(first, last)
        weight = _cubic((taps - centre + 0.5) / stretch)
        weight /= weight.sum()
        fixed = np.trunc(weight * 2**PIL_WEIGHT_BITS + np.copysign(0.5, weight))
        rows.append(np.full(taps.size, i))
        columns.append(taps)
        values.append(fixed)
    index = np.concatenate(rows), np.concatenate(columns)
    return scipy.sparse.csr_matrix((np.concatenate(values), index), shape=(size_out, size_in))


def _cubic(x: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """Keys' kernel with a = -1/2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
