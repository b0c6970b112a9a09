"""Pairs of banked views of scenes: chosen by what both show, labelled where the network is.

BankPairs     any two views of a scene that overlap, drawn evenly over the overlap
BankBatches   batches of them, as the matching stage takes them
MixedBatches  every batch in parts from several schedules
InBlocks      the batches of several steps drawn at once: on a GPU a large draw costs about
              as much as a small one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians.bank import ViewBank
from l2m_ros.workshop.gaussians.labels import SAME_SURFACE
from l2m_ros.workshop.gaussians.torch_labels import depth_at, labels_between, moved_pixels
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_effects import camera_effects
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.data import Batch, Schedule, SizeShare
from l2m_ros.workshop.training.device_data import stretched_batch

LEAST_OVERLAP, EASIEST_OVERLAP = 0.15, 0.6  # the least overlap of a pair at difficulty 1 and 0
PROBE_STEP = 12  # pixels between those that the overlap is measured at
BINS = 12  # of overlap, which are equally likely


@dataclass(frozen=True, eq=False)
class Drawn:
    """B pairs of views and their labels."""

    a: Tensor  # (B,) numbers of views in the bank
    b: Tensor
    images_a: Tensor  # (B, 3, H, W) in [0, 1], through a camera each
    images_b: Tensor
    ways: list[tuple[Tensor, Tensor, Tensor]]  # warp, visible, unknown: a to b, then b to a


class BankPairs:
    """Draws pairs of the views of a bank."""

    def __init__(self, bank: ViewBank, effects: EffectOptions | None = None) -> None:
        self.bank, self.effects = bank, effects or EffectOptions()
        self.device = bank.depth.device
        self.a, self.b, self.overlap, self.weight = _pairs_of(bank)
        if not len(self.a):
            raise InvalidInput(
                "no two of the rendered views show the same surface: render more of each scene"
            )

    def __len__(self) -> int:
        return len(self.a)

    def draw(self, draws: Draws, count: int, difficulty: float, both_ways: bool = True) -> Drawn:
        least = EASIEST_OVERLAP + (LEAST_OVERLAP - EASIEST_OVERLAP) * difficulty
        weight = torch.where(self.overlap >= least, self.weight, 0.0)
        weight = torch.where(weight.sum() > 0, weight, self.weight)
        bounds = weight.double().cumsum(0)
        at = draws.uniform(count).double() * bounds[-1]
        chosen = torch.searchsorted(bounds, at, right=True).clamp(max=len(self.a) - 1)
        swap = draws.uniform(count) < 0.5
        a = torch.where(swap, self.b[chosen], self.a[chosen])
        b = torch.where(swap, self.a[chosen], self.b[chosen])
        strength = 0.4 + 0.6 * difficulty * draws.uniform(count).sqrt()
        images = (
            camera_effects(draws, self.bank.rgb[view].float() / 255, self.effects, strength)
            for view in (a, b)
        )
        ways = [self.labels(a, b), self.labels(b, a)] if both_ways else [self.labels(a, b)]
        return Drawn(a, b, *images, ways)

    def labels(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bank = self.bank
        return labels_between(
            bank.depth[a], bank.K[a], _b_from_a(bank, a, b), bank.depth[b], bank.K[b]
        )


def _b_from_a(bank: ViewBank, a: Tensor, b: Tensor) -> Tensor:
    """(B, 4, 4), in double precision: worlds may lie far from their origin."""
    pose_a, pose_b = (bank.camera_from_world[view].double() for view in (a, b))
    return (pose_b @ torch.linalg.inv(pose_a)).float()


@torch.no_grad()
def _pairs_of(bank: ViewBank) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers a < b of the views of each pair, its overlap, and how likely it is drawn.

    Scenes are equally likely, and so are bins of overlap that have pairs.
    """
    parts = []
    for scene in torch.unique(bank.scene).tolist():
        views = (bank.scene == scene).nonzero()[:, 0]
        shared = torch.stack([_shown_in(bank, view, views) for view in views.tolist()])
        overlap = (shared * shared.T).sqrt()
        i, j = torch.triu_indices(len(views), len(views), 1, device=views.device)
        both = torch.minimum(shared, shared.T)[i, j] >= 0.5 * LEAST_OVERLAP
        keep = both & (overlap[i, j] >= LEAST_OVERLAP)
        i, j = i[keep], j[keep]
        found = overlap[i, j]
        bins = ((found - LEAST_OVERLAP) / (1 - LEAST_OVERLAP) * BINS).long().clamp(0, BINS - 1)
        counts = torch.bincount(bins, minlength=BINS)
        weight = 1.0 / (counts[bins] * (counts > 0).sum())
        parts.append((views[i], views[j], found, weight))
    a, b, overlap, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return a, b, overlap, weight


