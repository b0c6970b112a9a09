"""From Gaussians in the world to ellipses in an image, and the plane that each one is.

    covariance_px = J W S S^T W^T J^T + 0.3 I     J: derivative of the projection at the mean
    n = the axis of the smallest scale, turned towards the camera;  D = n . mean   (camera frame)

A pixel p on the plane has the depth D / (n . K^-1 p). All of it is differentiable.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera

NEAR = 0.02  # nearer Gaussians are left out (world units)
BLUR_PX2 = 0.3  # of a pixel's own width, as in 3DGS: no Gaussian is thinner than a pixel
LEAST_ALPHA = 1 / 255  # what is fainter is not drawn
FIELD_LIMIT = 1.3  # the derivative is taken at most this far outside of the image


@dataclass
class Ellipses:
    """N Gaussians in one image."""

    means_px: Tensor  # (N, 2), pixel centres at integers
    conics: Tensor  # (N, 3): a, b, c of the exponent (a dx^2 + c dy^2) / 2 + b dx dy
    opacities: Tensor  # (N,)
    depths: Tensor  # (N,) z of the mean in the camera
    reach: Tensor  # (N,) exponent at which alpha falls below LEAST_ALPHA; <= 0: not drawn
    half_height_px: Tensor  # (N,) of the ellipse that is drawn
    half_width_px: Tensor  # (N,)


def _tensors(view: PosedCamera, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    pose = torch.tensor(view.camera_from_world, dtype=like.dtype, device=like.device)
    K = torch.tensor(view.camera.K, dtype=like.dtype, device=like.device)
    return pose[:3, :3], pose[:3, 3], K


def in_camera(gaussians: Gaussians, view: PosedCamera) -> Tensor:
    """(N, 3) means in the camera's frame."""
    R, t, _ = _tensors(view, gaussians.means)
    return gaussians.means @ R.T + t


def planes(gaussians: Gaussians, view: PosedCamera) -> tuple[Tensor, Tensor]:
    """Normals (N, 3) towards the camera and D = n . mean (N,), both in the camera's frame."""
    R, _, _ = _tensors(view, gaussians.means)
    thinnest = gaussians.log_scales.argmin(dim=1)
    axes = gaussians.rotations().transpose(1, 2)  # rows are the axes
    normal = axes[torch.arange(len(axes), device=axes.device), thinnest] @ R.T
    mean = in_camera(gaussians, view)
    away = (normal * mean).sum(dim=1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)
    return normal, (normal * mean).sum(dim=1)


def project(gaussians: Gaussians, view: PosedCamera) -> Ellipses:
    """The ellipses of all Gaussians; those behind the camera get reach = -1."""
    R, _, K = _tensors(view, gaussians.means)
    mean = in_camera(gaussians, view)
    z = mean[:, 2]
    front = z > NEAR
    safe = torch.where(front, z, torch.ones_like(z))
    x, y = mean[:, 0] / safe, mean[:, 1] / safe
    means_px = torch.stack([K[0, 0] * x + K[0, 1] * y + K[0, 2], K[1, 1] * y + K[1, 2]], dim=1)
    covariance = _covariance_px(gaussians, R, K, x, y, safe, view)
    xx, xy, yy = covariance
    det = (xx * yy - xy * xy).clamp_min(1e-12)
    conics = torch.stack([yy / det, -xy / det, xx / det], dim=1)
    opacities = gaussians.opacities
    with torch.no_grad():
        reach = torch.log(opacities.clamp_min(1e-9) / LEAST_ALPHA)
        reach = torch.where(front, reach, torch.full_like(reach, -1.0))
        spread = (2 * reach.clamp_min(0)).sqrt()
        half_height, half_width = spread * yy.sqrt(), spread * xx.sqrt()
    return Ellipses(means_px, conics, opacities, z, reach, half_height, half_width)


def _covariance_px(
    gaussians: Gaussians, R: Tensor, K: Tensor, x: Tensor, y: Tensor, z: Tensor, view: PosedCamera
) -> tuple[Tensor, Tensor, Tensor]:
    """(xx, xy, yy), each (N,)."""
    width, height = view.size
    left, right = -K[0, 2] / K[0, 0], (width - 1 - K[0, 2]) / K[0, 0]
    top, bottom = -K[1, 2] / K[1, 1], (height - 1 - K[1, 2]) / K[1, 1]
    margin_x, margin_y = (FIELD_LIMIT - 1) * (right - left), (FIELD_LIMIT - 1) * (bottom - top)
    x = torch.minimum(torch.maximum(x, left - margin_x), right + margin_x)
    y = torch.minimum(torch.maximum(y, top - margin_y), bottom + margin_y)
    axes = R @ gaussians.rotations() * gaussians.scales[:, None, :]  # (N, 3, 3)
    fx, skew, fy = K[0, 0], K[0, 1], K[1, 1]
    over_z = (1 / z)[:, None]
    u = (axes[:, 0] - x[:, None] * axes[:, 2]) * over_z
    v = (axes[:, 1] - y[:, None] * axes[:, 2]) * over_z
    u, v = fx * u + skew * v, fy * v
    return (u * u).sum(1) + BLUR_PX2, (u * v).sum(1), (v * v).sum(1) + BLUR_PX2
