"""Batches for a step, drawn from (seed, step) alone: any process count, any resume, same pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.progress import track
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.pairs import Pair, PairOptions, PairSource
from l2m_ros.workshop.lifting.photographs import read_photograph


class PairMaker(Protocol):
    """The pair of a number: the same one every time."""

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair: ...


class PhotographPairs:
    """Pairs lifted from photographs (files or images), at any size that is asked for."""

    def __init__(
        self, photographs: Sequence[Path] | Sequence[ByteArray], seed: int, **options: Any
    ) -> None:
        self._photographs, self._seed, self._options = photographs, seed, options
        self._sources: dict[tuple[int, int], PairSource] = {}
        self._making = Lock()

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        with self._making:  # several threads may ask for the first pair of a size
            if (width, height) not in self._sources:
                self._sources[width, height] = self._source(width, height)
        return self._sources[width, height].sample(index, difficulty)

    def _source(self, width: int, height: int) -> PairSource:
        for first in self._sources.values():
            return first.of_size(width, height)
        options = PairOptions(width=width, height=height, **self._options)
        return PairSource(self._photographs, options, self._seed)


def usable_photographs(paths: Sequence[Path], report: Callable[[str], None]) -> list[Path]:
    """Those that can be decoded; each damaged one is reported and left out.

    Decoded once, small, before training: a bad file must not end a run after an hour.
    """
    kept = []
    for path in track(paths, "checking photographs"):
        try:
            read_photograph(path, longest_side=64)
        except InvalidInput as error:
            report(f"left out: {error}")
        else:
            kept.append(path)
    if not kept:
        raise InvalidInput(f"none of the {len(paths)} photographs can be read")
    return kept


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

    def channels_last(self) -> Batch:
        """The same images, channels side by side in memory."""
        images = (
            image.contiguous(memory_format=torch.channels_last)
            for image in (self.query, self.keyframe)
        )
        return Batch(*images, self.warp_px, self.visible, self.ignored)


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
    made_width: int | None = None  # pairs are made at this size and stretched, as wide or
    made_height: int | None = None  # upright images are on their way into the network

    def pair(self, maker: PairMaker, index: int, difficulty: float) -> Pair:
        width, height = self.made_width or self.width, self.made_height or self.height
        pair = maker.pair(index, width=width, height=height, difficulty=difficulty)
        return stretched(pair, self.width, self.height)


def stretched(pair: Pair, width: int, height: int) -> Pair:
    """Both images resized, whatever that does to their shape, with their truth.

    A label is kept where the four it is interpolated from are all visible, and off the border,
    where there are only two.
    """
    rows, columns = pair.visible.shape
    if (columns, rows) == (width, height):
        return pair
    size, factor = (width, height), np.array([width / columns, height / rows], np.float32)

    def image(rgb: ByteArray) -> ByteArray:
        return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)

    def warp(points: FloatArray) -> FloatArray:
        return (cv2.resize(points, size, interpolation=cv2.INTER_LINEAR) + 0.5) * factor - 0.5

    def share(mask: FloatArray) -> FloatArray:
        return cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)

    inner = np.zeros((height, width), bool)
    inner[2:-2, 2:-2] = True
    visible, visible_b = (inner & (share(m) > 0.999) for m in (pair.visible, pair.visible_b))
    hidden, hidden_b = (
        inner & (share(~seen & ~unknown) > 0.999)
        for seen, unknown in ((pair.visible, pair.unknown), (pair.visible_b, pair.unknown_b))
    )
    return replace(
        pair,
        rgb_a=image(pair.rgb_a), rgb_b=image(pair.rgb_b),
        warp=warp(pair.warp), visible=visible, unknown=~visible & ~hidden,
        warp_ba=warp(pair.warp_ba), visible_b=visible_b, unknown_b=~visible_b & ~hidden_b,
        cameras=None, homography=None, depth_a=None,
    )  # fmt: skip


class Schedule:
    """Which size each step has, and each process' share of its batch."""

    def __init__(self, sizes: tuple[SizeShare, ...], seed: int = 0, both_ways: bool = True) -> None:
        self.sizes, self.seed, self.both_ways = sizes, seed, both_ways

    def size_of(self, step: int) -> SizeShare:
        rng = np.random.default_rng((self.seed, 77, step))
        shares = np.array([size.share for size in self.sizes])
        return self.sizes[int(rng.choice(len(self.sizes), p=shares / shares.sum()))]

    def part_of(self, size: SizeShare, count: int) -> int:
        if size.batch % count:
            raise InvalidInput(
                f"a batch of {size.batch} pairs at {size.width}x{size.height} does not divide "
                f"among {count} processes: choose a multiple"
            )
        return size.batch // count

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        """This process' part of the step's batch."""
        raise NotImplementedError


class Batches(Schedule):
    """Of pairs that NumPy and OpenCV make."""

    def __init__(
        self,
        maker: PairMaker,
        sizes: tuple[SizeShare, ...],
        seed: int = 0,
        both_ways: bool = True,
    ) -> None:
        super().__init__(sizes, seed, both_ways)
        self.maker = maker

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        size = self.size_of(step)
        part = self.part_of(size, count)
        largest = max(size.batch for size in self.sizes)
        first = step * largest + rank * part
        return collate(
            [size.pair(self.maker, index, difficulty) for index in range(first, first + part)],
            self.both_ways,
        )


class Ahead:
    """Batches of the coming steps, made by threads while the device computes.

    `difficulty_of` gives the difficulty of a step: of the step that a batch is for, not of the
    moment at which it is begun, so that a resumed run makes the same batches.

    OpenCV and NumPy let go of the interpreter's lock, so threads do; with 0 workers the batch is
    made when it is asked for, which is best where the network runs on the same cores.
    """

    def __init__(self, batches: Schedule, rank: int, count: int, workers: int) -> None:
        self.batches, self.rank, self.count, self.workers = batches, rank, count, workers
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._coming: dict[int, Future[Batch]] = {}

    def batch(self, step: int, difficulty_of: Callable[[int], float]) -> Batch:
        if self._pool is None:
            return self._made(step, difficulty_of(step))
        for coming in range(step, step + self.workers + 1):
            if coming not in self._coming:
                difficulty = difficulty_of(coming)
                self._coming[coming] = self._pool.submit(self._made, coming, difficulty)
        return self._coming.pop(step).result()

    def _made(self, step: int, difficulty: float) -> Batch:
        return self.batches.batch(step, rank=self.rank, count=self.count, difficulty=difficulty)
