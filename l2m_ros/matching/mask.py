"""Parts of the image that are never matched: the robot's own shell, a gripper, letters burnt in.

A mask is a picture of the camera's view, black where nothing is to be used, as OpenCV's detectors
and COLMAP have it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import overload

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.images import read_rgb
from l2m_ros.matching.matcher import Match
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, FloatArray, Frame

Mask = npt.NDArray[np.bool_]  # (H, W) where the image is used
RUN_ON_ACROSS = 160  # samples of an image that tell the colours which run on
SAME_SHAPE = 0.01  # relative difference of the ratio of the sides: images may be binned


def read_mask(path: str | Path) -> Mask:
    used = np.asarray(read_rgb(path).any(axis=2))
    if not used.any():
        raise InvalidInput(f"{path} is black everywhere: draw white what is to be used")
    return used


@overload
def only_used(match: DenseMatch, query: Mask | None, keyframe: Mask | None) -> DenseMatch: ...


@overload
def only_used(match: Match, query: Mask | None, keyframe: Mask | None) -> Match: ...


def only_used(match: Match, query: Mask | None, keyframe: Mask | None) -> Match:
    """The match without what is not used of the query or of the keyframe; None: all is."""
    if query is None and keyframe is None:
        return match
    if isinstance(match, Correspondences):
        used = _used_at(query, match.query_px) & _used_at(keyframe, match.keyframe_px)
        return match.select(np.flatnonzero(used))
    used = _used_at(query, match.grid_px()) & _used_at(keyframe, match.warp_px)
    return replace(match, certainty=np.where(used, match.certainty, np.float32(0.0)))


def _used_at(mask: Mask | None, px: FloatArray) -> Mask:
    return np.ones(px.shape[:-1], np.bool_) if mask is None else mask_at(mask, px)


def without(frame: Frame, used: Mask) -> Frame:
    """The frame with nothing to match, and no depth, where it is not used.

    The colours about a part run on into it: an edge would be matched as well.
    """
    used = of_size(used, frame.camera.size)
    if used.all():
        return frame
    depth = None if frame.depth is None else np.where(used, frame.depth, np.float32(np.nan))
    return replace(frame, rgb=_run_on(frame.rgb, used), depth=depth)


def _run_on(rgb: ByteArray, used: Mask) -> ByteArray:
    """Each unused pixel: the mean of the used ones about it, the nearer the more."""
    small = max(1, round(rgb.shape[1] / RUN_ON_ACROSS))
    weight = used[::small, ::small].astype(np.float32)
    known = rgb[::small, ::small].astype(np.float32) * weight[..., None]
    filled = np.zeros_like(known)
    total = np.zeros_like(weight)
    for sigma in (1.0, 3.0, 9.0, 27.0):  # a wider one counts where a narrower one sees nothing
        filled += cv2.GaussianBlur(known, (0, 0), sigma) / sigma**4
        total += cv2.GaussianBlur(weight, (0, 0), sigma) / sigma**4
    filled /= np.maximum(total, 1e-6)[..., None]
    size = rgb.shape[1], rgb.shape[0]
    whole = cv2.resize(filled, size, interpolation=cv2.INTER_LINEAR)
    return np.where(used[..., None], rgb, np.clip(np.rint(whole), 0, 255).astype(np.uint8))


def of_size(mask: Mask, size: tuple[int, int]) -> Mask:
    """(width, height): of the camera's images."""
    height, width = mask.shape
    if (width, height) == size:
        return mask
    if abs(width * size[1] / (height * size[0]) - 1) > SAME_SHAPE:
        raise InvalidInput(
            f"tracking.mask is {width}x{height}, but images are {size[0]}x{size[1]}: draw it on an "
            "image of this camera"
        )
    return cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0


def mask_at(mask: Mask, px: FloatArray) -> npt.NDArray[np.bool_]:
    """(...) at the nearest pixel; px (..., 2)."""
    limits = np.array([mask.shape[1], mask.shape[0]]) - 1
    nearest = np.clip(np.nan_to_num(np.rint(px), nan=0.0, posinf=0.0, neginf=0.0), 0, limits)
    u, v = nearest[..., 0].astype(np.intp), nearest[..., 1].astype(np.intp)
    return np.asarray(mask[v, u])
