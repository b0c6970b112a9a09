"""A point transformer: the 59 numbers of each Gaussian -> 128 numbers of each voxel of a scene.

    attributes   position, log scales, quaternion, opacity logit, 16 x 3 harmonics (missing: 0)
    tokens       Gaussians of a voxel, embedded, then their mean by opacity and their maximum
    blocks       each token attends to the tokens nearest to it; where they lie from it is known

The order of the Gaussians does not matter. A scene is a few thousand tokens: attention over the
nearest 16 costs less than embedding the Gaussians does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.workshop.gaussians.model import Gaussians

ATTRIBUTES = 59
MOST_HARMONICS = 16


@dataclass(frozen=True)
class PointConfig:
    """Widths and depths (0.5 M parameters)."""

    width: int = 128
    out: int = 128
    heads: int = 4
    blocks: int = 2
    near: int = 16  # tokens that one attends to, itself among them


@dataclass(frozen=True, eq=False)
class Voxels:
    """Which voxel each Gaussian lies in, of one or several samples: scenes that know nothing of
    each other."""

    index: Tensor  # (N,) int64, 0 <= index < count
    places: Tensor  # (count, 3) mean position of its Gaussians
    sizes: Tensor  # (count, 1) edges
    sample: Tensor  # (count,) int64, which sample a voxel is of

    @property
    def count(self) -> int:
        return len(self.places)

    @cached_property
    def apart(self) -> Tensor:
        """(count, count) distances in voxels; infinite between samples."""
        here = self.places / self.sizes
        # Not by a matrix product, which a GPU may round to ten bits.
        far = torch.cdist(here, here, compute_mode="donot_use_mm_for_euclid_dist")
        return far.masked_fill(self.sample[:, None] != self.sample, torch.inf)


def attributes(gaussians: Gaussians) -> Tensor:
    """(N, 59); of a quaternion and its negative, which turn alike, the one with w >= 0."""
    unit = F.normalize(gaussians.quaternions, dim=1)
    unit = torch.where(unit[:, :1] < 0, -unit, unit)
    sh = F.pad(gaussians.sh, (0, 0, 0, MOST_HARMONICS - gaussians.sh.shape[1]))
    parts = [
        gaussians.means, gaussians.log_scales, unit, gaussians.opacity_logits[:, None],
        sh.flatten(1),
    ]  # fmt: skip
    return torch.cat(parts, dim=1)


def voxels_of(
    means: Tensor, size: float | Tensor, sample: Tensor | None = None, most: int = 4096
) -> Voxels:
    """Voxels of that edge, or of the least larger one (by steps of a fifth) that gives `most`.

    size: one, or (S,) of every sample; sample (N,): which one each Gaussian is of.
    """
    sample = (
        torch.zeros(len(means), dtype=torch.long, device=means.device) if sample is None else sample
    )
    sizes = torch.as_tensor(size, dtype=means.dtype, device=means.device).reshape(-1)
    while True:
        keys = _keys(torch.floor(means / sizes[sample][:, None]).long(), sample)
        found, index = torch.unique(keys, return_inverse=True)
        of = torch.empty_like(found).scatter_(0, index, sample)
        crowded = torch.bincount(of, minlength=len(sizes)) > most
        if not crowded.any():
            break
        sizes = torch.where(crowded, 1.2 * sizes, sizes)
    count = torch.bincount(index, minlength=len(found)).to(means)
    places = torch.zeros(len(found), 3, dtype=means.dtype, device=means.device)
    places = places.index_add(0, index, means) / count[:, None]
    return Voxels(index, places, sizes[of][:, None], of)


def _keys(cells: Tensor, sample: Tensor) -> Tensor:
    """(N,) one number for each sample and cell (N, 3), in their order.

    (Numbers are sorted faster than the rows of a matrix.)
    """
    low = cells.amin(dim=0)
    x, y, z = (cells - low).unbind(1)
    _, rows, columns = (cells.amax(dim=0) - low + 1).unbind()
    across = (cells[:, 0].amax() - low[0] + 1) * sample + x
    return (across * rows + y) * columns + z


class PointEncoder(nn.Module):
    """Attributes of Gaussians and their voxels -> unit vectors (voxels, out)."""

    def __init__(self, config: PointConfig | None = None) -> None:
        super().__init__()
        config = config or PointConfig()
        self.config = config
        width = config.width
        self.embed = nn.Sequential(
            nn.Linear(ATTRIBUTES + 3, width), nn.GELU(), nn.Linear(width, width)
        )
        self.pool = nn.Linear(2 * width, width)
        self.blocks = nn.ModuleList(NearBlock(width, config.heads) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.out)

    def forward(self, values: Tensor, voxels: Voxels) -> Tensor:
        """values (N, 59) of `attributes`; lengths in units of about a scene's depth."""
        within = (values[:, :3] - voxels.places[voxels.index]) / voxels.sizes[voxels.index]
        tokens = self.pool(
            self._pooled(self.embed(torch.cat([values, within], dim=1)), values, voxels)
        )
        near = nearest(voxels, self.config.near)
        apart = voxels.places[near] - voxels.places[:, None]
        offsets = apart / voxels.sizes[:, None]  # (T, k, 3)
        for block in self.blocks:
            tokens = block(tokens, near, offsets)
        return F.normalize(self.leave(self.norm(tokens)).float(), dim=1)

    @staticmethod
    def _pooled(embedded: Tensor, values: Tensor, voxels: Voxels) -> Tensor:
        """(T, 2 C): mean by opacity, maximum."""
        opacity = torch.sigmoid(values[:, 10:11]).to(embedded) + 1e-3
        total = embedded.new_zeros(voxels.count, embedded.shape[1] + 1)
        total = total.index_add(0, voxels.index, torch.cat([embedded * opacity, opacity], dim=1))
        index = voxels.index[:, None].expand_as(embedded)
        largest = embedded.new_zeros(voxels.count, embedded.shape[1])
        largest = largest.scatter_reduce(0, index, embedded, "amax", include_self=False)
        return torch.cat([total[:, :-1] / total[:, -1:], largest], dim=1)


