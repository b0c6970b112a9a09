"""Stored views on the device, and the cameras that a batch of pairs sees them through.

    views = Views(images, cameras, "cuda")                        # all in its memory
    a, b = views.pair(draws, ends, (320, 256), TURNING, hard)

Every view is turned and zoomed a little by a homography of its own, as `posed_pairs.shown` does
it for one. `device_posed` and `device_taught` say where the pixels of one lie in another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.types import ByteArray, FloatArray, resized_K
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_effects import camera_effects
from l2m_ros.workshop.lifting.torch_pairs import PairBatch
from l2m_ros.workshop.lifting.torch_scenes import Draws, centred, rotations
from l2m_ros.workshop.lifting.torch_views import pixel_grid

STORED = (640, 480)  # every view is kept at this size, with the K that this gives it
FAR_PX = 1e4
Warps = tuple[Tensor, Tensor, Tensor]  # (B, H, W, 2) px, visible, unknown
Size = tuple[int, int]  # (width, height)
One = TypeVar("One")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Turning:
    """How far the camera of a view is turned and zoomed."""

    zoom: tuple[float, float]  # at least, and more for hard ones
    turn: tuple[float, float, float]  # radians: pitch, yaw, roll


@dataclass(frozen=True, eq=False)
class Shown:
    """A batch of views as the network gets them."""

    which: Tensor  # (B,) number of the stored view
    rgb: Tensor  # (B, 3, H, W) in [0, 1]
    x: Tensor  # (B, H, W) place in the stored image
    y: Tensor
    shown_from_source: Tensor  # (B, 3, 3)
    K: Tensor  # (B, 3, 3)
    source_from_shown: Tensor  # (B, 4, 4) the turn, of camera coordinates

    def placed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of the stored image -> pixels shown, and whether those lie in the image."""
        u, v, z = times(self.shown_from_source, x, y)
        ahead = z > 1e-6
        over = torch.where(ahead, 1.0 / torch.where(ahead, z, 1.0), 0.0)
        u, v = (torch.where(ahead, c * over, -FAR_PX).clamp(-FAR_PX, FAR_PX) for c in (u, v))
        return u, v, inside(u, v, self.rgb.shape[-1], self.rgb.shape[-2])


class Views:
    """Images on the device, all of one size, with their cameras."""

    def __init__(self, images: Sequence[ByteArray], cameras: Sequence[FloatArray], device: str):
        planes = [torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1))) for i in images]
        self.rgb = torch.stack(planes).to(device)  # (N, 3, h, w) uint8
        self.K = torch.tensor(np.stack(cameras), dtype=torch.float32, device=device)

    def shown(
        self, draws: Draws, which: Tensor, size: Size, turning: Turning, hard: Tensor
    ) -> Shown:
        """The views `which` (B,), each through a camera at its place that looks elsewhere."""
        (width, height), (rows, columns) = size, self.rgb.shape[2:]
        K, shrink = self.K[which], max(width / columns, height / rows)
        least, more = turning.zoom
        focal = K[:, 0, 0] * shrink * (least + more * hard * draws.uniform(len(which)))
        spread = torch.tensor(turning.turn, device=hard.device) * (0.2 + hard)[:, None]
        turned = rotations(draws.normal(len(which), 3) * spread)
        own = centred(focal, width, height)
        source_from_shown = K @ turned[:, :3, :3] @ torch.linalg.inv(own)
        x, y, z = times(source_from_shown, *pixel_grid(hard, width, height))
        x, y = x / z, y / z
        rgb = seen_through(self.rgb[which].float() / 255, x, y, shrink)
        return Shown(which, rgb, x, y, torch.linalg.inv(source_from_shown), own, turned)

    def pair(
        self, draws: Draws, ends: Tensor, size: Size, turning: Turning, hard: Tensor
    ) -> tuple[Shown, Shown]:
        """Both ends (B, 2) of a batch of pairs, each through a camera of its own."""
        first, second = ends.unbind(1)
        a = self.shown(draws, first, size, turning, hard)
        return a, self.shown(draws, second, size, turning, hard)


def seen_through(rgb: Tensor, x: Tensor, y: Tensor, shrink: float) -> Tensor:
    """Images at pixels x, y, blurred first where they get smaller; mirrored beyond the border."""
    if shrink < 0.75:
        sigma = 0.4 / shrink
        reach = max(1, round(3 * sigma))
        tap = torch.arange(-reach, reach + 1, device=rgb.device)
        bell = torch.exp(-0.5 * (tap / sigma) ** 2)
        bell = (bell / bell.sum()).repeat(3, 1, 1, 1)
        rgb = F.conv2d(F.pad(rgb, (reach,) * 4, mode="reflect"), bell, groups=3)
        rgb = F.conv2d(rgb, bell.transpose(2, 3), groups=3)
    height, width = rgb.shape[-2:]
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], -1)
    return F.grid_sample(rgb, grid, padding_mode="reflection", align_corners=True)


def pair_batch(
    draws: Draws, a: Shown, b: Shown, there: Warps, back: Warps, strength: Tensor, b_from_a: Tensor
) -> PairBatch:
    """Both images as another light and camera would have them, with their truth."""
    effects = EffectOptions()
    rgb_a, rgb_b = (camera_effects(draws, view.rgb, effects, strength) for view in (a, b))
    return PairBatch(rgb_a, rgb_b, *there, *back, a.K, b.K, b_from_a)


def inside(x: Tensor, y: Tensor, width: int, height: int) -> Tensor:
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def times(H: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three rows of H (B, 3, 3) times (x, y, 1)."""
    rows = H[..., None, None]
    return tuple(rows[:, i, 0] * x + rows[:, i, 1] * y + rows[:, i, 2] for i in range(3))  # type: ignore


def resized(rgb: ByteArray, K: FloatArray) -> tuple[ByteArray, FloatArray]:
    """The image at the stored size, and its camera there."""
    height, width = rgb.shape[:2]
    smaller = STORED[0] < width and STORED[1] < height
    mode = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return cv2.resize(rgb, STORED, interpolation=mode), resized_K(K, (width, height), STORED)


def in_threads(function: Callable[[One], Made], items: Sequence[One]) -> list[Made]:
    """OpenCV and NumPy let go of the interpreter's lock."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))
