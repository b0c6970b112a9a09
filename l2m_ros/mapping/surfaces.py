"""Depth as surfaces: planes where the sensor left holes or noise, so that pictures can be compared.

The window at the end of a corridor and the notice behind a gap in the depth tell places apart; a
sensor knows little of their distance, their surroundings do.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import FloatArray

Map = npt.NDArray[np.float32]

WINDOW = 21  # pixels on a side that a plane is fitted to
STEP = 2  # a plane for each block of so many pixels on a side
LEAST_KNOWN = 0.25  # of a window
ROUGH, ROUGH_PER_M = 0.02, 0.003  # of inverse depth, and 1/m: rougher windows have no plane
NOISE = 0.1  # of inverse depth: known depth this near to the plane is noise of it


def smoothed_inverse(depth_m: FloatArray) -> Map:
    """(h, w) inverse depth: of the local plane where one fits, else as measured; NaN = unknown.

    Along a plane inverse depth is linear in the pixel, however the plane leans.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    inverse = np.divide(1.0, depth_m, out=np.zeros(depth_m.shape, np.float32), where=known)
    inverse = inverse.astype(np.float32, copy=False)
    plane = _planes(inverse, known.astype(np.float32))
    with np.errstate(invalid="ignore"):
        on_plane = (np.abs(inverse - plane) < NOISE * plane) | (~known & np.isfinite(plane))
    return np.where(on_plane, plane, np.where(known, inverse, np.float32(np.nan)))


def _planes(inverse: Map, known: Map) -> Map:
    """The least-squares plane around each pixel; NaN where the window is rough or empty."""
    height, width = inverse.shape
    u = np.tile((np.arange(width, dtype=np.float32) - width / 2) / width, (height, 1))
    v = np.repeat((np.arange(height, dtype=np.float32)[:, None] - height / 2) / width, width, 1)
    share = _mean(known)
    weight = np.maximum(share, 1e-6)
    mean = {
        name: _mean(values) / weight
        for name, values in {
            **{"u": u * known, "v": v * known, "d": inverse},
            **{"uu": u * u * known, "uv": u * v * known, "vv": v * v * known},
            **{"ud": u * inverse, "vd": v * inverse, "dd": inverse * inverse},
        }.items()
    }
    spread = {pair: mean[pair] - mean[pair[0]] * mean[pair[1]] for pair in mean if len(pair) == 2}
    uu, vv = spread["uu"] + 1e-6, spread["vv"] + 1e-6
    determinant = uu * vv - spread["uv"] ** 2
    by_u = (vv * spread["ud"] - spread["uv"] * spread["vd"]) / determinant
    by_v = (uu * spread["vd"] - spread["uv"] * spread["ud"]) / determinant
    at_0 = mean["d"] - by_u * mean["u"] - by_v * mean["v"]
    variance = spread["dd"] - by_u * spread["ud"] - by_v * spread["vd"]
    rough = np.sqrt(np.maximum(variance, 0.0)) > np.maximum(ROUGH * mean["d"], ROUGH_PER_M)
    at_0[(share < LEAST_KNOWN) | rough] = np.nan
    plane = _enlarged(by_u, u.shape) * u + _enlarged(by_v, u.shape) * v + _enlarged(at_0, u.shape)
    return np.where(plane > 0, plane, np.float32(np.nan))


def _mean(values: Map) -> Map:
    """Over the window around every pixel of every block; what lies off the picture counts as 0."""
    size = (WINDOW, WINDOW)
    mean = cv2.boxFilter(values, -1, size, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(mean[::STEP, ::STEP], np.float32)


def _enlarged(blocks: Map, shape: tuple[int, ...]) -> Map:
    return np.repeat(np.repeat(blocks, STEP, 0), STEP, 1)[: shape[0], : shape[1]]
