"""Balanced sampling exactly as the published matchers do it, in torch and in half precision.

Threshold, draw four times as many as wanted by certainty, then draw the wanted number by the
inverse of how many others lie near in both images. `matching.sampling` (method `density`) does the
same in NumPy for everybody else, and holds the constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.sampling import (
    BANDWIDTH,
    EXPANSION,
    FEW_NEIGHBOURS_WEIGHT,
    MIN_NEIGHBOURS,
    THRESHOLD,
)

MAX_CATEGORIES = 2**24  # of torch.multinomial


@dataclass(frozen=True)
class SamplingOptions:
    """Defaults: L2M's. TinyRoMa: half=False, every=8 on the CPU."""

    number: int = 10000
    threshold: float = THRESHOLD  # certainties above it count as 1
    balanced: bool = True
    bandwidth: float = BANDWIDTH  # of the density, in normalised coordinates
    half: bool = True  # the density in half precision, as published
    every: int = 1  # the density over every n-th match only
    chunk: int = 4096  # rows of the distance matrix at a time: 0.3 GB rather than 3.2

    def __post_init__(self) -> None:
        if self.number < 1 or self.every < 1 or self.chunk < 1 or self.bandwidth <= 0:
            raise InvalidInput("number, every and chunk must be 1 or more, bandwidth positive")


def sample_matches(
    warp: Tensor,
    certainty: Tensor,
    options: SamplingOptions | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """(H, W, 4), (H, W) in [0, 1] -> (n, 4) matches and their thresholded certainties (n,).

    Fewer than asked for where fewer pixels have any certainty; none give (0, 4).
    """
    options = options or SamplingOptions()
    matches, weight = warp.reshape(-1, 4), certainty.reshape(-1).float()
    weight = torch.where(weight > options.threshold, torch.ones_like(weight), weight)
    wanted = options.number * (EXPANSION if options.balanced else 1)
    drawn = _draw(weight, wanted, generator)
    matches, kept = matches[drawn], weight[drawn]
    if not options.balanced or not len(matches):
        return matches, kept
    balance = balance_weights(density(matches, options))
    drawn = _draw(balance.float(), options.number, generator)
    return matches[drawn], kept[drawn]


def density(matches: Tensor, options: SamplingOptions | None = None) -> Tensor:
    """(n,): how many matches lie near, by a Gaussian in all four coordinates; itself included."""
    options = options or SamplingOptions()
    points = matches.half() if options.half else matches
    others = points[:: options.every]
    return torch.cat([_near(rows, others, options) for rows in points.split(options.chunk)])


def _near(rows: Tensor, others: Tensor, options: SamplingOptions) -> Tensor:
    distance = torch.cdist(rows, others)
    return torch.exp(-(distance**2) / (2 * options.bandwidth**2)).sum(dim=-1)


def balance_weights(density: Tensor) -> Tensor:
    """1 / (density + 1); nearly nothing for lonely matches, which are mostly wrong."""
    weight = 1 / (density + 1)
    weight[density < MIN_NEIGHBOURS] = FEW_NEIGHBOURS_WEIGHT
    return weight


def _draw(weight: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """Indices drawn without replacement in proportion to weight, at most those above zero."""
    if len(weight) > MAX_CATEGORIES:
        raise InvalidInput(
            f"{len(weight)} matches are more than torch draws from ({MAX_CATEGORIES}): "
            "use a smaller resolution"
        )
    possible = int(torch.count_nonzero(weight))
    if possible == 0:
        return torch.zeros(0, dtype=torch.long, device=weight.device)
    number = min(number, possible)
    return torch.multinomial(weight, number, replacement=False, generator=generator)