def _shown_in(bank: ViewBank, view: int, others: Tensor) -> Tensor:
    """(V,) share of the view's known pixels that each of the others shows, from a few of them."""
    count = len(others)
    step = PROBE_STEP
    depth = bank.depth[view][step // 2 :: step, step // 2 :: step]
    # Pixel (v, u) of the coarse grid is pixel step (v, u) + step / 2 of the view.
    K = bank.K[view].clone()
    K[:2, 2] -= step // 2
    K[:2] /= step
    known = (depth > 0).expand(count, -1, -1)
    warp, z = moved_pixels(
        torch.where(depth > 0, depth, 1.0).expand(count, -1, -1),
        K.expand(count, -1, -1),
        _b_from_a(bank, torch.full_like(others, view), others),
        bank.K[others],
    )
    width, height = bank.size
    x, y = warp.unbind(-1)
    inside = known & (z > 1e-6) & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    shown = depth_at(bank.depth[others], warp, inside)
    seen = inside & (shown > 0) & ((shown / torch.where(z > 1e-6, z, 1.0) - 1).abs() < SAME_SURFACE)
    return seen.flatten(1).sum(1) / known.flatten(1).sum(1).clamp(min=1)


class BankBatches(Schedule):
    """Drawn by torch from (seed, step); the bank's size, stretched where a step's is another."""

    def __init__(
        self, bank: ViewBank, sizes: tuple[SizeShare, ...], seed: int, both_ways: bool = True
    ) -> None:
        super().__init__(sizes, seed, both_ways)
        self.pairs = BankPairs(bank)

    @torch.no_grad()
    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        size = self.size_of(step)
        draws = Draws(self.pairs.device, hash((self.seed, 14, step, rank)) & 0x7FFFFFFF)
        drawn = self.pairs.draw(draws, self.part_of(size, count), difficulty, self.both_ways)
        warp, visible, unknown = (torch.cat(parts) for parts in zip(*drawn.ways, strict=True))
        finite = torch.isfinite(warp).all(dim=-1)
        visible = (visible & finite)[:, None]
        batch = Batch(
            drawn.images_a, drawn.images_b,
            torch.nan_to_num(warp).clamp(-1e4, 1e4).permute(0, 3, 1, 2).contiguous(),
            visible, unknown[:, None] & ~visible,
        )  # fmt: skip
        if (size.width, size.height) == self.pairs.bank.size:
            return batch
        return stretched_batch(batch, size)


class MixedBatches(Schedule):
    """Every batch in parts: schedule k gives its own share (its sizes' batch) of each."""

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        sizes = tuple(
            replace(same[0], batch=sum(size.batch for size in same))
            for same in zip(*(schedule.sizes for schedule in schedules), strict=True)
        )
        super().__init__(sizes, schedules[0].seed, schedules[0].both_ways)
        if len({schedule.seed for schedule in schedules}) > 1:
            raise InvalidInput("schedules that are mixed draw their sizes by one seed")
        self.schedules = list(schedules)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        parts = [
            s.batch(step, rank=rank, count=count, difficulty=difficulty) for s in self.schedules
        ]
        return joined_batches(parts)


class InBlocks(Schedule):
    """The steps of a block share a draw of `schedule`, whose batches are `block` times as large.

    Steps of one size only.
    """

    def __init__(self, schedule: Schedule, block: int) -> None:
        (size,) = schedule.sizes
        if size.batch % block:
            raise InvalidInput(f"a batch of {size.batch} pairs is not {block} equal steps")
        self.schedule, self.block = schedule, block
        super().__init__(
            (replace(size, batch=size.batch // block),), schedule.seed, schedule.both_ways
        )
        self._kept: tuple[object, Batch] | None = None

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        number, within = divmod(step, self.block)
        key = (number, rank, count)
        if self._kept is None or self._kept[0] != key:
            whole = self.schedule.batch(number, rank=rank, count=count, difficulty=difficulty)
            self._kept = key, whole
        part = self.part_of(self.sizes[0], count)
        return part_of_batch(self._kept[1], within * part, part)


def joined_batches(parts: Sequence[Batch]) -> Batch:
    """One batch: of both ways the first come first."""
    ways = len(parts[0].warp_px) // len(parts[0].query)

    def way(name: str, which: int) -> list[Tensor]:
        return [getattr(p, name)[which * len(p.query) : (which + 1) * len(p.query)] for p in parts]

    truth = (
        torch.cat([rows for which in range(ways) for rows in way(name, which)])
        for name in ("warp_px", "visible", "ignored")
    )
    images = (torch.cat([getattr(p, name) for p in parts]) for name in ("query", "keyframe"))
    return Batch(*images, *truth)


def part_of_batch(batch: Batch, first: int, count: int) -> Batch:
    """Some consecutive pairs of it."""
    whole = len(batch.query)
    ways = len(batch.warp_px) // whole

    def rows(value: Tensor) -> Tensor:
        starts = [way * whole + first for way in range(ways)]
        return torch.cat([value[start : start + count] for start in starts])

    images = (value[first : first + count] for value in (batch.query, batch.keyframe))
    return Batch(*images, *(rows(v) for v in (batch.warp_px, batch.visible, batch.ignored)))
