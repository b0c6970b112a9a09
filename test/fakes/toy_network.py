"""A tiny matching network whose right answer is known, of the shape that L2M has.

A Gaussian process regresses positions on colours, so on images whose colour tells the place
(`ramp`) the warp between two windows of one ramp is their offset. It has what the export and
the engines must cope with: convolutions, attention-like products, a kernel with a solve per
keyframe, a resize, a grid sample, features that the reference keeps as they are.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8
NOISE = 1e-2
LENGTH = 0.15  # of the kernel, in colour


def grid(height: int, width: int) -> Tensor:
    """(1, 2, height, width): cell centres, normalised."""
    y = (torch.arange(height) * 2.0 + 1.0) / height - 1.0
    x = (torch.arange(width) * 2.0 + 1.0) / width - 1.0
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([xx, yy])[None]


class ToyNetwork(nn.Module):
    """encode / reference / match; deterministic, a few hundred parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.mix = nn.Conv2d(3, 8, 1)  # an isometry of colours
        self.head = nn.Conv2d(6, 3, 3, padding=1)
        with torch.no_grad():
            q, _ = torch.linalg.qr(torch.randn(8, 3, generator=draw))
            self.mix.weight.copy_(q[:, :, None, None])
            self.mix.bias.zero_()
            self.head.weight.copy_(1e-4 * torch.randn(self.head.weight.shape, generator=draw))
            self.head.bias.zero_()

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        return {
            "coarse": self.mix(F.avg_pool2d(image - 0.5, STRIDE)),
            "fine": F.avg_pool2d(image, STRIDE // 2),
        }

    def system(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        coarse = features["coarse"]
        tokens = coarse.flatten(2).transpose(1, 2)  # (B, n, 8)
        batch, n = tokens.shape[:2]
        targets = grid(*coarse.shape[-2:]).to(coarse).flatten(2).transpose(1, 2)
        return {
            "matrix": self._kernel(tokens, tokens) + NOISE * torch.eye(n).to(coarse),
            "right": targets.expand(batch, n, 2),
        }

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        system = self.system(features)
        factor = torch.linalg.cholesky(system["matrix"].double())
        solution = torch.cholesky_solve(system["right"].double(), factor)
        return {**features, "solution": solution.float()}

    def match(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
        coarse, fine = features["coarse"], features["fine"]
        b, _, h, w = coarse.shape
        kernel = self._kernel(
            coarse.flatten(2).transpose(1, 2), reference["coarse"].flatten(2).transpose(1, 2)
        )
        warp = (kernel @ reference["solution"]).transpose(1, 2).reshape(b, 2, h, w)
        warp = F.interpolate(warp, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        sampled = F.grid_sample(
            reference["fine"], warp.permute(0, 2, 3, 1), mode="bilinear", align_corners=False
        )
        delta = self.head(torch.cat([fine, sampled], dim=1))
        error = (fine - sampled).square().sum(dim=1, keepdim=True)
        one = torch.ones_like(error)
        return {
            "warp": warp + delta[:, :2],
            "certainty": 6.0 - 400.0 * error + delta[:, 2:],
            "precision": torch.cat([2.0 * one, 0.5 * one, one], dim=1),
        }

    @staticmethod
    def _kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None, :]
        return torch.exp((a @ b.transpose(1, 2) - 0.5 * squared) / LENGTH**2)


def ramp(width: int, height: int, *, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """(height, width, 3) uint8: the window at (x, y) of a picture whose colour tells the place."""
    u = (np.arange(width) + x)[None, :] / 400.0 + np.zeros((height, 1))
    v = (np.arange(height) + y)[:, None] / 400.0 + np.zeros((1, width))
    # the third channel keeps all of it away from the grey of a letterbox
    return np.clip(np.dstack([u, v, 0.6 + 0.2 * (u + v)]) * 255 + 0.5, 0, 255).astype(np.uint8)
