"""Gaussians under a similarity of the world: turned, scaled, shifted.

    there = scale * turn @ here + shift

Whoever learns from positions sees every scene turned anew, so that a place is not known by its
coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.model import DEGREES, Gaussians, harmonics

DIRECTIONS = 64  # that the coefficients of a turned harmonic are fitted at: exact from 16


def moved(gaussians: Gaussians, turn: FloatArray, shift: FloatArray, scale: float) -> Gaussians:
    """`turn` is a 3x3 rotation; the scene looks the same from a camera that moves with it."""
    means = gaussians.means
    R = torch.as_tensor(turn, dtype=means.dtype, device=means.device)
    t = torch.as_tensor(shift, dtype=means.dtype, device=means.device)
    return Gaussians(
        means=scale * means @ R.T + t,
        log_scales=gaussians.log_scales + float(np.log(scale)),
        quaternions=_product(quaternion_of(turn).to(means), gaussians.quaternions),
        opacity_logits=gaussians.opacity_logits,
        sh=turned_harmonics(gaussians.sh, R),
    )


def quaternion_of(turn: FloatArray) -> Tensor:
    """(4,) w x y z."""
    x, y, z, w = Rotation.from_matrix(turn).as_quat()
    return torch.tensor([w, x, y, z])


def _product(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4) of first (4,) times second (N, 4): second's rotation, then first's."""
    w, v = first[0], first[1:]
    w2, v2 = second[:, :1], second[:, 1:]
    real = w * w2 - (v2 * v).sum(dim=1, keepdim=True)
    return torch.cat([real, w * v2 + w2 * v + torch.linalg.cross(v.expand_as(v2), v2)], dim=1)


def turned_harmonics(sh: Tensor, turn: Tensor) -> Tensor:
    """(N, K, 3) coefficients c' with sum_k Y_k(R d) c'_k = sum_k Y_k(d) c_k for all d."""
    degree = DEGREES[sh.shape[1]]
    if not degree:
        return sh
    rng = torch.Generator().manual_seed(0)
    here = torch.randn(DIRECTIONS, 3, generator=rng, dtype=torch.float64)
    here = torch.nn.functional.normalize(here, dim=1)
    there = here @ turn.detach().cpu().double().T
    change = torch.linalg.lstsq(harmonics(there, degree), harmonics(here, degree)).solution
    return torch.einsum("jk,nkc->njc", change.to(sh), sh)
