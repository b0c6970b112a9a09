"""Gaussians under a similarity of the world: turned, scaled, shifted.

    there = scale * turn @ here + shift

Whoever learns from positions sees every scene turned anew, so that a place is not known by its
coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.model import Gaussians, harmonics

DIRECTIONS = 64  # that the coefficients of a turned harmonic are fitted at: exact from 16


def moved(gaussians: Gaussians, turn: FloatArray, shift: FloatArray, scale: float) -> Gaussians:
    """`turn` is a 3x3 rotation; the scene looks the same from a camera that moves with it."""
    one = torch.zeros(len(gaussians), dtype=torch.long, device=gaussians.means.device)
    moves = Moves.of(turn[None], shift[None], np.array([scale]), gaussians.sh_degree)
    return moved_each(gaussians, moves.to(gaussians.means), one)


@dataclass(frozen=True, eq=False)
class Moves:
    """M similarities, and what they do to quaternions and harmonics."""

    turns: Tensor  # (M, 3, 3)
    quaternions: Tensor  # (M, 4)
    harmonics: Tensor  # (M, K, K)
    shifts: Tensor  # (M, 3)
    scales: Tensor  # (M,)

    @classmethod
    def of(cls, turns: FloatArray, shifts: FloatArray, scales: FloatArray, degree: int) -> Moves:
        quaternions = np.roll(Rotation.from_matrix(turns).as_quat(), 1, axis=1)  # w x y z
        changes = torch.stack([turned_harmonics(torch.tensor(turn), degree) for turn in turns])
        return cls(
            torch.tensor(turns), torch.tensor(quaternions), changes,
            torch.tensor(shifts), torch.tensor(scales),
        )  # fmt: skip

    def to(self, like: Tensor) -> Moves:
        return Moves(*(getattr(self, name).to(like) for name in self.__dataclass_fields__))


def moved_each(gaussians: Gaussians, moves: Moves, which: Tensor) -> Gaussians:
    """Every Gaussian by the similarity which[i] of `moves`."""
    scale = moves.scales[which]
    means = (moves.turns[which] * gaussians.means[:, None]).sum(dim=2)
    return Gaussians(
        means=scale[:, None] * means + moves.shifts[which],
        log_scales=gaussians.log_scales + scale.log()[:, None],
        quaternions=_product(moves.quaternions[which], gaussians.quaternions),
        opacity_logits=gaussians.opacity_logits,
        sh=(moves.harmonics[which][..., None] * gaussians.sh[:, None]).sum(dim=2),
    )


def _product(first: Tensor, second: Tensor) -> Tensor:
    """(N, 4) of first times second (N, 4): second's rotation, then first's."""
    w, v = first[:, :1], first[:, 1:]
    w2, v2 = second[:, :1], second[:, 1:]
    real = w * w2 - (v2 * v).sum(dim=1, keepdim=True)
    return torch.cat([real, w * v2 + w2 * v + torch.linalg.cross(v, v2)], dim=1)


def turned_harmonics(turn: Tensor, degree: int) -> Tensor:
    """(K, K) C: with c' = C c, sum_k Y_k(R d) c'_k = sum_k Y_k(d) c_k for all d."""
    rng = torch.Generator().manual_seed(0)
    here = torch.randn(DIRECTIONS, 3, generator=rng, dtype=torch.float64)
    here = torch.nn.functional.normalize(here, dim=1)
    there = here @ turn.double().T
    return torch.linalg.lstsq(harmonics(there, degree), harmonics(here, degree)).solution
