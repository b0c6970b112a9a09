"""Which cell fits which: the probability of each pair of keypoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 0.1
SINKHORN_WIDTH = 128  # descriptors' products are scaled by its root


class DualSoftmax(nn.Module):
    """P(i, j) = softmax over i times softmax over j; a dustbin takes what fits nothing."""

    def __init__(self, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        self.temperature = temperature
        self.dustbin_score = nn.Parameter(torch.tensor(1.0))

    def forward(self, query: Tensor, keyframe: Tensor) -> Tensor:
        """Descriptors (B, C, n), (B, C, m) -> (B, n, m)."""
        return dual_softmax(query, keyframe, self.dustbin_score, self.temperature)


def dual_softmax(
    query: Tensor, keyframe: Tensor, dustbin: Tensor | None, temperature: float = TEMPERATURE
) -> Tensor:
    logits = (query.transpose(1, 2) @ keyframe) / temperature
    if dustbin is None:
        return logits.softmax(dim=1) * logits.softmax(dim=2)
    logits = _with_dustbin(logits, dustbin)
    return (logits.softmax(dim=1) * logits.softmax(dim=2))[:, :-1, :-1]


def _with_dustbin(logits: Tensor, dustbin: Tensor) -> Tensor:
    """One more row and column."""
    batch, rows, columns = logits.shape
    right = dustbin.expand(batch, rows, 1)
    below = dustbin.expand(batch, 1, columns + 1)
    return torch.cat([torch.cat([logits, right], dim=2), below], dim=1)


def sinkhorn(query: Tensor, keyframe: Tensor, dustbin: Tensor, iterations: int = 10) -> Tensor:
    """Optimal transport with a dustbin: the alternative that the published code cannot call."""
    logits = (query.transpose(1, 2) @ keyframe) / math.sqrt(SINKHORN_WIDTH)
    rows, columns = logits.shape[-2:]
    couplings = _with_dustbin(logits, dustbin)
    total = math.log(rows + columns)
    row_mass = logits.new_full((rows + 1,), -total)
    column_mass = logits.new_full((columns + 1,), -total)
    row_mass[-1], column_mass[-1] = math.log(columns) - total, math.log(rows) - total
    u, v = torch.zeros_like(couplings[:, :, 0]), torch.zeros_like(couplings[:, 0])
    for _ in range(iterations):
        u = row_mass - torch.logsumexp(couplings + v[:, None], dim=2)
        v = column_mass - torch.logsumexp(couplings + u[:, :, None], dim=1)
    return (couplings + u[:, :, None] + v[:, None] + total).exp()[:, :-1, :-1]


def keypoint_scores(query: Tensor, keyframe: Tensor) -> Tensor:
    """(B, 1, n), (B, 1, m) -> (B, n, m): how likely both keypoints are drawn."""
    return query.transpose(1, 2) @ keyframe


def mutual_maxima(scores: Tensor) -> Tensor:
    """(n, m) -> (k, 2): pairs that are each other's best, the likeliest first."""
    there, back = scores.argmax(dim=1), scores.argmax(dim=0)
    rows = torch.arange(len(scores), device=scores.device)
    rows = rows[back[there] == rows]
    pairs = torch.stack([rows, there[rows]], dim=1)
    order = torch.argsort(scores[rows, there[rows]], descending=True, stable=True)
    return pairs[order]
