"""Normalised coordinates: the one convention that every network here shares.

x = -1 is the left edge of the left pixel, x = +1 the right edge of the right pixel
cell j of w has its centre at x_j = -1 + (2 j + 1) / w
pixel position of x:  ((x + 1) w - 1) / 2          (align_corners=False everywhere)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def centre_grid(height: int, width: int, like: Tensor) -> Tensor:
    """(2, height, width): x and y of every cell's centre, of the type and device of `like`."""
    columns = torch.arange(width, dtype=torch.float32, device=like.device)
    rows = torch.arange(height, dtype=torch.float32, device=like.device)
    x, y = (2.0 * columns + 1.0) / width - 1.0, (2.0 * rows + 1.0) / height - 1.0
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    return grid.to(like.dtype)


def both(x: float, y: float, like: Tensor) -> Tensor:
    """(1, 2, 1, 1) of two numbers, made where `like` is: no copy from the host, which a training
    step would wait for and a CUDA graph cannot hold."""
    shape, where = (1, 1, 1, 1), {"device": like.device, "dtype": like.dtype}
    return torch.cat([torch.full(shape, x, **where), torch.full(shape, y, **where)], dim=1)


def sample(features: Tensor, at: Tensor) -> Tensor:
    """Bilinear samples of (B, C, H, W) at (B, 2, h, w); what lies outside counts as zero."""
    places = at.permute(0, 2, 3, 1)
    return F.grid_sample(features, places, mode="bilinear", align_corners=False)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear without antialiasing to (height, width); the identity if it fits already."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bilinear", align_corners=False)