def nearest(voxels: Voxels, count: int) -> Tensor:
    """(T, k) indices of the nearest tokens, each token itself among its own.

    A sample of fewer tokens than k: the token itself stands for those that lack.
    """
    far, index = voxels.apart.topk(min(count, voxels.count), dim=1, largest=False)
    own = torch.arange(voxels.count, device=index.device)[:, None]
    return torch.where(torch.isfinite(far), index, own)


class NearBlock(nn.Module):
    """Attention over the nearest tokens, then two layers; both outputs begin at zero."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.whence = nn.Sequential(nn.Linear(3, 32), nn.GELU(), nn.Linear(32, 2 * width))
        self.out = nn.Linear(width, width)
        self.norm_mixed = nn.LayerNorm(width)
        self.grow = nn.Linear(width, 2 * width)
        self.shrink = nn.Linear(2 * width, width)
        for layer in (self.out, self.shrink):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, near: Tensor, offsets: Tensor) -> Tensor:
        """tokens (T, C), near (T, k), offsets (T, k, 3) in voxels."""
        normed = self.norm(tokens)
        split = (self.heads, tokens.shape[1] // self.heads)
        query = self.query(normed).unflatten(1, split)  # (T, heads, c)
        pairs = self.key_value(normed)[near] + self.whence(offsets)  # (T, k, 2 C)
        key, value = (part.unflatten(2, split) for part in pairs.chunk(2, dim=2))
        scores = torch.einsum("thc,tkhc->tkh", query, key) * split[1] ** -0.5
        mixed = torch.einsum("tkh,tkhc->thc", scores.softmax(dim=1), value).flatten(1)
        tokens = tokens + self.out(mixed)
        return tokens + self.shrink(F.gelu(self.grow(self.norm_mixed(tokens))))
