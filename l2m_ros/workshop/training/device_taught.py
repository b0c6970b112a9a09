"""Pairs of photographs that a teacher matched, made on the device: `taught_pairs` for a batch.

The triangles are filled once, at the stored size; a batch looks the warp up there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from l2m_ros.images import read_rgb
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.motion import centred
from l2m_ros.workshop.lifting.torch_pairs import PairBatch
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.lifting.torch_views import sample
from l2m_ros.workshop.training.device_views import (
    STORED,
    Shown,
    Size,
    Turning,
    Views,
    Warps,
    in_threads,
    inside,
    pair_batch,
    resized,
)
from l2m_ros.workshop.training.taught_pairs import between, listed_pairs, read_matches

TURNING = Turning(zoom=(1.02, 0.5), turn=(0.05, 0.06, 0.1))


class TaughtViews:
    """Pairs of photographs that a teacher matched (`l2m teach`): verdicts inside its triangles."""

    def __init__(self, folders: Sequence[Path], device: str) -> None:
        pairs = [pair for folder in folders for pair in listed_pairs(folder)]
        paths = list(dict.fromkeys(path for pair in pairs for path in (pair.a, pair.b)))
        number = {path: index for index, path in enumerate(paths)}
        images, cameras, shapes = zip(*(_assumed(read_rgb(path)) for path in paths), strict=True)
        self.views, self.device = Views(images, cameras, device), torch.device(device)

        def warps(pair):  # type: ignore[no-untyped-def]
            matches = read_matches(pair.matches)
            a, b = (
                moved_with(points, shapes[number[path]])
                for points, path in ((matches[:, :2], pair.a), (matches[:, 2:], pair.b))
            )
            return [np.dstack([w, v]) for w, v, _ in (between(a, b, STORED), between(b, a, STORED))]

        made = in_threads(warps, pairs)
        self.pairs = torch.tensor([[number[p.a], number[p.b]] for p in pairs], device=device)
        both = [
            torch.from_numpy(np.stack(way)).permute(0, 3, 1, 2) for way in zip(*made, strict=True)
        ]
        self.warps = [way.float().to(device) for way in both]  # (P, 3, h, w): x, y, known

    @torch.no_grad()
    def sample(self, count: int, size: Size, difficulty: float, draws: Draws) -> PairBatch:
        hard = difficulty * draws.uniform(count).sqrt()
        chosen = draws.integers(len(self.pairs), count)
        a, b = self.views.pair(draws, self.pairs[chosen], size, TURNING, hard)
        there = _carried(self.warps[0][chosen], a, b)
        back = _carried(self.warps[1][chosen], b, a)
        unknown = torch.full_like(a.source_from_shown, torch.nan)
        return pair_batch(draws, a, b, there, back, 0.3 + 0.3 * hard, unknown)


def _carried(warp: Tensor, a: Shown, b: Shown) -> Warps:
    """The stored warp as the shown views have it."""
    u, v, known = sample(warp, a.x, a.y).unbind(1)
    x, y, within = b.placed(u, v)
    rows, columns = warp.shape[-2:]
    visible = (known > 0.999) & within & inside(a.x, a.y, columns, rows)
    return torch.stack([x, y], -1), visible, ~visible


def moved_with(points: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Pixels of an image of (height, width) in the same image at the stored size."""
    factor = np.array([STORED[0] / shape[1], STORED[1] / shape[0]])
    moved: FloatArray = (points + 0.5) * factor - 0.5
    return moved


def _assumed(rgb: ByteArray) -> tuple[ByteArray, FloatArray, tuple[int, int]]:
    """A photograph whose camera nobody knows, and its shape."""
    height, width = rgb.shape[:2]
    K = centred(0.9 * max(width, height), width, height)
    return *resized(rgb, K), (height, width)
