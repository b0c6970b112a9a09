"""2D-3D alignment: patches of the frozen eyes and voxels of Gaussians meet in 128 numbers.

    scene, turned anew -> voxels -> PointEncoder -> v      (voxels, 128)
    two views of it    -> eyes   -> PatchHead    -> p      (patches, 128)
    InfoNCE both ways: a patch against all voxels of its scene, a voxel against all patches

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

from l2m_ros.networks.lite2.aligned import PatchHead
from l2m_ros.workshop.encoder.nearest import ViewChange, nearest_shares
from l2m_ros.workshop.encoder.patch_encoders import FeatureMap
from l2m_ros.workshop.gaussians.point_encoder import PointConfig, PointEncoder, Voxels
from l2m_ros.workshop.training.alignment_data import (
    PATCH_PX,
    AlignBatch,
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
        """Unit vectors of the patches (2 h w, 128) and of the voxels (T, 128)."""
        patches = self.head(sample.eyes).permute(0, 2, 3, 1).flatten(0, 2)
        return patches, self.points(sample.values, sample.voxels)


def info_nce(
    patches: Tensor, voxels: Tensor, of: Tensor, touching: Tensor, scale: Tensor
) -> Tensor:
    """Mean of both ways. patches (P, C), voxels (T, C), of (P,) each patch's voxel, touching
    (T, T) bool: pairs of voxels that are no negatives of one another."""
    logits = scale * patches @ voxels.T  # (P, T)
    rows = torch.arange(len(of), device=of.device)
    beside = touching[of].clone()
    beside[rows, of] = False
    logits = logits.masked_fill(beside, MASKED)
    to_voxels = nn.functional.cross_entropy(logits, of)
    shown = torch.unique(of)
    columns = torch.log_softmax(logits[:, shown], dim=0)  # over patches
    own = of[:, None] == shown[None]
    to_patches = -(torch.where(own, columns, 0.0).sum(dim=0) / own.sum(dim=0)).mean()
    return 0.5 * (to_voxels + to_patches)


def touching_voxels(voxels: Voxels) -> Tensor:
    """(T, T) bool: the middles are so near that the voxels touch; each touches itself."""
    return torch.cdist(voxels.places, voxels.places) < TOUCHING * voxels.size


def align_loss(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
    losses, found = [], []
    for sample in batch.samples:
        known = sample.seen >= 0
        if not known.any():
            continue
        patches, voxels = model(sample)
        scale = model.log_scale.exp().clamp(max=100.0)
        of, touching = sample.seen[known], touching_voxels(sample.voxels)
        losses.append(info_nce(patches[known], voxels, of, touching, scale))
        best = (patches[known].detach() @ voxels.detach().T).argmax(dim=1)
        found.append(touching[of, best].float().mean())
    if not losses:  # nothing was seen: nothing is learnt
        return model.log_scale * 0.0, {"found": 0.0}
    return torch.stack(losses).mean(), {"found": float(torch.stack(found).mean())}


class AlignValidation:
    """On pairs of views that are not trained on: how often patches find their voxel, and their own
    place in the other view, beside the eyes alone."""

    def __init__(self, scenes: SeenScenes, difficulty: float = 0.7) -> None:
        self.samples: list[Aligned] = []
        self.changes: list[ViewChange] = []
        for i in range(scenes.options.held_out):
            scene, made, images = scenes.views(i, difficulty)
            self.samples.append(scenes.looked_at(i, scene, made, images))
            label = made.labels[0]
            self.changes.append(ViewChange(images[0], images[1], label.warp_px, label.visible))

    def __call__(self, model: nn.Module) -> dict[str, float]:
        where = next(model.parameters()).device
        terms = [align_loss(model, AlignBatch([s.to(str(where))]))[1] for s in self.samples]
        return {
            "voxel_percent": 100.0 * float(np.mean([term["found"] for term in terms])),
            **self._shares("eyes", _halves_of_length_one),
            **self._shares("aligned", lambda eyes: model.head(eyes.to(where)).cpu()),
        }

    def _shares(self, name: str, of: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Of `nearest_shares`, for what `of` makes of the eyes."""
        maps = {}
        for change, sample in zip(self.changes, self.samples, strict=True):
            both = of(sample.eyes).detach().numpy()
            maps |= {id(change.rgb_a): both[0], id(change.rgb_b): both[1]}
        shares = nearest_shares(
            lambda rgb: FeatureMap(maps[id(rgb)], (PATCH_PX, PATCH_PX)), self.changes
        )
        return {f"{name}_{key}": value for key, value in shares.percent().items()}


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
    with Processes.joined(options.loop.device) as processes:
        run = Run(model, align_loss, AlignBatches(scenes, options), options.loop, processes)
        train(run, folder, AlignValidation(held_out))
        return processes.leads
