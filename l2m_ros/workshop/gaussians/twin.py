"""The slow twin of the rasterizers: every Gaussian at every pixel, in plain torch.

It states what the fast ones must compute, gradients by autograd included. Memory is
pixels x Gaussians, so it is for tests and small pictures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.projection import project
from l2m_ros.workshop.gaussians.rasterizer import Raster

MAX_ALPHA = 0.99
LEAST_TRANSMITTANCE = 1e-4  # a pixel through which less light passes is done


class TwinRasterizer:
    name = "twin"

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        ellipses = project(gaussians, view)
        if ellipses.means_px.requires_grad:
            ellipses.means_px.retain_grad()
        width, height = view.size
        order = torch.argsort(ellipses.depths.detach(), stable=True)
        v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([u.ravel(), v.ravel()], dim=1).to(channels.dtype)
        d = pixels[:, None] - ellipses.means_px[order]  # (P, N, 2)
        a, b, c = ellipses.conics[order].unbind(1)
        exponent = 0.5 * (a * d[..., 0] ** 2 + c * d[..., 1] ** 2) + b * d[..., 0] * d[..., 1]
        alpha = (ellipses.opacities[order] * torch.exp(-exponent)).clamp_max(MAX_ALPHA)
        alpha = torch.where(exponent <= ellipses.reach[order], alpha, 0.0)
        before = torch.cumprod(1 - alpha, dim=1).roll(1, dims=1)
        before = torch.cat([torch.ones_like(before[:, :1]), before[:, 1:]], dim=1)
        alpha = torch.where(before >= LEAST_TRANSMITTANCE, alpha, 0.0)
        weight = alpha * before  # (P, N)
        best = weight.max(dim=1)
        dominant = torch.where(best.values > 0, order[best.indices], -1)
        return Raster(
            image=(weight @ channels[order]).reshape(height, width, -1),
            alpha=1 - torch.prod(1 - alpha, dim=1).reshape(height, width),
            means_px=ellipses.means_px,
            drawn=torch.zeros(len(order), dtype=torch.bool).index_fill(
                0, order[(alpha > 0).any(dim=0)], True
            ),
            dominant=dominant.reshape(height, width),
        )
