"""Batches made on the GPU: images are decoded into its memory once, pairs are made on the fly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray
from l2m_ros.workshop.lifting.pairs import PairOptions
from l2m_ros.workshop.lifting.torch_pairs import (
    PairBatch,
    TorchPairSource,
    load_photographs,
    sky_masks,
)
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.data import Batch, Schedule, SizeShare

KEPT = (768, 576)  # of every photograph: width, height


class DevicePairs(Protocol):
    """A source that draws pairs on the device."""

    def sample(
        self, count: int, size: tuple[int, int], difficulty: float, draws: Draws
    ) -> PairBatch: ...


class LiftedViews:
    """Photographs in the device's memory, lifted to 3D anew for every pair."""

    def __init__(self, photographs: Sequence[Path] | Sequence[ByteArray], device: str) -> None:
        _check_room(len(photographs), device)
        images = load_photographs(photographs, *KEPT)
        self.photographs = images.to(device)  # (N, 3, h, w) uint8
        self.sky = sky_masks(images).to(device)  # (N, h, w) bool

    def sample(
        self, count: int, size: tuple[int, int], difficulty: float, draws: Draws
    ) -> PairBatch:
        options = PairOptions(width=size[0], height=size[1])
        source = TorchPairSource(self.photographs, options, sky=self.sky)
        source.draws = draws
        return source.sample(count, difficulty)


def _check_room(count: int, device: str) -> None:
    """Before an hour of decoding: the photographs fit into a GPU's free memory."""
    if not device.startswith("cuda"):
        return
    each, free = 4 * KEPT[0] * KEPT[1], torch.cuda.mem_get_info(device)[0]
    if count * each > free:
        raise InvalidInput(
            f"{count} photographs take {count * each / 1e9:.0f} GB of the GPU's memory, "
            f"{free / 1e9:.0f} GB are free: name a folder of {free // each} at most, or shards of "
            "`l2m lift` by --pairs"
        )


class DeviceBatches(Schedule):
    """The same steps and sizes as `data.Batches`; other pairs, drawn by torch, as repeatable."""

    def __init__(
        self,
        sources: Mapping[DevicePairs, float],
        sizes: tuple[SizeShare, ...],
        seed: int,
        both_ways: bool,
        device: str,
    ) -> None:
        """`sources` and the share of the pairs that each makes."""
        super().__init__(sizes, seed, both_ways)
        self.sources, self.device = dict(sources), torch.device(device)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        size = self.size_of(step)
        part = self.part_of(size, count)
        made = size.made_width or size.width, size.made_height or size.height
        # A generator of its own for every step and process: nothing to save or to restore.
        draws = Draws(self.device, hash((self.seed, step, rank)) & 0x7FFFFFFF)
        shares = np.array(list(self.sources.values()))
        counts = np.random.default_rng((self.seed, 78, step, rank)).multinomial(
            part, shares / shares.sum()
        )
        pairs = [
            source.sample(int(some), made, difficulty, draws)
            for source, some in zip(self.sources, counts, strict=True)
            if some
        ]
        return _batch(pairs, size, self.both_ways)


def _batch(pairs: Sequence[PairBatch], size: SizeShare, both_ways: bool) -> Batch:
    def joined(*names: str) -> Tensor:
        return torch.cat([getattr(one, name) for name in names for one in pairs])

    ways = (("warp", "visible", "unknown"), ("warp_ba", "visible_b", "unknown_b"))
    names = list(zip(*ways, strict=True)) if both_ways else [(name,) for name in ways[0]]
    warp, visible, unknown = (joined(*name) for name in names)
    batch = Batch(
        joined("rgb_a"), joined("rgb_b"),
        torch.nan_to_num(warp).clamp(-1e4, 1e4).permute(0, 3, 1, 2).contiguous(),
        visible[:, None], unknown[:, None] & ~visible[:, None],
    )  # fmt: skip
    if warp.shape[1:3] == (size.height, size.width):
        return batch
    return stretched_batch(batch, size)


def stretched_batch(batch: Batch, size: SizeShare) -> Batch:
    """As `data.stretched`: a label is kept where all that it is interpolated from is visible."""
    shape = (size.height, size.width)
    rows, columns = batch.warp_px.shape[-2:]
    factor = torch.tensor([size.width / columns, size.height / rows], device=batch.warp_px.device)

    def linear(image: Tensor) -> Tensor:
        return F.interpolate(image, shape, mode="bilinear", align_corners=False)

    warp = (linear(batch.warp_px) + 0.5) * factor.view(1, 2, 1, 1) - 0.5
    inner = F.pad(warp.new_ones(1, 1, shape[0] - 4, shape[1] - 4), (2, 2, 2, 2)) > 0
    hidden = ~batch.visible & ~batch.ignored
    visible, unseen = (inner & (linear(m.float()) > 0.999) for m in (batch.visible, hidden))
    images = (F.interpolate(i, shape, mode="area") for i in (batch.query, batch.keyframe))
    return Batch(*images, warp, visible, ~visible & ~unseen)


class InBlocks(Schedule):
    """The steps of a block share one draw of `schedule`, whose batches are `block` times as large.

    On a GPU a large draw costs about as much as a small one. A block has one size.
    """

    def __init__(self, schedule: Schedule, block: int) -> None:
        for size in schedule.sizes:
            if size.batch % block:
                raise InvalidInput(f"a batch of {size.batch} pairs is not {block} equal steps")
        self.schedule, self.block = schedule, block
        sizes = tuple(self._part(size) for size in schedule.sizes)
        super().__init__(sizes, schedule.seed, schedule.both_ways)
        self._kept: tuple[object, Batch] | None = None

    def _part(self, size: SizeShare) -> SizeShare:
        return replace(size, batch=size.batch // self.block)

    def size_of(self, step: int) -> SizeShare:
        return self._part(self.schedule.size_of(step // self.block))

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        number, within = divmod(step, self.block)
        key = (number, rank, count)
        if self._kept is None or self._kept[0] != key:
            whole = self.schedule.batch(number, rank=rank, count=count, difficulty=difficulty)
            self._kept = key, whole
        return every_nth(self._kept[1], within, self.block)


def every_nth(batch: Batch, first: int, step: int) -> Batch:
    """Pairs first, first + step, ...: of every source its share, as sources lie one by one."""
    pairs = len(batch.query)
    ways = len(batch.warp_px) // pairs

    def rows(value: Tensor) -> Tensor:
        return value.unflatten(0, (ways, pairs))[:, first::step].flatten(0, 1)

    truth = (rows(value) for value in (batch.warp_px, batch.visible, batch.ignored))
    return Batch(batch.query[first::step], batch.keyframe[first::step], *truth)
