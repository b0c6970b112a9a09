"""Batches made on the GPU: the photographs are decoded into its memory once, pairs on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

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


class DeviceBatches(Schedule):
    """The same steps and sizes as `data.Batches`; other pairs, drawn by torch, as repeatable."""

    def __init__(
        self,
        photographs: Sequence[Path] | Sequence[ByteArray],
        sizes: tuple[SizeShare, ...],
        seed: int,
        both_ways: bool,
        device: str,
    ) -> None:
        super().__init__(sizes, seed, both_ways)
        images = load_photographs(photographs)
        self.photographs = images.to(device)  # (N, 3, h, w) uint8
        self.sky = sky_masks(images).to(device)  # (N, h, w) bool

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        size = self.size_of(step)
        part = self.part_of(size, count)
        width, height = size.made_width or size.width, size.made_height or size.height
        options = PairOptions(width=width, height=height)
        source = TorchPairSource(self.photographs, options, sky=self.sky)
        # A generator of its own for every step and process: nothing to save or to restore.
        source.draws = Draws(self.photographs.device, hash((self.seed, step, rank)) & 0x7FFFFFFF)
        return _batch(source.sample(part, difficulty), size, self.both_ways)


def _batch(pairs: PairBatch, size: SizeShare, both_ways: bool) -> Batch:
    ways = [(pairs.warp, pairs.visible, pairs.unknown)]
    if both_ways:
        ways.append((pairs.warp_ba, pairs.visible_b, pairs.unknown_b))
    warp, visible, unknown = (torch.cat(parts) for parts in zip(*ways, strict=True))
    batch = Batch(
        pairs.rgb_a, pairs.rgb_b,
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
