"""Features in space: Gaussians that carry low-dimensional features, and a linear decoder.

The decoder is the principal axes of the encoder's features over all gathered views (closed
form). The Gaussians' features solve, over all views v,

    min_F  sum_v | weight_v (A_v F - alpha_v f_v) |^2        A_v: blending weights of the view

by a few steps F += (sum_v A_v^T residual_v) / (sum_v A_v^T weight_v). From zero the first step
is the mean of the features of all views, weighted by how much each view shows of a Gaussian; the
next ones sharpen it. A^T is the rasterizer's gradient, so every rasterizer serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer

SAMPLES = 2  # pixels drawn along a side of a cell
LEAST_ALPHA = 0.5  # of a cell that shows enough of the scene to be judged
UNSEEN = 1e-3  # weight below which a Gaussian keeps the mean feature


@dataclass(frozen=True, eq=False)
class Decoder:
    """feature = mean + axes^T code."""

    mean: Tensor  # (C,)
    axes: Tensor  # (D, C), orthonormal rows

    @classmethod
    def of(cls, features: Tensor, weights: Tensor, dimensions: int) -> Decoder:
        """Main axes of (V, C, h, w) features, weighted by (V, 1, h, w)."""
        cells = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1]).double()
        share = weights.reshape(-1, 1).double()
        share = share / share.sum().clamp_min(1e-9)
        mean = (share * cells).sum(dim=0)
        off = cells - mean
        _, axes = torch.linalg.eigh((share * off).T @ off)  # ascending
        return cls(mean.float(), axes.flip(1)[:, :dimensions].T.float())

    def code(self, features: Tensor) -> Tensor:
        """(V, C, h, w) -> (V, D, h, w)."""
        return torch.einsum("dc,vchw->vdhw", self.axes, features - self.mean.view(1, -1, 1, 1))

    def decoded(self, code: Tensor) -> Tensor:
        """(V, D, h, w) -> (V, C, h, w)."""
        return torch.einsum("dc,vdhw->vchw", self.axes, code) + self.mean.view(1, -1, 1, 1)


@dataclass(frozen=True, eq=False)
class FeatureField:
    """Gaussians with a code each."""

    gaussians: Gaussians
    codes: Tensor  # (N, D)
    decoder: Decoder

    @torch.no_grad()
    def rendered(
        self, rasterizer: Rasterizer, cameras: Sequence[PosedCamera], cells: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(V, C, h, w) features and (V, 1, h, w) alpha at the cells (h, w) of each camera."""
        drawn = [drawn_cells(rasterizer, self.gaussians, c, self.codes, cells) for c in cameras]
        code, alpha = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return self.decoder.decoded(code / alpha.clamp_min(1e-3)), alpha

    @torch.no_grad()
    def placed(
        self, rasterizer: Rasterizer, cameras: Sequence[PosedCamera], cells: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(V, 3, h, w) where the cells' surfaces lie and (V, 1, h, w) how large a cell is there."""
        points, extents = [], []
        for camera in cameras:
            place, alpha = drawn_cells(
                rasterizer, self.gaussians, camera, self.gaussians.means, cells
            )
            place = place / alpha.clamp_min(1e-3)
            pose = torch.from_numpy(camera.camera_from_world).to(place)
            z = torch.einsum("i,ihw->hw", pose[2, :3], place) + pose[2, 3]
            focal = camera.resized(cells[1], cells[0]).camera.K[0, 0]  # in cells
            points.append(place)
            extents.append((z.clamp_min(1e-3) / float(focal))[None])
        return torch.stack(points), torch.stack(extents)


def drawn_cells(
    rasterizer: Rasterizer,
    gaussians: Gaussians,
    camera: PosedCamera,
    channels: Tensor,
    cells: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """(D, h, w) blended channels and (1, h, w) alpha, the means over each cell."""
    height, width = cells
    raster = rasterizer.rasterize(
        gaussians, camera.resized(SAMPLES * width, SAMPLES * height), channels
    )
    both = torch.cat([raster.image, raster.alpha[..., None]], dim=-1).permute(2, 0, 1)
    pooled = F.avg_pool2d(both[None], SAMPLES)[0]
    return pooled[:-1], pooled[-1:].detach()


def fit_field(
    rasterizer: Rasterizer,
    gaussians: Gaussians,
    cameras: Sequence[PosedCamera],
    features: Tensor,
    weights: Tensor,
    *,
    dimensions: int = 64,
    steps: int = 4,
) -> FeatureField:
    """The field of (V, C, h, w) features of the cameras; weights (V, 1, h, w) in [0, 1]."""
    decoder = Decoder.of(features, weights, dimensions)
    targets, cells = decoder.code(features), (features.shape[-2], features.shape[-1])
    codes = torch.zeros(len(gaussians), targets.shape[1])
    covered = torch.zeros(len(gaussians), 1)
    for step in range(steps):
        change = torch.zeros_like(codes)
        for camera, target, weight in zip(cameras, targets, weights, strict=True):
            leaf = codes.clone().requires_grad_(True)
            drawn, alpha = drawn_cells(rasterizer, gaussians, camera, leaf, cells)
            residual = weight * (target * alpha - drawn.detach())
            change += torch.autograd.grad((drawn * residual).sum(), leaf)[0]
            if step == 0:
                one = torch.ones(len(gaussians), 1, requires_grad=True)
                shown, _ = drawn_cells(rasterizer, gaussians, camera, one, cells)
                covered += torch.autograd.grad((shown * weight).sum(), one)[0]
        codes = codes + torch.where(covered > UNSEEN, change / covered.clamp_min(UNSEEN), 0.0)
    return FeatureField(gaussians, codes, decoder)
