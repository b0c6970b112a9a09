"""Patches of two photographs that the planes of a scene bring onto each other.

A plane n . X = D of a view moves its pixels into another view by

    H = K' (R + t n^T / D) K^-1

Where depth and normal are right the patches there look alike: normalised cross-correlation, which
does not see brightness and contrast. This is the multi-view term of PGSR (arXiv 2406.06521).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from l2m_ros.workshop.gaussians.losses import LEAST_ALPHA, sampled
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.rendering import Rendering, pixel_rays

HALF_PX = 3  # patches of 7x7 pixels of the photograph
COUNT = 2048  # patches a step
REPROJECTION_PX = 1.0  # a pixel that comes back farther away is hidden, or its depth is wrong
UNLIKE = 0.5  # 1 - NCC beyond which a patch shows something else in the other view
LEAST_CONTRAST = 0.015  # standard deviation of a patch, of 1: below it there is nothing to see


@dataclass(frozen=True, eq=False)
class Photograph:
    """Grey values in [0, 1], often larger than the view that is fitted."""

    grey: Tensor  # (H, W)
    view: PosedCamera

    @classmethod
    def of(cls, rgb: Tensor, view: PosedCamera) -> Photograph:
        """From (H, W, 3) bytes."""
        weights = torch.tensor([0.299, 0.587, 0.114], device=rgb.device)
        return cls((rgb.float() @ weights) / 255.0, view)


def patch_consistency(
    rendering: Rendering,
    view: PosedCamera,
    photograph: Photograph,
    other_depth: Tensor,
    other_view: PosedCamera,
    other: Photograph,
    random: torch.Generator,
) -> Tensor:
    """Mean of w (1 - NCC) over COUNT pixels that both views see; w falls with the distance at
    which a pixel comes back through the other view's depth map."""
    rays = pixel_rays(view, rendering.plane_depth)
    at, off_px = _seen_in_both(rendering, rays, view, other_depth, other_view, random)
    if not len(at):
        return rendering.plane_depth.sum() * 0
    ray, normal = rays[at[:, 1], at[:, 0]], rendering.normal[at[:, 1], at[:, 0]]
    distance = rendering.plane_depth[at[:, 1], at[:, 0]] * (normal * ray).sum(-1)
    scale = photograph.view.size[0] / view.size[0]
    centre = ((at + 0.5) * scale - 0.5).round()
    moved, own = _patches(photograph, other, centre, normal / distance[:, None])
    ncc, contrast = _correlation(own, _bilinear(other.grey, moved))
    error = 1 - ncc
    weight = torch.exp(-off_px) * (contrast > LEAST_CONTRAST) * (error.detach() < UNLIKE)
    return (weight * error).sum() / COUNT


def _seen_in_both(
    rendering: Rendering,
    rays: Tensor,
    view: PosedCamera,
    other_depth: Tensor,
    other_view: PosedCamera,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """(N, 2) pixels and how far, px, each lies from where it comes back to."""
    depth, alpha = rendering.plane_depth.detach(), rendering.solid.detach()
    rows, columns = torch.nonzero((depth > 0) & (alpha > LEAST_ALPHA), as_tuple=True)
    chosen = torch.randperm(len(rows), generator=random)[:COUNT].to(rows.device)
    at = torch.stack([columns[chosen], rows[chosen]], dim=1)
    points = rays[at[:, 1], at[:, 0]] * depth[at[:, 1], at[:, 0]][:, None]
    there, z = _projected(points, view, other_view)
    shown = sampled(other_depth, there) * (z > 1e-6)
    K = torch.tensor(other_view.camera.K).to(depth)
    y = (there[:, 1] - K[1, 2]) / K[1, 1]
    x = (there[:, 0] - K[0, 2] - K[0, 1] * y) / K[0, 0]
    back, z = _projected(
        torch.stack([x, y, torch.ones_like(x)], 1) * shown[:, None], other_view, view
    )
    off = (back - at).norm(dim=1)
    seen = (shown > 0) & (z > 1e-6) & (off < REPROJECTION_PX)
    return at[seen], off[seen]


def _projected(points: Tensor, view: PosedCamera, other: PosedCamera) -> tuple[Tensor, Tensor]:
    """(N, 2) pixels of the other view and (N,) depth there of points of a view."""
    pose = torch.tensor(other.camera_from_world @ view.world_from_camera).to(points)
    K = torch.tensor(other.camera.K).to(points)
    moved = points @ pose[:3, :3].T + pose[:3, 3]
    z = moved[:, 2]
    return (moved @ K.T)[:, :2] / torch.where(z > 1e-6, z, 1.0)[:, None], z


def _patches(
    photograph: Photograph, other: Photograph, centre: Tensor, plane: Tensor
) -> tuple[Tensor, Tensor]:
    """(N, P, 2) where the pixels of each patch lie in the other photograph; (N, P) their values.

    `plane` (N, 3) is n / D of each.
    """
    steps = torch.arange(-HALF_PX, HALF_PX + 1, device=centre.device)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    width, height = photograph.view.size
    low = centre.new_tensor([HALF_PX, HALF_PX])
    high = centre.new_tensor([width - 1 - HALF_PX, height - 1 - HALF_PX])
    px = centre.clamp(low, high)[:, None] + torch.stack([dx.ravel(), dy.ravel()], dim=1)
    K, to = (torch.tensor(p.view.camera.K).to(plane) for p in (photograph, other))
    pose = torch.tensor(other.view.camera_from_world @ photograph.view.world_from_camera).to(plane)
    ray = torch.cat([px, torch.ones_like(px[..., :1])], dim=2) @ torch.linalg.inv(K).T
    # (R + t n^T / D) ray = R ray + t (n / D . ray)
    moved = ray @ pose[:3, :3].T + (ray * plane[:, None]).sum(-1, keepdim=True) * pose[:3, 3]
    seen = moved @ to.T
    z = seen[..., 2:]
    own = photograph.grey[px[..., 1].long(), px[..., 0].long()]
    return seen[..., :2] / torch.where(z.abs() > 1e-6, z, 1.0), own


def _bilinear(image: Tensor, px: Tensor) -> Tensor:
    """(N, P) values at (N, P, 2) pixels; the edge goes on outside."""
    size = px.new_tensor([image.shape[1], image.shape[0]])
    grid = (px + 0.5) / size * 2 - 1
    return functional.grid_sample(
        image[None, None], grid[None], padding_mode="border", align_corners=False
    )[0, 0]


def _correlation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) NCC of (N, P) patches, (N,) standard deviation of the first."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    aa, bb = (a * a).mean(1), (b * b).mean(1)
    return (a * b).mean(1) / (aa * bb).clamp_min(1e-10).sqrt(), aa.detach().sqrt()
