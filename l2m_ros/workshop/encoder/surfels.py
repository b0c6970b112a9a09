"""A lifted photograph as Gaussians: one flat Gaussian a block of pixels, on its surface.

Nothing is optimised: position, extent and direction follow from the depth that the photograph
was lifted with, colour from its pixels. The world is the photograph's camera.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.gaussians.model import SH_0, Gaussians
from l2m_ros.workshop.lifting.views import CUT, Relief

SIGMA = 0.6  # standard deviation over the spacing: neighbours overlap, no gaps
THICKNESS = 0.05  # over the smaller extent
OPACITY = 0.95
LONGEST = 6.0  # edge of a block over that of one facing the camera; longer ones drew spikes


def surfels(relief: Relief, rgb: ByteArray, step_px: int = 4) -> Gaussians:
    """Gaussians of blocks of `step_px` pixels; rgb has the relief's size.

    A block across a depth jump is left out; one seen too flat faces the camera.
    """
    rows, columns = relief.inverse_depth.shape
    half = step_px / 2
    v, u = np.mgrid[half - 0.5 : rows - half : step_px, half - 0.5 : columns - half : step_px]
    middle = _point(relief, u, v)
    right = _point(relief, u + half, v) - _point(relief, u - half, v)
    down = _point(relief, u, v + half) - _point(relief, u, v - half)
    cut = (relief.cells & CUT > 0).astype(np.float32)
    pixel = step_px * middle[..., 2:] / relief.K[0, 0]
    longest = np.maximum(*(np.linalg.norm(edge, axis=-1) for edge in (right, down)))
    flat = (longest > LONGEST * pixel[..., 0])[..., None]
    right, down = np.where(flat, pixel * (1, 0, 0), right), np.where(flat, pixel * (0, 1, 0), down)
    colour = _at(cv2.blur(rgb, (step_px, step_px)), u, v).reshape(-1, 3) / 255.0
    whole = _at(cv2.blur(cut, (step_px, step_px)), u, v).ravel() == 0
    scales, quaternions = _ellipsoids(right.reshape(-1, 3)[whole], down.reshape(-1, 3)[whole])
    parts = (
        middle.reshape(-1, 3)[whole], np.log(scales), quaternions,
        np.full(len(scales), np.log(OPACITY / (1 - OPACITY))),
        ((colour[whole] - 0.5) / SH_0)[:, None],
    )  # fmt: skip
    return Gaussians(*(torch.tensor(part, dtype=torch.float32) for part in parts))


def _point(relief: Relief, u: FloatArray, v: FloatArray) -> FloatArray:
    """(..., 3) the surface at pixels of the photograph."""
    height, width = relief.inverse_depth.shape
    x, y = np.clip(u, 0, width - 1), np.clip(v, 0, height - 1)
    w = cv2.remap(
        relief.inverse_depth, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR
    )
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(relief.K).T
    points: FloatArray = rays / np.maximum(w, 1e-6)[..., None]
    return points


def _at(image: FloatArray, u: FloatArray, v: FloatArray) -> FloatArray:
    """What cv2.blur made of the blocks around (u, v): an even block's mean is at its third pixel
    of four."""
    return image[(v + 0.5).astype(int), (u + 0.5).astype(int)]


def _ellipsoids(right: FloatArray, down: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(N, 3) standard deviations, smallest first, and (N, 4) w x y z of flat Gaussians that two
    edges of a block span."""
    spread = np.einsum("ni,nj->nij", right, right) + np.einsum("ni,nj->nij", down, down)
    values, axes = np.linalg.eigh(spread)
    scales = SIGMA * np.sqrt(np.maximum(values, 1e-12))
    scales[:, 0] = THICKNESS * scales[:, 1]
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    return scales, np.roll(Rotation.from_matrix(axes).as_quat(), 1, axis=1)
