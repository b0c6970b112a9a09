"""Local correlation: how well each query cell fits the support around where it flows to.

    out[k] at cell i = <query(i), support(flow(i) + offset_k)> / sqrt(C)
    k = row (2 r + 1) + column; offsets are whole cells of the grid, -r..r, rows slow

Support samples are bilinear and zero outside. All (2r+1)^2 samples of a cell share ONE
fractional position, because offsets are whole cells. So it is enough to take the (2r+2)^2 dot
products with the whole-numbered neighbours and to blend the products, not the features: one
read of C channels per sample instead of four, and never (2r+1)^2 copies of the feature map
(`benchmarks/correlation.py` measures time and memory).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.shared.grid import both, sample

# Below this many support cells per dot product wanted, all pairs by one matrix product are
# cheaper than gathering features: a product runs near peak, a gather at memory speed.
ALL_PAIRS_RATIO = 16
# Query cells per gather on the CPU: 32 would be a quarter faster alone, but with two threads on a
# busy machine waits for the slower one at every portion (3 s instead of 0.3 s at stride 4).
CELLS_AT_ONCE = 256


def local_correlation(query: Tensor, support: Tensor, flow: Tensor, radius: int) -> Tensor:
    """(B, C, h, w), (B, C, h, w), (B, 2, h, w) -> (B, (2 r + 1)^2, h, w)."""
    if query.shape != support.shape:
        raise InvalidInput(
            f"query {tuple(query.shape)} and support {tuple(support.shape)} differ: offsets are "
            "whole cells only on grids of one size"
        )
    height, width = query.shape[-2:]
    corner, fraction = _window_corner(flow, height, width, radius)
    taps = (2 * radius + 2) ** 2
    products = _by_matrix if height * width <= ALL_PAIRS_RATIO * taps else _by_gathering
    window = products(query, support, corner, radius) / query.shape[1] ** 0.5
    return _blended(window, fraction)


def local_correlation_plain(query: Tensor, support: Tensor, flow: Tensor, radius: int) -> Tensor:
    """The same, as its definition reads: holds a copy of the support for every offset."""
    batch, channels, height, width = query.shape
    steps = torch.arange(-radius, radius + 1).to(flow)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    offsets = 2.0 * torch.stack([columns / width, rows / height]).flatten(1)  # (2, K)
    at = flow[:, :, None] + offsets[None, :, :, None, None]  # (B, 2, K, h, w)
    there = sample(support, at.flatten(2, 3)).reshape(batch, channels, -1, height, width)
    return (query[:, :, None] * there).sum(dim=1) / channels**0.5


def _window_corner(flow: Tensor, height: int, width: int, radius: int) -> tuple[Tensor, Tensor]:
    """Upper left cell of each window (B, 2, h, w), and the fraction beyond it in [0, 1).

    Corners are cut to where the window lies wholly outside anyway, so that they are small
    whole numbers. By `where`: NaN gives a corner too, and stays NaN in the fraction.
    """
    size = both(width, height, flow)
    position = ((flow + 1.0) * size - 1.0) * 0.5
    whole = torch.floor(position)
    low = torch.full_like(whole, float(-radius - 2))
    high = (size + radius).expand_as(whole)
    corner = torch.where(whole > low, whole, low)
    corner = torch.where(corner < high, corner, high)
    return corner.long() - radius, position - whole


def _by_matrix(query: Tensor, support: Tensor, corner: Tensor, radius: int) -> Tensor:
    """(B, 2r+2, 2r+2, h, w) dot products, read from the products of all pairs of cells."""
    height, width = query.shape[-2:]
    pairs = query.flatten(2).transpose(1, 2) @ support.flatten(2)  # (B, n, n)
    index = _window_index(corner, height, width, 2 * radius + 2)
    window = F.pad(pairs, (0, 1)).gather(2, index)  # (B, n, (2r+2)^2)
    return _as_window(window, height, width, 2 * radius + 2)


def _by_gathering(query: Tensor, support: Tensor, corner: Tensor, radius: int) -> Tensor:
    """The same from gathered neighbours, some query cells at a time."""
    batch, channels, height, width = query.shape
    # A cell's channels together, and one cell of zeros for what lies outside.
    cells = F.pad(support.flatten(2), (0, 1)).transpose(1, 2).reshape(-1, channels)
    wanted = query.flatten(2).transpose(1, 2).reshape(-1, channels, 1)
    first = torch.arange(batch, device=query.device) * (height * width + 1)
    index = _window_index(corner, height, width, 2 * radius + 2) + first[:, None, None]
    products = _products(cells, index.flatten(0, 1), wanted, 2 * radius + 2)
    return _as_window(products, height, width, 2 * radius + 2)


def _products(cells: Tensor, index: Tensor, wanted: Tensor, side: int) -> Tensor:
    """(m, C) cells, (N, K) places among them, (N, C, 1) -> (N, K) dot products."""
    if wanted.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling():
        few = -(-len(wanted) // side)  # 2r+2 parts: short graphs, few launches
        parts = zip(index.split(few), wanted.split(few), strict=True)
        return torch.cat([(cells[near] @ cell)[:, :, 0] for near, cell in parts])
    # Into one tensor: results kept between the parts would break up the heap (600 MB of holes).
    out = wanted.new_empty(index.shape)
    for start in range(0, len(wanted), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        out[part] = (cells[index[part]] @ wanted[part])[:, :, 0]
    return out


def _window_index(corner: Tensor, height: int, width: int, side: int) -> Tensor:
    """(B, n, side^2): each neighbour's place in the flattened map; height width = outside."""
    steps = torch.arange(side, device=corner.device)
    columns = corner[:, 0].flatten(1)[:, :, None] + steps  # (B, n, side)
    rows = corner[:, 1].flatten(1)[:, :, None] + steps
    inside_x, inside_y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    place = rows[..., None] * width + columns[:, :, None]
    inside = inside_y[..., None] & inside_x[:, :, None]
    return torch.where(inside, place, torch.full_like(place, height * width)).flatten(2)


def _as_window(products: Tensor, height: int, width: int, side: int) -> Tensor:
    """(..., side^2) per cell -> (B, side, side, h, w)."""
    return products.reshape(-1, height, width, side, side).permute(0, 3, 4, 1, 2)


def _blended(window: Tensor, fraction: Tensor) -> Tensor:
    """Bilinear blend of (B, 2r+2, 2r+2, h, w) -> (B, (2r+1)^2, h, w)."""
    x, y = fraction[:, None, None, 0], fraction[:, None, None, 1]
    rows = window[:, :-1] * (1.0 - y) + window[:, 1:] * y
    both = rows[:, :, :-1] * (1.0 - x) + rows[:, :, 1:] * x
    return both.flatten(1, 2)
