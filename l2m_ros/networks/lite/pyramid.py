"""The fixed start of `lite`: oriented gradients, as SIFT and DAISY take them, in four sizes.

They cost one small convolution, have nothing to learn, and hardly see a change of light, so that
the network matches like dense RootSIFT before its first training step and learns from there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ORIENTATIONS = 8
# Grey differences below this (of the image's standard deviation) are noise, not edges.
NOISE = 0.02


def _derivative_filters() -> Tensor:
    """(2, 1, 6, 6): d/dx and d/dy of a Gaussian (sigma 1.2 px) about the middle of a 2x2 cell."""
    at = torch.arange(6, dtype=torch.float64) - 2.5
    bell = torch.exp(-(at**2) / (2 * 1.2**2))
    slope = at * bell
    dx = bell[:, None] * slope[None, :]
    dx = dx / (dx * at[None, :]).sum()  # a ramp of slope 1 gives 1
    return torch.stack([dx, dx.T])[:, None].float()


def _binomial(channels: int) -> Tensor:
    """(C, 1, 4, 4): blur before every second sample; even, so that cells stay centred."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    return (row[:, None] * row[None, :]).expand(channels, 1, 4, 4).contiguous()


class GradientPyramid(nn.Module):
    """Grey image -> square-rooted oriented gradient energy at 1/2, 1/4, 1/8 and 1/16 (or fewer)."""

    def __init__(self, levels: int = 4) -> None:
        super().__init__()
        self.levels = levels
        angle = torch.arange(ORIENTATIONS) * (2 * math.pi / ORIENTATIONS)
        steer = torch.stack([angle.cos(), angle.sin()], dim=1)  # (8, 2)
        derivative = _derivative_filters()
        self.register_buffer("derivative", derivative, persistent=False)
        self.register_buffer("steer", 2 * steer[:, :, None, None], persistent=False)
        self.register_buffer("blur", _binomial(ORIENTATIONS), persistent=False)

    def forward(self, grey: Tensor) -> list[Tensor]:
        """(B, 1, H, W) -> levels x (B, 8, h, w), values about 0 to 1."""
        with torch.autocast(grey.device.type, enabled=False):
            slope = F.conv2d(grey, self.derivative, stride=2, padding=2)
            size = ((slope * slope).sum(dim=1, keepdim=True) + NOISE**2).sqrt()
            # Lobes of 60 degrees to either side: 2 |g| (cos - 1/2), the negative part cut.
            energy = F.relu(F.conv2d(slope, self.steer) - size)
            levels = [energy]
            for _ in range(self.levels - 1):
                energy = F.conv2d(energy, self.blur, stride=2, padding=1, groups=ORIENTATIONS)
                levels.append(energy)
            return [(level + 1e-4).sqrt() for level in levels]


class GradientDescriptor(nn.Module):
    """RootSIFT of the cells around every cell, turned to `width` numbers.

    From energies of its own level (3x3 cells) or of the next finer one (4x4 half cells, the
    layout of SIFT), by `finer`.
    """

    def __init__(self, width: int, finer: bool) -> None:
        super().__init__()
        self.layout = (4, 2) if finer else (3, 1)  # kernel, stride
        kernel, stride = self.layout
        self.turn = nn.Conv2d(ORIENTATIONS, width, kernel, stride, padding=1, bias=False)
        nn.init.orthogonal_(self.turn.weight.view(width, -1))

    def forward(self, energy: Tensor) -> Tensor:
        """(B, 8, h, w) -> (B, width, h / stride, w / stride) of length about 1."""
        kernel, stride = self.layout
        with torch.autocast(energy.device.type, enabled=False):
            power = (energy * energy).sum(dim=1, keepdim=True)
            length = (F.avg_pool2d(power, kernel, stride, 1) * kernel**2 + 1e-3).sqrt()
        return self.turn(energy) / length


class Gradients(nn.Module):
    """Gradient energies of the cells about every cell; scaled to length 1 it is RootSIFT.

    From energies of its own level (3x3 cells) or of the next finer one (4x4 half cells).
    """

    def __init__(self, width: int, finer: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if finer else (3, 1)
        self.turn = nn.Conv2d(ORIENTATIONS, width, kernel, stride, padding=1, bias=False)
        nn.init.orthogonal_(self.turn.weight.view(width, -1), gain=0.3)

    def forward(self, energy: Tensor) -> Tensor:
        """(B, 8, h, w) -> (B, width, h / stride, w / stride)."""
        described: Tensor = self.turn(energy)
        return described
