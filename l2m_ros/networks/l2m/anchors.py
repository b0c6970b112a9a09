"""Regression by classification: logits over a square of anchors become a flow.

Anchor k of r x r sits at row k // r, column k % r, at the centre of that cell. The flow is the
mean of the best anchor and its four neighbours, weighed by their probabilities. Neighbours are
m +- 1 and m +- r clamped to [0, r^2 - 1]: at the end of a row m + 1 is the first anchor of
the next, and above the first row lies anchor 0. Released weights were trained so.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l2m_ros.networks.shared.grid import centre_grid


class Anchors(nn.Module):
    """(B, r r, h, w) logits -> (B, 2, h, w) flow; no gradient passes."""

    neighbours: Tensor  # (r r, 5) int64
    places: Tensor  # (r r, 2)

    def __init__(self, side: int) -> None:
        super().__init__()
        index = torch.arange(side * side)[:, None]
        steps = torch.tensor([[-1, 0, 1, -side, side]])
        table = (index + steps).clamp(0, side * side - 1)
        places = centre_grid(side, side, torch.zeros(1)).flatten(1).T.contiguous()
        self.register_buffer("neighbours", table, persistent=False)
        self.register_buffer("places", places, persistent=False)

    def forward(self, logits: Tensor) -> Tensor:
        cells = logits.detach().float().permute(0, 2, 3, 1)  # (B, h, w, r r)
        near = self.neighbours[cells.argmax(dim=-1)]  # (B, h, w, 5)
        weight = cells.softmax(dim=-1).gather(-1, near)
        total = (weight[..., None] * self.places[near]).sum(dim=-2)
        return (total / weight.sum(dim=-1, keepdim=True)).permute(0, 3, 1, 2)
