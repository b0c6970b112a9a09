"""The local half of `lite`: warp the keyframe's features once, compare neighbours, correct.

A correlation window sampled by grid_sample costs (2r+1)^2 samples a cell and was nearly all of
a first sketch's time. Here the keyframe is sampled once, at the current warp, and the query is
compared with the neighbours' samples: the candidate at offset d is warp(p + d). The window
thus follows the warp's scale and rotation, and a neighbour's better guess is among the candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.coarse import cell_grid
from l2m_ros.networks.shared.depthwise import DepthwiseConv
from l2m_ros.networks.shared.grid import both

EVIDENCE = 1e-3
VECTOR = 16  # channels: 59 take three times as long as 48 in ONNX Runtime
BLOCK = 4  # cells a side; the grids of a level are multiples of it


def _halo_index(height: int, width: int, radius: int, device: torch.device) -> Tensor:
    """(blocks, (BLOCK + 2 r)^2) flat indices, into the grid padded by r, of each block's halo."""
    padded = width + 2 * radius
    span = torch.arange(BLOCK + 2 * radius, device=device)
    halo = span[:, None] * padded + span[None, :]
    rows = torch.arange(0, height, BLOCK, device=device) * padded
    columns = torch.arange(0, width, BLOCK, device=device)
    origin = rows[:, None] + columns[None, :]
    return origin.reshape(-1, 1) + halo.reshape(1, -1)


def _window_index(radius: int, device: torch.device) -> Tensor:
    """((2 r + 1)^2, BLOCK^2): where in a block's halo each cell's window lies."""
    side = BLOCK + 2 * radius
    cell = torch.arange(BLOCK, device=device)
    span = torch.arange(2 * radius + 1, device=device)
    start = (cell[:, None] * side + cell[None, :]).reshape(1, -1)
    return (span[:, None] * side + span[None, :]).reshape(-1, 1) + start


def to_blocks(image: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, blocks, C, BLOCK^2)."""
    batch, channels, height, width = image.shape
    split = image.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels, BLOCK * BLOCK)


def from_blocks(blocks: Tensor, height: int, width: int) -> Tensor:
    """(B, blocks, C, BLOCK^2) -> (B, C, h, w)."""
    batch, channels = blocks.shape[0], blocks.shape[2]
    split = blocks.view(batch, height // BLOCK, width // BLOCK, channels, BLOCK, BLOCK)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def local_correlation(query: Tensor, other: Tensor, radius: int) -> Tensor:
    """Dot products of each cell with its (2r+1)^2 neighbours in `other`, zero outside.

    Both (B, C, h, w), h and w multiples of BLOCK -> (B, (2r+1)^2, h, w), offsets row by row.
    Blocks are multiplied with their halos by one batched matrix product: at 1/4 of 640x480 and
    r = 2 that is several times faster than 25 shifted products in ONNX Runtime. The product with
    the unit matrix turns channels to the end: 0.3 ms there, where Transpose takes 2.1.
    """
    batch, channels, height, width = query.shape
    unit = torch.eye(channels, device=query.device, dtype=query.dtype)
    padded = F.pad(other, (radius,) * 4).flatten(2).transpose(1, 2) @ unit  # (B, P, C)
    index = _halo_index(height, width, radius, query.device)
    halo = padded.index_select(1, index.reshape(-1)).view(batch, *index.shape, channels)
    product = halo @ to_blocks(query)  # (B, blocks, halo, BLOCK^2)
    window = _window_index(radius, query.device)
    picked = product.gather(2, window.expand(*product.shape[:2], *window.shape))
    return from_blocks(picked, height, width)


def _neighbours(plane: Tensor, radius: int) -> Tensor:
    """(B, 1, h, w) -> (B, (2r+1)^2, h, w): every neighbour's value, 0 outside."""
    count = (2 * radius + 1) ** 2
    side = 2 * radius + 1
    pick = torch.eye(count, device=plane.device, dtype=plane.dtype).view(count, 1, side, side)
    return F.conv2d(plane, pick, padding=radius)


class Refiner(nn.Module):
    """One level's correction of the warp: soft choice among candidates, then a small network."""

    def __init__(self, radius: int, descriptor: int, above: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.radius = radius
        window = (2 * radius + 1) ** 2
        look = VECTOR - (window + 2 + above) % VECTOR  # so many that whole vectors are filled
        self.tenth_sharpness = nn.Parameter(torch.tensor(2.0))
        self.look = nn.Conv2d(descriptor, look, 1)
        self.enter = nn.Conv2d(window + look + 2 + above, hidden, 1)
        self.spread = nn.ModuleList(DepthwiseConv(hidden, 5) for _ in range(layers))
        self.mix = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(layers))
        self.leave = nn.Conv2d(hidden, 2 + 1 + 3, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def _chosen(self, window: Tensor, warp: Tensor) -> Tensor:
        """(B, 2, h, w): how far the softly chosen candidate lies from the warp.

        Cosines are at most 1, so exp(s (c - 1)) cannot overflow and needs no maximum; where no
        candidate resembles the query, EVIDENCE outweighs them all and the warp stays.
        """
        weight = torch.exp((window - 1.0) * (10.0 * self.tenth_sharpness))
        total = weight.sum(1, keepdim=True)
        x = (weight * _neighbours(warp[:, :1], self.radius)).sum(1, keepdim=True)
        y = (weight * _neighbours(warp[:, 1:], self.radius)).sum(1, keepdim=True)
        return (torch.cat([x, y], dim=1) - warp * total) / (total + EVIDENCE)

    def forward(
        self, query: Tensor, keyframe: Tensor, warp: Tensor, above: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """query, keyframe (B, D, h, w) unit descriptors, warp (B, 2, h, w), above the state.

        Returns the corrected warp, the state, a certainty correction and three numbers for the
        precision.
        """
        height, width = warp.shape[-2:]
        sampled = F.grid_sample(
            keyframe.float(), warp.permute(0, 2, 3, 1), align_corners=False, padding_mode="zeros"
        )
        with torch.autocast(query.device.type, enabled=False):
            window = local_correlation(query.float(), sampled, self.radius)
            chosen = self._chosen(window, warp)
        cell = both(width / 2.0, height / 2.0, warp)
        state = torch.cat([window, self.look(query), chosen * cell, above], dim=1)
        state = F.relu(self.enter(state))
        for spread, mix in zip(self.spread, self.mix, strict=True):
            state = F.relu(state + mix(spread(state)))
        out = self.leave(state).float()
        warp = warp + chosen + out[:, :2] / cell
        return warp, state, out[:, 2:3], out[:, 3:6]


def upsampled(image: Tensor) -> Tensor:
    """Twice the size, bilinear, cells centred."""
    return F.interpolate(image, scale_factor=2.0, mode="bilinear", align_corners=False)


def upsampled_warp(warp: Tensor) -> Tensor:
    """Twice the size; the flow is interpolated, so that a border does not bend the warp."""
    height, width = warp.shape[-2:]
    coarse = cell_grid(height, width, warp.device).permute(2, 0, 1)
    fine = cell_grid(2 * height, 2 * width, warp.device).permute(2, 0, 1)
    return upsampled(warp - coarse) + fine


def precision_factor(shape: Tensor) -> Tensor:
    """(B, 3, h, w): a, b, c of the Cholesky factor, 1 / px; a and c at least 0.01.

    Starts at a = c = 0.5, b = 0: two pixels of standard deviation.
    """
    a, b, c = shape.float().split(1, dim=1)
    return torch.cat([F.softplus(a - 0.45) + 0.01, b, F.softplus(c - 0.45) + 0.01], dim=1)
