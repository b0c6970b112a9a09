"""A view of a scene of Gaussians: colour, opacity, three kinds of depth, normals, features.

expected depth = (sum w z) / (sum w)              what 3DGS calls depth
dominant depth = plane depth of the Gaussian with the largest w
plane depth    = (sum w D) / ((sum w n) . K^-1 p)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.projection import in_camera, planes
from l2m_ros.workshop.gaussians.rasterizer import Raster, Rasterizer

LEAST_WEIGHT = 1e-3  # sum of weights below which a pixel shows nothing


@dataclass
class Rendering:
    """A view of the scene. Depths are along the optical axis, 0 where nothing is drawn."""

    colour: Tensor  # (H, W, 3) about [0, 1]
    alpha: Tensor  # (H, W)
    expected_depth: Tensor  # (H, W)
    plane_depth: Tensor  # (H, W)
    normal: Tensor  # (H, W, 3) blended, towards the camera, not normalised
    features: Tensor  # (H, W, F)
    dominant_depth: Tensor | None  # (H, W)
    raster: Raster


def render(
    rasterizer: Rasterizer,
    gaussians: Gaussians,
    view: PosedCamera,
    *,
    features: Tensor | None = None,
    background: float = 0.0,
) -> Rendering:
    """Everything in one pass: 8 channels and those of `features` (N, F)."""
    means = gaussians.means
    centre = torch.tensor(view.world_from_camera[:3, 3], dtype=means.dtype, device=means.device)
    normal, distance = planes(gaussians, view)
    z = in_camera(gaussians, view)[:, 2]
    parts = [gaussians.colours(centre), z[:, None], normal, distance[:, None]]
    if features is not None:
        parts.append(features)
    raster = rasterizer.rasterize(gaussians, view, torch.cat(parts, dim=1))
    image, alpha = raster.image, raster.alpha
    rays = pixel_rays(view, image)
    shown = alpha > LEAST_WEIGHT
    dominant = None
    if raster.dominant is not None:
        dominant = _dominant_depth(raster.dominant, normal, distance, rays)
    return Rendering(
        colour=image[..., :3] + background * (1 - alpha)[..., None],
        alpha=alpha,
        expected_depth=_over(image[..., 3], alpha, shown),
        plane_depth=_over(image[..., 7], (image[..., 4:7] * rays).sum(-1), shown),
        normal=image[..., 4:7],
        features=image[..., 8:],
        dominant_depth=dominant,
        raster=raster,
    )


def _over(above: Tensor, below: Tensor, shown: Tensor) -> Tensor:
    """above / below where something is shown and the ratio is a depth, else 0."""
    usable = shown & (below.abs() > 1e-6) & (above * below > 0)
    return torch.where(usable, above / torch.where(usable, below, torch.ones_like(below)), 0.0)


def _dominant_depth(index: Tensor, normal: Tensor, distance: Tensor, rays: Tensor) -> Tensor:
    if not len(distance):
        return torch.zeros_like(rays[..., 0])
    at = index.clamp_min(0).long()
    with torch.no_grad():
        return _over(distance[at], (normal[at] * rays).sum(-1), index >= 0)


def pixel_rays(view: PosedCamera, like: Tensor) -> Tensor:
    """(H, W, 3) K^-1 (u, v, 1)."""
    width, height = view.size
    K = torch.tensor(view.camera.K, dtype=like.dtype, device=like.device)
    v, u = torch.meshgrid(
        torch.arange(height, dtype=like.dtype, device=like.device),
        torch.arange(width, dtype=like.dtype, device=like.device),
        indexing="ij",
    )
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)
