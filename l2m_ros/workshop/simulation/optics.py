"""The rays of a camera's pixels, kept for the next frame: the lens never changes in a run."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.camera import rays
from l2m_ros.types import Camera, FloatArray


@dataclass(frozen=True, eq=False)
class PixelRays:
    rays: FloatArray  # (H, W, 3) float64, z = 1; (0, 0, 1) where the lens model has no inverse
    rays32: FloatArray  # the same in float32
    pitch: FloatArray  # (H, W, 2) float32: d ray_x / d column and d ray_y / d row
    valid: npt.NDArray[np.bool_]  # (H * W,)


_KEPT: OrderedDict[tuple[object, ...], PixelRays] = OrderedDict()  # oldest first
_CAPACITY = 4  # 13 MB each at 640x480


def pixel_rays(camera: Camera) -> PixelRays:
    key = (camera.size, camera.K.tobytes(), camera.distortion, camera.D.tobytes())
    if key not in _KEPT:
        _KEPT[key] = _computed(camera)
        while len(_KEPT) > _CAPACITY:
            _KEPT.popitem(last=False)
    return _KEPT[key]


def _computed(camera: Camera) -> PixelRays:
    found = rays(camera)
    valid = np.isfinite(found).all(axis=2)
    found = np.where(valid[..., None], found, [0.0, 0.0, 1.0])
    pitch = np.stack([np.gradient(found[..., 0], axis=1), np.gradient(found[..., 1], axis=0)], -1)
    return PixelRays(found, found.astype(np.float32), pitch.astype(np.float32), valid.ravel())
