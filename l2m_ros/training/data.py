"""Batches for a step, drawn from (seed, step) alone: any process count, any resume, same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.lifting.pairs import Pair, PairOptions, PairSource


class PairMaker(Protocol):
    """The pair of a number: the same one every time."""

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair: ...


class PhotographPairs:
    """Pairs lifted from photographs, at any size that is asked for."""

    def __init__(self, photographs: Sequence[Path], seed: int, **options: Any) -> None:
        self._photographs, self._seed, self._options = list(photographs), seed, options
        self._sources: dict[tuple[int, int], PairSource] = {}

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        source = self._sources.get((width, height))
        if source is None:
            options = PairOptions(width=width, height=height, **self._options)
            source = PairSource(self._photographs, options, self._seed)
            self._sources[width, height] = source
        return source.sample(index, difficulty)


@dataclass(frozen=True)
class Batch:
    """Images and truth. Where the truth counts twice as many as the images, its second half is
    the other direction: the keyframes as queries."""

    query: Tensor  # (B, 3, H, W) in [0, 1]
    keyframe: Tensor  # (B, 3, H, W)
    warp_px: Tensor  # (B or 2 B, 2, H, W) px of the image matched to
    visible: Tensor  # (B or 2 B, 1, H, W) bool
    ignored: Tensor  # the same, bool: neither known to be seen nor known to be hidden

    def to(self, device: str) -> Batch:
        moved = (getattr(self, name).to(device) for name in self.__dataclass_fields__)
        return Batch(*moved)


def collate(pairs: Sequence[Pair], both_ways: bool = False) -> Batch:
    """Pairs of one size -> a batch."""

    def images(name: str) -> Tensor:
        stack = np.stack([getattr(pair, name) for pair in pairs])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(255.0)

    ways = [*pairs, *(pair.swapped() for pair in pairs)] if both_ways else list(pairs)
    warp = torch.from_numpy(np.stack([pair.warp for pair in ways])).permute(0, 3, 1, 2)
    finite = torch.isfinite(warp).all(dim=1, keepdim=True)
    visible = torch.from_numpy(np.stack([pair.visible for pair in ways]))[:, None] & finite
    ignored = torch.from_numpy(np.stack([pair.unknown for pair in ways]))[:, None] & ~visible
    # Kept finite and near: a masked NaN or 1e30 would still poison a gradient.
    warp = torch.where(finite, warp, 0.0).float().clamp(-1e4, 1e4).contiguous()
    return Batch(images("rgb_a"), images("rgb_b"), warp, visible, ignored)


@dataclass(frozen=True)
class SizeShare:
    """One of the sizes that steps are drawn from; batch is the whole batch of all processes."""

    width: int
    height: int
    batch: int
    share: float


@dataclass(frozen=True)
class Batches:
    """Which pairs belong to a step."""

    maker: PairMaker
    sizes: tuple[SizeShare, ...]
    seed: int = 0
    both_ways: bool = True

    def size_of(self, step: int) -> SizeShare:
        rng = np.random.default_rng((self.seed, 77, step))
        shares = np.array([size.share for size in self.sizes])
        return self.sizes[int(rng.choice(len(self.sizes), p=shares / shares.sum()))]

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        """This process' part of the step's batch."""
        size = self.size_of(step)
        if size.batch % count:
            raise InvalidInput(
                f"a batch of {size.batch} pairs at {size.width}x{size.height} does not divide "
                f"among {count} processes: choose a multiple"
            )
        part = size.batch // count
        largest = max(size.batch for size in self.sizes)
        first = step * largest + rank * part
        return collate(
            [
                self.maker.pair(index, width=size.width, height=size.height, difficulty=difficulty)
                for index in range(first, first + part)
            ],
            self.both_ways,
        )
