"""Linear attention over the cells of a feature map, with a sine code of each cell's place.

    out = phi(q) [phi(k)^T v] / (phi(q) sum phi(k) + 1e-6),   phi(z) = elu(z) + 1

The cost grows with the number of cells, not with its square.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERIOD = 10000.0
EPS = 1e-6


class LinearAttention(nn.Module):
    """One layer: attention, then an MLP of [tokens, message]; both are added by residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 2 * width, bias=False),
            nn.ReLU(),
            nn.Linear(2 * width, width, bias=False),
        )
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        query, key = F.elu(self._split(self.q_proj(tokens))) + 1, self._split(self.k_proj(tokens))
        key, value = F.elu(key) + 1, self._split(self.v_proj(tokens))  # (B, heads, N, C / heads)
        # Sums over cells as means: half precision would overflow at 2,000 cells.
        root = math.sqrt(tokens.shape[1])
        carried = (key / root).transpose(2, 3) @ (value / root)
        total = query @ key.mean(dim=2, keepdim=True).transpose(2, 3)
        attended = (query @ carried) / (total + EPS / tokens.shape[1])
        message = self.norm1(self.merge(attended.transpose(1, 2).flatten(2)))
        return tokens + self.norm2(self.mlp(torch.cat([tokens, message], dim=-1)))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


class AttentionStack(nn.Module):
    """(B, C, h, w) -> (B, C, h, w)."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LinearAttention(width, heads) for _ in range(depth))

    def forward(self, cells: Tensor) -> Tensor:
        rows, columns = cells.shape[-2:]
        code = torch.from_numpy(sine_code(cells.shape[1], rows, columns)).to(cells)
        tokens = (cells + code).flatten(2).transpose(1, 2)  # (B, h w, C), row-major
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.transpose(1, 2).unflatten(2, (rows, columns))


@lru_cache(maxsize=16)
def sine_code(width: int, rows: int, columns: int) -> np.ndarray:
    """(C, h, w) float32: sin and cos of x w_k, then of y w_k, places counted from 1."""
    k = np.arange(width // 4, dtype=np.float64)
    omega = np.exp(-2.0 * k * math.log(PERIOD) / (width // 2)).astype(np.float32)[:, None, None]
    x = np.arange(1, columns + 1, dtype=np.float32)[None, None, :]
    y = np.arange(1, rows + 1, dtype=np.float32)[None, :, None]
    code = np.empty((width, rows, columns), np.float32)
    code[0::4], code[1::4] = np.sin(x * omega), np.cos(x * omega)
    code[2::4], code[3::4] = np.sin(y * omega), np.cos(y * omega)
    return code
