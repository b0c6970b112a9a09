"""What alignment learns from: banked views of scenes, and the voxel that each patch sees.

A batch is several pairs of views. Every pair's scene is turned and shifted anew; the Gaussians and
voxels of all pairs lie in one table, so that a step costs the GPU few large operations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians.bank import BankOptions, SceneTable, ViewBank
from l2m_ros.workshop.gaussians.moving import Moves, moved_each
from l2m_ros.workshop.gaussians.point_encoder import PointConfig, Voxels, attributes, voxels_of
from l2m_ros.workshop.gaussians.seen import voxels_seen
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.device_bank import BankViews
from l2m_ros.workshop.training.loop import LoopOptions

PATCH_PX = 16  # a coarse cell of `lite`
MOST_VOXELS = 2048  # of a pair of views

Eyes = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> features (B, C, H / 16, W / 16)


@dataclass(frozen=True)
class AlignOptions:
    """An alignment; a config file gives any of these by name."""

    width: int = 320
    height: int = 256
    batch: int = 2  # pairs of views a step
    views: int = 120  # of every scene, rendered before the first step
    relight: float = 0.3  # share of views under new light
    voxel_patches: float = 1.0  # edge of a voxel: what so many patches see at the scene's depth
    held_out: int = 48  # pairs of views that are only measured on
    points: PointConfig = field(default_factory=PointConfig)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=400))

    def __post_init__(self) -> None:
        if self.width % 32 or self.height % 32 or min(self.width, self.height) < 64:
            raise InvalidInput(
                f"views of {self.width}x{self.height}: sides are multiples of 32, at least 64"
            )

    def bank(self, seed: int) -> BankOptions:
        return BankOptions(
            self.views, self.width, self.height, self.loop.difficulty[1], self.relight, seed
        )


@dataclass(frozen=True, eq=False)
class Aligned:
    """Pairs of views, and what each of their patches sees: a batch."""

    eyes: Tensor  # (2 B, C, h, w)
    values: Tensor  # (N, 59) of the Gaussians that touch a view
    voxels: Voxels
    seen: Tensor  # (2 B h w,) voxel of each patch, -1 = none

    def to(self, device: str) -> Aligned:
        v = self.voxels
        voxels = Voxels(*(t.to(device) for t in (v.index, v.places, v.sizes, v.sample)))
        return Aligned(self.eyes.to(device), self.values.to(device), voxels, self.seen.to(device))


class SeenScenes:
    """Samples of the pairs of a bank."""

    def __init__(
        self, bank: ViewBank, table: SceneTable, eyes: Eyes, voxel_patches: float = 1.0
    ) -> None:
        """Bank and table lie on the device of the eyes; the table holds the bank's scenes."""
        self.views, self.table, self.eyes = BankViews(bank), table, eyes
        self.voxel_patches = voxel_patches

    @torch.no_grad()
    def sample(self, a: Tensor, b: Tensor, images: Tensor, rng: np.random.Generator) -> Aligned:
        """Of pairs of views (B,) whose images (2 B, 3, H, W), first all of `a`, a camera took;
        their scenes are turned anew."""
        bank, views = self.views.bank, torch.stack([a, b])  # (2, B)
        index, of = self._touched(a, b)
        gaussians = self.table.gaussians.select(index)
        there = moved_each(gaussians, self._moves(rng, a, gaussians.means, of), of)
        size = self.voxel_patches * PATCH_PX / bank.K[views, 0, 0].mean(dim=0)
        voxels = voxels_of(there.means, size, of, MOST_VOXELS)
        # Where the Gaussian of a number in its scene lies, for each pair.
        first = self.table.first[bank.scene[a]]
        places = torch.full((len(a), bank.drawn.shape[1]), -1, device=index.device)
        places[of, index - first[of]] = voxels.index
        seen = voxels_seen(bank.dominant[views.flatten()], places.repeat(2, 1), PATCH_PX)
        return Aligned(self.eyes(images), attributes(there), voxels, seen.flatten())

    def drawn(self, draws: Draws, count: int, difficulty: float) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of views and their images, as `sample` takes them."""
        a, b = self.views.draw(draws, count, difficulty)
        return a, b, self.views.images(draws, torch.cat([a, b]), difficulty)

    def _touched(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table that touch a view of each pair, and which pair that is."""
        bank = self.views.bank
        of, within = (bank.drawn[a] | bank.drawn[b]).nonzero().unbind(1)
        return self.table.first[bank.scene[a]][of] + within, of

    def _moves(self, rng: np.random.Generator, a: Tensor, means: Tensor, of: Tensor) -> Moves:
        """Random turns and shifts; lengths become depths of the first view's anchor."""
        count = len(a)
        total = torch.zeros(count, 3, device=means.device).index_add(0, of, means)
        number = torch.bincount(of, minlength=count).clamp(min=1)[:, None]
        middle = (total / number).double().cpu().numpy()
        scale = 1.0 / self.views.bank.distance[a].double().cpu().numpy()
        turn = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix()
        shift = rng.normal(0.0, 0.2, (count, 3))
        shift -= scale[:, None] * np.einsum("bij,bj->bi", turn, middle)
        return Moves.of(turn, shift, scale, self.table.gaussians.sh_degree).to(means)


class AlignBatches(Schedule):
    """Drawn from (seed, step) alone."""

    def __init__(self, scenes: SeenScenes, options: AlignOptions) -> None:
        size = SizeShare(options.width, options.height, options.batch, 1.0)
        super().__init__((size,), options.loop.seed)
        self.scenes = scenes

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Any:
        part = self.part_of(self.sizes[0], count)
        seed = hash((self.seed, 15, step, rank)) & 0x7FFFFFFF
        drawn = self.scenes.drawn(Draws(self.scenes.views.device, seed), part, difficulty)
        return self.scenes.sample(*drawn, np.random.default_rng(seed))
