"""What draws Gaussians: one small protocol.

    image = sum_i w_i channel_i,  w_i = alpha_i prod_{j < i} (1 - alpha_j),  nearest first

A rasterizer blends any per-Gaussian channels; colour, depth, normal, plane distance and
features are channels (`rendering.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera


@dataclass
class Raster:
    """What a rasterizer returns."""

    image: Tensor  # (H, W, C) blended channels, over black
    alpha: Tensor  # (H, W) sum of the weights
    means_px: Tensor  # (..., N, 2); its gradient (kept if it needs one) steers densification
    drawn: Tensor  # (N,) bool: touches the image
    dominant: Tensor | None  # (H, W) index of the Gaussian with the largest weight, -1 = none


class Rasterizer(Protocol):
    """Blends channels (N, C) of Gaussians in a view; differentiable in all but `dominant`."""

    name: str

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster: ...
