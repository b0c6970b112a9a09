"""What a scene is fitted to: the photographs, and the regularisers that make its depth right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.rendering import Rendering, pixel_rays

SSIM_WINDOW, SSIM_SHARE = 7, 0.2
C1, C2 = 0.01**2, 0.03**2
MIXED = 0.05  # relative difference of depth beyond which a pixel shows two surfaces
SOFT = 0.01  # relative error of depth below which pulls fade: labels ask for no more than 1 %
OCCLUDED = 0.03  # relative difference of depth beyond which two views see different surfaces
LEAST_ALPHA = 0.5  # of a pixel whose depth is judged


@dataclass(frozen=True)
class Weights:
    """Of the regularisers, beside a photometric loss of about 0.05."""

    flatten: float = 0.01  # thickness over extent
    normal: float = 0.05  # rendered normal against the normal of the rendered depth
    views: float = 2.0  # plane depth of two views that meet at one point
    depth: float = 2.5  # relative error against given depth
    spread: float = 1.0  # deviation of the depth of the planes that a pixel blends
    # Where depth was not measured but comes from matches:
    patches: float = 0.5  # 1 - correlation of patches with another view's (`patches`)
    matched_views: float = 4.0  # in the place of `views`


def photometric(colour: Tensor, target: Tensor) -> Tensor:
    """0.8 L1 + 0.2 (1 - SSIM) of (H, W, 3) images in [0, 1]."""
    l1 = (colour - target).abs().mean()
    return (1 - SSIM_SHARE) * l1 + SSIM_SHARE * (1 - ssim(colour, target))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Mean structural similarity over flat windows."""
    x, y = a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None]
    stack = torch.cat([x, y, x * x, y * y, x * y])
    mx, my, xx, yy, xy = functional.avg_pool2d(stack, SSIM_WINDOW, stride=1).unbind(0)
    vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
    above = (2 * mx * my + C1) * (2 * cov + C2)
    return (above / ((mx * mx + my * my + C1) * (vx + vy + C2))).mean()


def psnr(colour: Tensor, target: Tensor) -> float:
    """Of (..., 3) pixels, colours cut to [0, 1]."""
    error = float(((colour.clamp(0, 1) - target) ** 2).mean())
    return -10.0 * float(torch.log10(torch.tensor(max(error, 1e-12))))


def flatness(gaussians: Gaussians) -> Tensor:
    """Mean thickness over the middle extent; pulled down, every Gaussian becomes a disc."""
    low, middle, _ = gaussians.log_scales.sort(dim=1).values.unbind(1)
    return torch.exp(low - middle.detach()).mean()


def normal_consistency(rendering: Rendering, view: PosedCamera, target: Tensor) -> Tensor:
    """sum w (1 - n . N) over a pixel's Gaussians, N = the plane depth's normal, away from edges.

    Not only their mean but each of them is turned: where Gaussians of many directions are blended
    the plane depth means little.
    """
    points = pixel_rays(view, rendering.alpha) * rendering.plane_depth[..., None]
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    surface = functional.normalize(torch.linalg.cross(across, down), dim=-1)
    blended = rendering.normal[1:-1, 1:-1]  # sum w n
    depth = rendering.plane_depth.detach()
    known = (rendering.solid.detach() > LEAST_ALPHA) & (depth > 0)
    jump = torch.maximum(across[..., 2].abs(), down[..., 2].abs()).detach()
    sound = known[1:-1, 1:-1] & (jump < 0.1 * depth[1:-1, 1:-1])
    edge = (target[1:-1, 2:] - target[1:-1, :-2]).abs() + (
        target[2:, 1:-1] - target[:-2, 1:-1]
    ).abs()
    weight = (1 - edge.mean(-1)).clamp_min(0) ** 2 * sound
    # Cross(across, down) points away from the camera, the blended normal towards it.
    return (weight * (rendering.solid[1:-1, 1:-1] + (surface * blended).sum(-1))).mean()


def depth_error(rendering: Rendering, depth: Tensor) -> Tensor:
    """Mean relative error of the plane depth against (H, W) given depth, NaN = unknown.

    Beyond MIXED a pixel shows two surfaces and is left alone: to pull their mean to one of the two
    ruins the outline, whose depth is not labelled anyway.
    """
    known = (depth > 0) & (rendering.plane_depth.detach() > 0)
    if not known.any():
        return rendering.plane_depth.sum() * 0
    error = rendering.plane_depth[known] / depth[known] - 1
    return torch.where(error.detach().abs() < MIXED, softened(error), 0.0).mean()


def spread_error(rendering: Rendering) -> Tensor:
    """Mean deviation of the depth of a pixel's planes, of its depth; two surfaces do not count."""
    assert rendering.spread is not None
    seen = (rendering.solid.detach() > LEAST_ALPHA) & (rendering.spread.detach() < MIXED**2)
    return torch.where(seen, rendering.spread + SOFT**2, SOFT**2).sqrt().mean()


def view_consistency(
    rendering: Rendering, view: PosedCamera, other_depth: Tensor, other: PosedCamera
) -> Tensor:
    """Mean relative difference between the points of a view and the depth map of another.

    `other_depth` (H, W) is the last plane depth of the other view, taken as it is; points that
    differ by more than OCCLUDED belong to different surfaces and do not count.
    """
    pose = torch.tensor(other.camera_from_world @ view.world_from_camera).to(other_depth)
    K = torch.tensor(other.camera.K).to(other_depth)
    points = pixel_rays(view, other_depth) * rendering.plane_depth[..., None]
    points = points @ pose[:3, :3].T + pose[:3, 3]
    z = points[..., 2]
    front = (z > 1e-3) & (rendering.plane_depth > 0) & (rendering.solid > LEAST_ALPHA)
    px = (points @ K.T)[..., :2] / torch.where(front, z, torch.ones_like(z))[..., None]
    theirs = sampled(other_depth, px)
    ratio = z / torch.where(theirs > 0, theirs, torch.ones_like(theirs)) - 1
    same = front & (theirs > 0) & (ratio.detach().abs() < OCCLUDED)
    return torch.where(same, softened(ratio), torch.zeros_like(ratio)).mean()


def softened(error: Tensor) -> Tensor:
    """About |error| above SOFT, error^2 / (2 SOFT) below: there the photograph decides.

    A pull of constant strength never rests, and holds Gaussians off what the picture wants.
    """
    return (error.square() + SOFT**2).sqrt() - SOFT


def sampled(image: Tensor, px: Tensor) -> Tensor:
    """(H, W) at (..., 2) pixels, bilinear; 0 outside and where one of the four is 0."""
    height, width = image.shape
    x0, y0 = px[..., 0].floor(), px[..., 1].floor()
    inside = (x0 >= 0) & (y0 >= 0) & (x0 < width - 1) & (y0 < height - 1)
    fx, fy = px[..., 0] - x0, px[..., 1] - y0
    column = torch.where(inside, x0, torch.zeros_like(x0)).long()
    row = torch.where(inside, y0, torch.zeros_like(y0)).long()
    a, b = image[row, column], image[row, column + 1]
    c, d = image[row + 1, column], image[row + 1, column + 1]
    value = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
    whole = inside & (a > 0) & (b > 0) & (c > 0) & (d > 0)
    return torch.where(whole, value, torch.zeros_like(value))
