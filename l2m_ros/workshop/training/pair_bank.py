"""What a metric head of `lite` learns from: a bank of seen pairs, and batches of them.

Of each match the true pose tells how far away it is, where its parallax suffices: a label from two
views and the pose between them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.engines.backend import Array
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.se3 import angles_rad, inverse
from l2m_ros.geometry.triangulation import nearest_depths
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.depth_colours import dropped, mean_of
from l2m_ros.workshop.training.metric_pairs import LEAST_WAY_M, PairLimits
from l2m_ros.workshop.training.seen_pairs import SeenPairs

TRAINED_MATCHES = 64  # a pair with fewer is only measured on
OFF_PX = 2.0  # from the epipolar line of the true pose: a match that is farther off is none
MATCH_SIGMA_PX = 0.7
MEAN_OVER = 200  # images
DEPTH_SIGMA = 0.1  # relative, of a triangulated depth that counts


@dataclass(frozen=True, eq=False)
class PairBank:
    """N images, P pairs, the easiest first; M matches a pair."""

    cells: Tensor  # (N, C, h, w) float16
    context: Tensor
    labels: Tensor  # (N, h, w) log of depth over focal length, where a sensor knows it
    K: Tensor  # (N, 3, 3)
    ends: Tensor  # (P, 2)
    px: Tensor  # (P, M, 4)
    confidence: Tensor  # (P, M)
    seen: Tensor  # (P, M, 2) log of triangulated depth over focal length in both images, or NaN
    motion: Tensor  # (P, 4, 4) second_from_first
    excess: Array  # (P,) 1 at the limits, sorted
    place: Array  # (N,)

    def __len__(self) -> int:
        return len(self.ends)

    @staticmethod
    def of(parts: Sequence[SeenPairs], limits: PairLimits, least: int = 0) -> PairBank:
        """limits: of a pair, at difficulty 1; least: matches of a pair."""
        starts = np.cumsum([0, *(len(part.K) for part in parts)])
        chosen, excess, motion = [], [], []
        for part in parts:
            moved = np.stack([inverse(part.pose[b]) @ part.pose[a] for a, b in part.ends])
            far = excess_of(moved, limits)
            good = (part.confidence > 0).sum(axis=1) >= least
            good &= np.linalg.norm(moved[:, :3, 3], axis=1) >= LEAST_WAY_M
            chosen.append(np.flatnonzero(good & (far <= 1.0)))
            excess.append(far[chosen[-1]])
            motion.append(moved[chosen[-1]])
        far = np.concatenate(excess)
        if not len(far):
            raise InvalidInput(
                "no two posed images that `lite` matches show the same from two places: nothing to "
                "train on"
            )
        order = np.argsort(far, kind="stable")

        def images(name: str) -> Array:
            return np.concatenate([getattr(part, name) for part in parts])

        def pairs(name: str) -> Array:
            every = [getattr(part, name)[c] for part, c in zip(parts, chosen, strict=True)]
            return np.concatenate(every)[order]

        ends = np.concatenate([p.ends[c] + s for p, c, s in
                               zip(parts, chosen, starts[:-1], strict=True)])[order]  # fmt: skip
        K, T = images("K"), np.concatenate(motion)[order]
        px, confidence = pairs("px"), pairs("confidence")
        seen = triangulated(px, confidence, K[ends[:, 0]], K[ends[:, 1]], T)
        place = np.repeat(np.arange(len(parts)), np.diff(starts))
        return PairBank(
            torch.from_numpy(images("cells")), torch.from_numpy(images("context")),
            torch.from_numpy(images("labels")), torch.from_numpy(K), torch.from_numpy(ends),
            torch.from_numpy(px), torch.from_numpy(confidence),
            torch.from_numpy(seen.astype(np.float32)),
            torch.from_numpy(T.astype(np.float32)), far[order], place,
        )  # fmt: skip


def excess_of(motion: Array, limits: PairLimits) -> Array:
    """(P,) of second_from_first (P, 4, 4): 1 at the limits."""
    turn = np.degrees(angles_rad(motion[:, :3, :3]))
    way = np.linalg.norm(motion[:, :3, 3], axis=1)
    return np.asarray(np.maximum(way / limits.way_m, turn / limits.turn_deg))


def triangulated(px: Array, confidence: Array, K0: Array, K1: Array, T: Array) -> Array:
    """(P, M, 2) log of depth over focal length at both ends; NaN where the pose does not tell."""
    rays = [
        np.concatenate([(at - K[:, None, :2, 2]) / K[:, None, [0, 1], [0, 1]],
                        np.ones((*at.shape[:2], 1))], axis=2)
        for at, K in ((px[..., :2], K0), (px[..., 2:], K1))
    ]  # fmt: skip
    focal = [np.sqrt(K[:, 0, 0] * K[:, 1, 1])[:, None] for K in (K0, K1)]
    v, k, t = rays[0] @ T[:, :3, :3].swapaxes(1, 2), rays[1], T[:, None, :3, 3]
    second, first, parallax = nearest_depths(k, v, t)
    apart = np.linalg.norm(v * first[..., None] + t - k * second[..., None], axis=2)
    with np.errstate(all="ignore"):
        off_px = apart / np.maximum(second, 1e-6) * focal[1]
        sigma = MATCH_SIGMA_PX / (parallax * np.minimum(*focal))
        good = (first > 0) & (second > 0) & (off_px < OFF_PX) & (sigma < DEPTH_SIGMA)
        good &= confidence > 0
        both = np.stack([np.log(first / focal[0]), np.log(second / focal[1])], axis=2)
    return np.where(good[..., None], both, np.nan)


@dataclass(frozen=True)
class BankBatch:
    """B pairs; the images of the first ends, then those of the second."""

    cells: Tensor  # (2 B, C, h, w)
    context: Tensor
    labels: Tensor  # (2 B, h, w)
    K: Tensor  # (2 B, 3, 3)
    px: Tensor  # (2 B, M, 2)
    confidence: Tensor  # (B, M)
    seen: Tensor  # (2 B, M)
    motion: Tensor  # (B, 4, 4) second_from_first
    seed: int  # of the draws
    difficulty: float

    def to(self, device: str) -> BankBatch:
        moved = [getattr(self, name) for name in self.__dataclass_fields__]
        return BankBatch(*(v.to(device) if isinstance(v, Tensor) else v for v in moved))

    def channels_last(self) -> BankBatch:
        cells, context = (
            x.contiguous(memory_format=torch.channels_last) for x in (self.cells, self.context)
        )
        return replace(self, cells=cells, context=context)


def bank_batch(bank: PairBank, chosen: Array, seed: int, difficulty: float) -> BankBatch:
    at = torch.from_numpy(np.asarray(chosen))
    images = bank.ends[at].T.flatten()
    sides = bank.px[at]
    seen = bank.seen[at]
    return BankBatch(
        bank.cells[images].float(), bank.context[images].float(), bank.labels[images],
        bank.K[images], torch.cat([sides[..., :2], sides[..., 2:]]), bank.confidence[at],
        torch.cat([seen[..., 0], seen[..., 1]]), bank.motion[at], seed, difficulty,
    )  # fmt: skip


class BankBatches(Schedule):
    """Drawn from (seed, step) alone; difficulty d allows pairs within d times the limits."""

    def __init__(self, bank: PairBank, size: tuple[int, int], batch: int, seed: int,
                 dropout: float) -> None:  # fmt: skip
        super().__init__((SizeShare(*size, batch, 1.0),), seed)
        self.bank, self.dropout = bank, dropout
        step = max(len(bank.cells) // MEAN_OVER, 1)
        self._means = [mean_of(features[::step]) for features in (bank.cells, bank.context)]

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Any:
        part = self.part_of(self.sizes[0], count)
        rng = np.random.default_rng((self.seed, 56, step, rank))
        allowed = int(np.searchsorted(self.bank.excess, difficulty, side="right"))
        chosen = rng.integers(max(allowed, min(part, len(self.bank))), size=part)
        first = step * self.sizes[0].batch + rank * part
        made = bank_batch(self.bank, chosen, first, difficulty)
        if self.dropout > 0:
            cells, context = (
                dropped(x, mean, self.dropout, torch.from_numpy(rng.random((*x.shape[:2], 1, 1))))
                for x, mean in zip((made.cells, made.context), self._means, strict=True)
            )
            made = replace(made, cells=cells, context=context)
        return made
