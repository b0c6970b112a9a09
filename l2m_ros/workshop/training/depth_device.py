"""Batches of a depth head made on the device: each step cuts, colours and sees its images anew.

    Stored images -> cuts (`depth_cuts`) -> grey of another camera (`depth_colours`) -> Eyes, frozen

Of photographs nobody knows the depth. Two cuts of one must still agree on the depth of what both
show, whatever their zoom and colours: so the head learns what real images look like.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.networks.lite.backbone import Backbone
from l2m_ros.networks.lite.network import below_of
from l2m_ros.networks.shared.xfeat import standardised_grey
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.depth_colours import coloured, dropped, mean_of, restyled
from l2m_ros.workshop.training.depth_cuts import (
    Cuts,
    Size,
    Stored,
    cut_images,
    cut_labels,
    draw_cuts,
    grid_of,
    pixels,
    whole_cuts,
)
from l2m_ros.workshop.training.depth_data import CELL, Samples
from l2m_ros.workshop.training.depth_head import HeadBatch, HeadOptions, Twins

WHOLE_AT_ONCE = 32


class Eyes(nn.Module):
    """Grey (B, 1, H, W) -> `eyes` at 1/16 and `eyes_wide` at 1/32, as lite's encoder gives them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.backbone.seen(standardised_grey(grey))
        return below_of(seen), seen.context


class AnewBatches(Schedule):
    """Of stored images, drawn from (seed, step); photographs beside them in two cuts each."""

    def __init__(
        self,
        groups: Sequence[Stored],
        shares: Sequence[float],
        eyes: Eyes,
        options: HeadOptions,
        photographs: Stored | None = None,
    ) -> None:
        super().__init__(
            (SizeShare(options.width, options.height, options.batch, 1.0),), options.loop.seed
        )
        self.groups, self.shares = list(groups), np.array(shares) / np.sum(shares)
        self.eyes, self.options, self.photographs = eyes, options, photographs
        self.size = (options.width, options.height)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> HeadBatch:
        part = self.part_of(self.sizes[0], count)
        rng = np.random.default_rng((self.seed, 5, step, rank))
        device = self.groups[0].rgb.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
        drawn = [
            _some(group, rng, many)
            for group, many in zip(self.groups, rng.multinomial(part, self.shares), strict=True)
            if many
        ]
        twins = None
        if self.photographs is not None:
            photographs = _some(self.photographs, rng, max(part // 8, 1))
            drawn += [photographs, photographs]
        images = Stored.joined(drawn)
        stored = (images.rgb.shape[3], images.rgb.shape[2])
        cuts = draw_cuts(rng, len(images), stored, self.size)
        if self.photographs is not None:
            twins = twins_of(cuts, len(photographs), self.size).to(str(device))
        cuts = cuts.to(device)
        grey = coloured(cut_images(images, cuts, self.size), generator)
        features = restyled(self.eyes(grey), self.options.restyled, generator)
        share = self.options.channel_dropout
        features = tuple(
            dropped(x, mean_of(x), share, torch.rand(*x.shape[:2], 1, 1, device=device,
                                                     generator=generator))
            for x in features
        )  # fmt: skip
        return HeadBatch(*features, cut_labels(images, cuts, self.size), images.family, twins)


def _some(group: Stored, rng: np.random.Generator, count: int) -> Stored:
    return group.picked(torch.from_numpy(rng.integers(len(group), size=count)).to(group.rgb.device))


def twins_of(cuts: Cuts, count: int, size: Size) -> Twins:
    """Of the last 2 count cuts: where the second half's cells lie in the first half's."""
    parts = [
        Cuts(cuts.linear[at], cuts.offset[at], cuts.log_zoom[at])
        for at in (slice(-2 * count, -count), slice(-count, None))
    ]
    middles = pixels(size, float(CELL), cuts.linear.device)
    there = parts[0].cut_px(parts[1].stored_px(middles))
    return Twins(grid_of(there, size), parts[0].log_zoom - parts[1].log_zoom)


@torch.no_grad()
def seen_whole(
    stored: Stored, eyes: Eyes, size: Size, colour: Callable[[Tensor], Tensor] | None = None
) -> Samples:
    """What the eyes see in each image as it is."""
    parts: list[list[np.ndarray]] = [[], [], []]
    shape = (stored.rgb.shape[3], stored.rgb.shape[2])
    for at in torch.arange(len(stored), device=stored.rgb.device).split(WHOLE_AT_ONCE):
        some = stored.picked(at)
        cuts = whole_cuts(len(at), shape, size).to(stored.rgb.device)
        rgb = cut_images(some, cuts, size)
        grey = rgb.mean(dim=1, keepdim=True) if colour is None else colour(rgb)
        found = [x.half().cpu().numpy() for x in eyes(grey)]
        found.append(cut_labels(some, cuts, size)[:, 0].cpu().numpy())
        for kept, one in zip(parts, found, strict=True):
            kept.append(one)
    return Samples(
        *(np.concatenate(part) for part in parts),
        stored.place.cpu().numpy(), stored.family.cpu().numpy(),
    )  # fmt: skip
