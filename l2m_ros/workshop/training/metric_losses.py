"""How wrong a metric pose is: by where virtual points appear, or by angle and metres.

Poses take points of image 0 into camera 1: y = R x + t; batches of any shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2m_ros.networks.mickey.rigid import DISTANCE_EPS, project

STEP_M = 0.3  # between virtual points
NEAREST_M = 1.8
VCRE_SCALE_PX = 80.0
ROTATION_SCALE_RAD, TRANSLATION_SCALE_M = 0.9, 0.9
MAX_COSINE = 0.99999
TALLEST_PX = 720.0  # both coordinates are clipped to it, also the x of upright images


@dataclass(frozen=True)
class Truth:
    """The true pose and the cameras of the original images."""

    R: Tensor  # (..., 3, 3)
    t: Tensor  # (..., 3)
    K0: Tensor  # (..., 3, 3)
    K1: Tensor


def virtual_points() -> np.ndarray:
    """(196, 3) metres: a block of 7 x 4 x 7 points in front of the camera."""
    x = STEP_M * np.arange(-3, 4)
    y = STEP_M * np.array([-1.5, -0.5, 0.5, 1.5])
    z = NEAREST_M + STEP_M * np.arange(7)
    rows, columns, depths = np.meshgrid(y, x, z, indexing="ij")
    return np.stack([columns, rows, depths], axis=-1).reshape(-1, 3).astype(np.float32)


def inverse(R: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    back = R.transpose(-1, -2)
    return back, -(back @ t[..., None])[..., 0]


def vcre_px(
    pose: tuple[Tensor, Tensor],
    truth: tuple[Tensor, Tensor],
    K: Tensor,
    *,
    width: float = TALLEST_PX,
    height: float = TALLEST_PX,
    eps: float = DISTANCE_EPS,
) -> Tensor:
    """(...): mean distance in pixels of image 0 of virtual points taken there by the pose and
    brought back by the truth."""
    (R, t), (Rg, tg) = pose, truth
    points = torch.from_numpy(virtual_points()).to(R)
    moved = points @ R.transpose(-1, -2) + (t - tg)[..., None, :]
    limits = R.new_tensor([width, height])

    def pixels(where: Tensor) -> Tensor:
        return torch.minimum(project(where, K).clamp_min(0.0), limits)

    off = pixels(points) - pixels(moved @ Rg)  # rows times Rg: Rg^T on columns
    return torch.sqrt((off * off).sum(dim=-1) + eps).mean(dim=-1)


def vcre_loss(R: Tensor, t: Tensor, truth: Truth, *, soft: bool) -> Tensor:
    """Mean of both directions; in (0, 1) where soft, else in pixels."""
    there = vcre_px((R, t), (truth.R, truth.t), truth.K0)
    back = vcre_px(inverse(R, t), inverse(truth.R, truth.t), truth.K1)
    error = 0.5 * (there + back)
    return torch.tanh(error / VCRE_SCALE_PX) if soft else error


def rotation_error_rad(R: Tensor, truth: Tensor) -> Tensor:
    """(...): the angle between two rotations; its derivative is finite at 0."""
    both = torch.broadcast_tensors(R, truth)
    trace = (both[0].transpose(-1, -2) @ both[1]).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return torch.arccos(((trace - 1) / 2).clamp(-MAX_COSINE, MAX_COSINE))


def translation_error_m(t: Tensor, truth: Tensor) -> Tensor:
    """(...): the sum of the three coordinates' errors."""
    return (t - truth).abs().sum(dim=-1)


def pose_loss(R: Tensor, t: Tensor, truth: Truth, *, soft: bool) -> Tensor:
    angle, off = rotation_error_rad(R, truth.R), translation_error_m(t, truth.t)
    if soft:
        return torch.tanh(angle / ROTATION_SCALE_RAD) + torch.tanh(off / TRANSLATION_SCALE_M)
    return angle + off


@dataclass(frozen=True)
class Loss:
    """A loss and what no pose at all costs under it."""

    of: Callable[..., Tensor]
    null_soft: float
    null_hard: float

    def null(self, soft: bool) -> float:
        return self.null_soft if soft else self.null_hard


LOSSES = {"vcre": Loss(vcre_loss, 0.8, 90.0), "pose": Loss(pose_loss, 0.8, 1.5)}


def direction_error_rad(t: Tensor, truth: Tensor, eps: float = 1e-9) -> Tensor:
    """(...): the angle between two translations; eps m^2 keeps the shortest ones defined."""
    cosine = (t * truth).sum(dim=-1) / (t.norm(dim=-1) * truth.norm(dim=-1) + eps)
    return torch.arccos(cosine.clamp(-1.0, 1.0))
