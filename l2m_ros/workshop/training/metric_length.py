"""How wrong the length of a pair is, as a function of a head's depths: what a robot suffers from.

Two views show depths in units of their translation, a head reads them in metres; the log of the
length is the mean of log (read / seen), each match by how sure the head is of it. That is what
`geometry/length.py` solves where a head states a small shift. Its error teaches depths where
matches lie, and sigmas: what the length is read off best.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_ros.geometry.length import CAUCHY, LEAST_MATCHES

SEEN_SIGMA = 0.02  # relative, of what parallax shows
ROUNDS = 3
ERROR = 0.1  # of a length's log: the scale of the likelihood
FARTHEST = 1.0  # that the loss still pulls on
OF_ONE = 0.5  # weight of the two images' own readings beside that of their mean


def length_loss(log_depth: Tensor, log_sigma: Tensor, seen: Tensor) -> Tensor:
    """All (2 B, M), first ends before second ones; seen: NaN where parallax is too small."""
    errors, counts = length_errors(log_depth, log_sigma, seen)
    taught = torch.stack(counts.chunk(2)).amin(dim=0) >= LEAST_MATCHES
    ends = torch.stack(errors.chunk(2))  # (2, B)
    both = ends.mean(dim=0).abs().clamp_max(FARTHEST)
    own = ends.abs().clamp_max(FARTHEST).mean(dim=0)
    return torch.where(taught, both + OF_ONE * own, 0.0).sum() / (taught.sum().clamp_min(1) * ERROR)


def length_errors(log_depth: Tensor, log_sigma: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) error of the log of the length that an image's depths say, and matches it is from."""
    known = torch.isfinite(seen)
    count = known.sum(dim=1)
    error = torch.where(known, log_depth - torch.nan_to_num(seen), 0.0)
    variance = torch.exp(2.0 * log_sigma) + SEEN_SIGMA**2
    with torch.no_grad():  # what is far off its image weighs less, and learns nothing by that
        robust = known.float()
        for _ in range(ROUNDS):
            off = (error - _mean(error, robust / variance)[:, None]) / (CAUCHY * variance.sqrt())
            robust = known / (1.0 + off * off)
    return _mean(error, robust / variance), count


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-9)
