"""DINOv2's vision transformer (ViT-L/14 by default): an image's coarse features.

Parameters are named as in Meta's release, so those files and L2M's distilled one load as
they are. No register tokens; `mask_token` is kept for its name only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.shared.transformer import Block

KEYS_A = -0.75  # of the bicubic kernel
SCALE_OFFSET = 0.1  # DINOv2 states its scale as (cells + 0.1) / native, and samples by it


class PatchEmbed(nn.Module):
    """(B, 3, H, W) -> (B, H/patch W/patch, width), row-major."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, *, patch: int, native: int) -> None:
        super().__init__()
        self.patch, self.native = patch, native
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + native * native, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.patch_embed = PatchEmbed(patch, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=True, layer_scale=True, norm_eps=1e-6)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, image: Tensor) -> Tensor:
        """(B, width, H/patch, W/patch)."""
        rows, columns = self.cells(image)
        patches = self.patch_embed(image)
        first = self.cls_token.expand(patches.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.position(rows, columns)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)[:, 1:]
        return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, rows, columns)

    def cells(self, image: Tensor) -> tuple[int, int]:
        height, width = image.shape[-2:]
        if height % self.patch or width % self.patch:
            raise InvalidInput(
                f"this network takes heights and widths that are multiples of {self.patch}, "
                f"got {width}x{height}: resize first"
            )
        return height // self.patch, width // self.patch

    def position(self, rows: int, columns: int) -> Tensor:
        return resized_position(self.pos_embed, self.native, rows, columns)


def resized_position(stored: Tensor, native: int, rows: int, columns: int) -> Tensor:
    """(1, 1 + native^2, C) -> (1, 1 + rows columns, C): the position embedding of those cells."""
    if rows == columns == native:
        return stored
    down = torch.from_numpy(bicubic_matrix(native, rows)).to(stored)
    across = torch.from_numpy(bicubic_matrix(native, columns)).to(stored)
    # Two matrix products rather than a bicubic Resize, which TensorRT does not take.
    resized = torch.einsum("rh,hwc->rwc", down, stored[0, 1:].reshape(native, native, -1))
    resized = torch.einsum("kw,rwc->rkc", across, resized).reshape(1, rows * columns, -1)
    return torch.cat([stored[:, :1], resized], dim=1)


@lru_cache(maxsize=16)
def bicubic_matrix(size_in: int, size_out: int) -> np.ndarray:
    """(size_out, size_in) float32: bicubic weights, taps clamped to the border, no antialiasing.

    The source coordinate is (i + 1/2) / scale - 1/2 with the STATED scale (size_out + 0.1) /
    size_in, which differs from size_out / size_in.
    """
    scale = (size_out + SCALE_OFFSET) / size_in
    source = (np.arange(size_out) + 0.5) / scale - 0.5
    first = np.floor(source).astype(int)
    matrix = np.zeros((size_out, size_in), np.float64)
    for tap in range(-1, 3):
        column = np.clip(first + tap, 0, size_in - 1)
        np.add.at(matrix, (np.arange(size_out), column), _keys(source - (first + tap)))
    return matrix.astype(np.float32)


def _keys(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    d, a = np.abs(distance), KEYS_A
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
