"""Pairs of posed images with depth made on the device: `posed_pairs` for a whole batch at once.

    posed = PosedViews.read([Path("worlds")], "cuda")
    pairs = posed.sample(32, (320, 256), 0.5, Draws(posed.device, seed=0))

The draws differ from the twin's, their ranges and the rules of what is visible do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import FloatArray
from l2m_ros.workshop.evaluation.scenes import find_scenes
from l2m_ros.workshop.lifting.torch_pairs import PairBatch
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.lifting.torch_views import sample
from l2m_ros.workshop.training.device_views import (
    FAR_PX,
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
    times,
)
from l2m_ros.workshop.training.posed_pairs import (
    AGREE_SHARE,
    CANDIDATES,
    NEARER_SHARE,
    edges_of,
)

TURNING = Turning(zoom=(1.05, 0.6), turn=(0.06, 0.08, 0.1))


class PosedViews:
    """Pairs of the scenes' own lists, by depth and poses."""

    def __init__(
        self, views: Views, depths: Sequence[FloatArray], pairs: Sequence[tuple[int, int]],
        b_from_a: FloatArray, overlap: FloatArray,
    ) -> None:  # fmt: skip
        device = views.rgb.device
        inverse = [np.nan_to_num(1.0 / d, nan=0.0, posinf=0.0).astype(np.float32) for d in depths]
        self.views, self.device = views, device
        self.inverse_depth = torch.from_numpy(np.stack(inverse)).to(device)  # (N, h, w)
        edges = np.stack(in_threads(edges_of, inverse)) > 0
        self.edge = torch.from_numpy(edges).to(device)
        self.pairs = torch.tensor(pairs, device=device)  # (P, 2)
        self.b_from_a = torch.tensor(b_from_a, dtype=torch.float32, device=device)
        self.overlap = torch.tensor(overlap, dtype=torch.float32, device=device)

    @classmethod
    def read(cls, folders: Sequence[Path], device: str) -> PosedViews:
        scenes = [scene for scene in find_scenes(folders) if scene.kind == "pose"]
        if not scenes:
            raise InvalidInput("the scenes hold homographies only: training takes depth and poses")
        named = [
            (s, n) for s in scenes for n in dict.fromkeys(n for p in s.pairs for n in (p.a, p.b))
        ]
        number = {(id(scene), name): i for i, (scene, name) in enumerate(named)}

        def read(one):  # type: ignore[no-untyped-def]
            view = one[0].view(one[1])
            if view.depth is None or view.camera is None:
                raise InvalidInput(f"{one[0].folder}: an image has no depth or no camera")
            rgb, K = resized(view.rgb, view.camera.K)
            return rgb, K, cv2.resize(view.depth, STORED, interpolation=cv2.INTER_NEAREST_EXACT)

        images, cameras, depths = zip(*in_threads(read, named), strict=True)
        listed = [(scene, pair) for scene in scenes for pair in scene.pairs]
        return cls(
            Views(images, cameras, device), depths,
            [(number[id(scene), pair.a], number[id(scene), pair.b]) for scene, pair in listed],
            np.stack([pair.b_from_a for _, pair in listed]),
            np.array([pair.overlap for _, pair in listed]),
        )  # fmt: skip

    @torch.no_grad()
    def sample(self, count: int, size: Size, difficulty: float, draws: Draws) -> PairBatch:
        hard = difficulty * draws.uniform(count).sqrt()
        chosen = self._chosen(draws, hard)
        a, b = self.views.pair(draws, self.pairs[chosen], size, TURNING, hard)
        b_from_a = self.b_from_a[chosen]
        there = self.warp_between(a, b, b_from_a)
        back = self.warp_between(b, a, torch.linalg.inv(b_from_a))
        moved = torch.linalg.inv(b.source_from_shown) @ b_from_a @ a.source_from_shown
        return pair_batch(draws, a, b, there, back, 0.4 + 0.6 * hard, moved)

    def _chosen(self, draws: Draws, hard: Tensor) -> Tensor:
        """Of some random pairs the one whose overlap is nearest to a drawn one."""
        wanted = 1.0 - hard * draws.uniform(len(hard), low=0.2, high=0.95)
        drawn = draws.integers(len(self.pairs), len(hard), CANDIDATES)
        best = (self.overlap[drawn] - wanted[:, None]).abs().argmin(1, keepdim=True)
        return drawn.gather(1, best)[:, 0]

    def warp_between(self, a: Shown, b: Shown, b_from_a: Tensor) -> Warps:
        """(warp of a's pixels into b, visible, unknown), as `posed_pairs.warp_between`."""
        rows, columns = self.inverse_depth.shape[1:]
        w = _read(self.inverse_depth[a.which], a.x, a.y)
        known = inside(a.x, a.y, columns, rows) & (w > 0) & ~self._edge_at(a.which, a.x, a.y)
        K_a, K_b = self.views.K[a.which], self.views.K[b.which]
        turn = K_b @ b_from_a[:, :3, :3] @ torch.linalg.inv(K_a)
        shift = (K_b @ b_from_a[:, :3, 3:])[..., None]  # (B, 3, 1, 1)
        u, v, z = (row + shift[:, i] * w for i, row in enumerate(times(turn, a.x, a.y)))
        ahead = z > 1e-3
        over = torch.where(ahead, 1.0 / torch.where(ahead, z, 1.0), 0.0)
        u, v = ((c * over).clamp(-FAR_PX, FAR_PX) for c in (u, v))
        predicted = w * over  # the inverse depth that b would see
        x, y, within = b.placed(u, v)
        within &= ahead
        met = _read(self.inverse_depth[b.which], u, v)
        clear = inside(u, v, columns, rows) & (met > 0) & ~self._edge_at(b.which, u, v)
        visible = known & within & clear & ((met - predicted).abs() < AGREE_SHARE * predicted)
        hidden = known & (~within | (clear & (met > (1 + NEARER_SHARE) * predicted)))
        return torch.stack([x, y], -1), visible, ~visible & ~hidden

    def _edge_at(self, which: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return sample(self.edge[which][:, None].float(), x, y, "nearest")[:, 0] > 0


def _read(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return sample(image[:, None], x, y)[:, 0]
