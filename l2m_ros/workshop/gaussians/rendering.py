"""A view of a scene of Gaussians: colour, opacity, three kinds of depth, normals, features.

expected depth = (sum w z) / (sum w)              what 3DGS calls depth
dominant depth = plane depth of the Gaussian with the largest w
plane depth    = (sum w D) / ((sum w n) . K^-1 p)

Gaussians beyond `far` are sky: drawn, but without depth by planes and without normal. A thousandth
of a sky that lies 30 times as far shows through a wall and moves its depth by 3 %; what a fit does
about that ruins outlines against the sky.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.labels import APART, BoolArray
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.projection import in_camera, planes
from l2m_ros.workshop.gaussians.rasterizer import Raster, Rasterizer

LEAST_WEIGHT = 1e-3  # sum of weights below which a pixel shows nothing


@dataclass
class Rendering:
    """A view of the scene. Depths are along the optical axis, 0 where nothing is drawn."""

    colour: Tensor  # (H, W, 3) about [0, 1]
    alpha: Tensor  # (H, W)
    solid: Tensor  # (H, W) the part of alpha that is no sky
    expected_depth: Tensor  # (H, W)
    plane_depth: Tensor  # (H, W)
    normal: Tensor  # (H, W, 3) blended, towards the camera, not normalised
    features: Tensor  # (H, W, F)
    spread: Tensor | None  # (H, W) variance of the depth of a pixel's planes, of its depth squared
    dominant_depth: Tensor | None  # (H, W)
    raster: Raster


def render(
    rasterizer: Rasterizer,
    gaussians: Gaussians,
    view: PosedCamera,
    *,
    features: Tensor | None = None,
    background: float = 0.0,
    far: float | None = None,
    spread: bool = False,
) -> Rendering:
    """Everything in one pass: 8 channels, one more with `far`, 10 more with `spread`, `features`.

    `far` is a distance from the camera; `features` are (N, F).
    """
    means = gaussians.means
    centre = torch.tensor(view.world_from_camera[:3, 3], dtype=means.dtype, device=means.device)
    normal, distance = planes(gaussians, view)
    z = in_camera(gaussians, view)[:, 2:]
    parts = [gaussians.colours(centre), z, normal, distance[:, None]]
    if far is not None:
        near = ((means.detach() - centre).norm(dim=1, keepdim=True) < far).to(means.dtype)
        normal, distance = normal * near, distance * near[:, 0]
        parts[2:] = [normal, distance[:, None], near]
    if spread:
        parts.append(_squares(normal, distance))
    if features is not None:
        parts.append(features)
    raster = rasterizer.rasterize(gaussians, view, torch.cat(parts, dim=1))
    image, alpha = raster.image, raster.alpha
    rest = image[..., 8:]
    solid = alpha
    if far is not None:
        solid, rest = rest[..., 0], rest[..., 1:]
    rays = pixel_rays(view, image)
    against = (image[..., 4:7] * rays).sum(-1)  # sum w n . ray
    depth = _over(image[..., 7], against, solid > LEAST_WEIGHT)
    apart = None
    if spread:
        apart, rest = _variance(rest[..., :10], depth, against, rays, solid), rest[..., 10:]
    dominant = None
    if raster.dominant is not None:
        dominant = _dominant_depth(raster.dominant, normal, distance, rays)
    return Rendering(
        colour=image[..., :3] + background * (1 - alpha)[..., None],
        alpha=alpha,
        solid=solid,
        expected_depth=_over(image[..., 3], alpha, alpha > LEAST_WEIGHT),
        plane_depth=depth,
        normal=image[..., 4:7],
        features=rest,
        spread=apart,
        dominant_depth=dominant,
        raster=raster,
    )


def surely(rendering: Rendering, apart: float = APART) -> BoolArray:
    """(H, W): where the planes of a pixel agree on its depth; needs `spread`."""
    assert rendering.spread is not None
    return np.asarray((rendering.spread.detach() < apart**2).cpu().numpy())


def _squares(normal: Tensor, distance: Tensor) -> Tensor:
    """(N, 10) what `_variance` is blended from: D^2, D n, n n^T."""
    x, y, z = normal.unbind(1)
    D = distance
    return torch.stack([D * D, D * x, D * y, D * z, x * x, y * y, z * z, x * y, x * z, y * z], 1)


def _variance(
    blended: Tensor, depth: Tensor, against: Tensor, rays: Tensor, solid: Tensor
) -> Tensor:
    """sum w (D - d n . ray)^2 / sum w, over (d n . ray)^2 of the mean: 0 if all planes meet at d.

    The depth is taken as it is: planes are drawn together, not their mean elsewhere.
    """
    d, (x, y, one) = depth.detach(), rays.unbind(-1)
    products = torch.stack([x * x, y * y, one, 2 * x * y, 2 * x, 2 * y], dim=-1)
    residual = (
        blended[..., 0]
        - 2 * d * (blended[..., 1:4] * rays).sum(-1)
        + d * d * (blended[..., 4:] * products).sum(-1)
    )
    scale = (d * against).detach().square()
    known = scale > 1e-12
    return torch.where(known, residual.clamp_min(0) * solid.detach(), 0.0) / torch.where(
        known, scale, 1.0
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
