"""Points in space and the rigid motion between two sets of them; batches of any shape.

y = R x + t        distance = sqrt(|R x + t - y|^2 + 1e-6)
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT_EPS = 1e-16
DISTANCE_EPS = 1e-6
PROJECTION_EPS = 1e-16
MIN_SECOND = 1e-6  # of (s2 / s1)^2 of the cross-covariance: below, the points lie on a line
SOFTNESS = 5.0  # slope of a soft inlier at its threshold


def lift(pixels: Tensor, depth: Tensor, K: Tensor) -> Tensor:
    """(..., n, 2) px and (..., n) metres -> (..., n, 3)."""
    rays = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
    return depth[..., None] * (rays @ torch.linalg.inv(K).transpose(-1, -2))


def project(points: Tensor, K: Tensor) -> Tensor:
    """(..., n, 3) -> (..., n, 2) px."""
    seen = points @ K.transpose(-1, -2)
    return seen[..., :2] / (seen[..., 2:] + PROJECTION_EPS)


def procrustes(x: Tensor, y: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """R (..., 3, 3) and t (..., 3) that take x (..., n, 3) to y; weights (..., n) from 0.

    Where x or y hold NaN or infinity, R and t are NaN.
    """
    H, mean_x, mean_y = cross_covariance(x, y, weights)
    R = rotation_of(H)
    return R, mean_y - (R @ mean_x[..., None])[..., 0]


def determined_motion(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same with gradients that stay finite, and where (...) the points determine a rotation.

    Elsewhere (one point, one line, NaN) R is 1 and t is 0, without a gradient.
    """
    H, mean_x, mean_y = cross_covariance(x, y, weights)
    squares = H.detach().transpose(-1, -2) @ H.detach()
    trace = squares.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    second = 0.5 * (trace**2 - (squares * squares).sum(dim=(-1, -2)))  # s1^2 s2^2 + ...
    good = torch.isfinite(trace) & (trace > 0) & (second > MIN_SECOND * trace**2)
    safe = torch.diag(torch.tensor([3.0, 2.0, 1.0])).to(H)
    R = rotation_of(torch.where(good[..., None, None], H, safe))
    t = mean_y - (R @ mean_x[..., None])[..., 0]
    return R, torch.where(good[..., None], t, torch.zeros_like(t)), good


def cross_covariance(x: Tensor, y: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3, 3) about the weighted means (..., 3)."""
    w = torch.ones_like(x[..., 0]) if weights is None else weights
    share = (w / (w.abs().sum(dim=-1, keepdim=True) + WEIGHT_EPS))[..., None]
    mean_x, mean_y = (share * x).sum(dim=-2), (share * y).sum(dim=-2)
    dx, dy = x - mean_x[..., None, :], y - mean_y[..., None, :]
    return (dx * w[..., None]).transpose(-1, -2) @ dy, mean_x, mean_y


def rotation_of(H: Tensor) -> Tensor:
    """The rotation R = V diag(1, 1, det(U V^T)) U^T of H = U S V^T; NaN where H is."""
    finite = torch.isfinite(H).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    U, _, Vt = torch.linalg.svd(torch.where(finite, H, torch.eye(3).to(H)))
    sign = torch.ones_like(H[..., 0])
    sign = torch.cat([sign[..., :2], torch.sign(torch.linalg.det(U @ Vt))[..., None]], dim=-1)
    R = (Vt.transpose(-1, -2) * sign[..., None, :]) @ U.transpose(-1, -2)
    return torch.where(finite, R, torch.full_like(R, torch.nan))


def distances(R: Tensor, t: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(..., n) metres between R x + t and y."""
    off = x @ R.transpose(-1, -2) + t[..., None, :] - y
    return torch.sqrt((off * off).sum(dim=-1) + DISTANCE_EPS)


def soft_inliers(distance: Tensor, threshold_m: float) -> Tensor:
    """(..., n) -> (...): about how many lie within the threshold, with a gradient."""
    return torch.sigmoid((SOFTNESS / threshold_m) * (threshold_m - distance)).sum(dim=-1)
