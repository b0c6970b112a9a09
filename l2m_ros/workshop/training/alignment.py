"""2D-3D alignment: patches of the frozen eyes and voxels of Gaussians meet in 128 numbers.

    scenes, turned anew    -> voxels -> PointEncoder -> v      (voxels, 128)
    two views of each      -> eyes   -> PatchHead    -> p      (patches, 128)
    InfoNCE both ways: a patch against all voxels of its pair, a voxel against all its patches

A patch's positive is the voxel whose Gaussians dominate its pixels. Voxels that touch the
positive are no negatives: which of the two a patch on their border sees is a matter of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.networks.lite.aligned import PatchHead
from l2m_ros.types import ByteArray
from l2m_ros.workshop.encoder.nearest import ViewChange, nearest_shares
from l2m_ros.workshop.encoder.patch_encoders import FeatureMap
from l2m_ros.workshop.gaussians.point_encoder import PointConfig, PointEncoder
from l2m_ros.workshop.lifting.torch_scenes import Draws
from l2m_ros.workshop.training.alignment_data import (
    PATCH_PX,
    AlignBatches,
    Aligned,
    AlignOptions,
    SeenScenes,
)
from l2m_ros.workshop.training.loop import Run, train
from l2m_ros.workshop.training.processes import Processes

TOUCHING = 1.8  # voxels between two middles: neighbours over faces, edges and corners
MASKED = -1e4  # a logit that takes no part


class Alignment(nn.Module):
    """What is learnt: the head of patches, the encoder of points, how sharply they compare."""

    def __init__(self, channels: int, config: PointConfig | None = None) -> None:
        super().__init__()
        config = config or PointConfig()
        self.head = PatchHead(channels, config.out)
        self.points = PointEncoder(config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(14.0)))

    def forward(self, sample: Aligned) -> tuple[Tensor, Tensor]:
        """Unit vectors of the patches (2 B h w, 128) and of the voxels (T, 128)."""
        patches = self.head(sample.eyes).permute(0, 2, 3, 1).flatten(0, 2)
        return patches, self.points(sample.values, sample.voxels)


def info_nce(patches: Tensor, voxels: Tensor, of: Tensor, apart: Tensor, scale: Tensor) -> Tensor:
    """Mean of both ways. patches (P, C), voxels (T, C), of (P,) each patch's voxel, apart (T, T)
    in voxels: those that touch, and those of other samples (inf), are no negatives."""
    logits = scale * patches @ voxels.T  # (P, T)
    rows = torch.arange(len(of), device=of.device)
    beside = ((apart < TOUCHING) | torch.isinf(apart))[of]
    beside[rows, of] = False
    logits = logits.masked_fill(beside, MASKED)
    to_voxels = nn.functional.cross_entropy(logits, of)
    shown = torch.unique(of)
    columns = torch.log_softmax(logits[:, shown], dim=0)  # over patches
    own = of[:, None] == shown[None]
    to_patches = -(torch.where(own, columns, 0.0).sum(dim=0) / own.sum(dim=0)).mean()
    return 0.5 * (to_voxels + to_patches)


def align_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
    known = batch.seen >= 0
    if not known.any():  # nothing was seen: nothing is learnt
        return model.log_scale * 0.0, {"found": 0.0}
    patches, voxels = model(batch)
    patches, of, apart = patches[known], batch.seen[known], batch.voxels.apart
    loss = info_nce(patches, voxels, of, apart, model.log_scale.exp().clamp(max=100.0))
    with torch.no_grad():
        score = (patches @ voxels.T).masked_fill(torch.isinf(apart)[of], -torch.inf)
        found = (apart < TOUCHING)[of, score.argmax(dim=1)].float().mean()
    return loss, {"found": float(found)}


class AlignValidation:
    """On pairs of views that are not trained on: how often patches find their voxel, and their own
    place in the other view, beside the eyes alone."""

    def __init__(self, scenes: SeenScenes, pairs: int, seed: int, difficulty: float = 0.7) -> None:
        self.samples: list[Aligned] = []
        self.changes: list[ViewChange] = []
        for i in range(pairs):
            draws = Draws(scenes.views.device, hash((seed, 16, i)) & 0x7FFFFFFF)
            a, b, images = scenes.drawn(draws, 1, difficulty)
            self.samples.append(scenes.sample(a, b, images, np.random.default_rng((seed, 17, i))))
            warp, visible, _ = (part[0].cpu().numpy() for part in scenes.views.labels(a, b))
            self.changes.append(ViewChange(*map(_bytes_of, images), warp, visible))

    def __call__(self, model: nn.Module) -> dict[str, float]:
        terms = [align_loss(model, sample)[1] for sample in self.samples]
        return {
            "voxel_percent": 100.0 * float(np.mean([term["found"] for term in terms])),
            **self._shares("eyes", _halves_of_length_one),
            **self._shares("aligned", model.head),  # type: ignore[arg-type]
        }

    def _shares(self, name: str, of: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Of `nearest_shares`, for what `of` makes of the eyes."""
        maps = {}
        for change, sample in zip(self.changes, self.samples, strict=True):
            both = of(sample.eyes).detach().float().cpu().numpy()
            maps |= {id(change.rgb_a): both[0], id(change.rgb_b): both[1]}
        shares = nearest_shares(
            lambda rgb: FeatureMap(maps[id(rgb)], (PATCH_PX, PATCH_PX)), self.changes
        )
        return {f"{name}_{key}": value for key, value in shares.percent().items()}


def _bytes_of(image: Tensor) -> ByteArray:
    """(H, W, 3) of (3, H, W) in [0, 1]."""
    made: ByteArray = (image.permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    return made


def _halves_of_length_one(eyes: Tensor) -> Tensor:
    half = eyes.shape[1] // 2
    parts = [nn.functional.normalize(part, dim=1) for part in eyes.split(half, dim=1)]
    return torch.cat(parts, dim=1)


def train_alignment(
    options: AlignOptions,
    model: Alignment,
    scenes: SeenScenes,
    held_out: SeenScenes,
    folder: Path,
) -> bool:
    """Train; measured on pairs of `held_out`. True in the process that wrote the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    check = AlignValidation(held_out, options.held_out, options.loop.seed)
    with Processes.joined(options.loop.device) as processes:
        run = Run(model, align_loss, AlignBatches(scenes, options), options.loop, processes)
        train(run, folder, check)
        return processes.leads
