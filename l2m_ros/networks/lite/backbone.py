"""XFeat's backbone as the eyes of `lite`: a grey image -> features at 1/4, 1/8, 1/16 and 1/32.

The layers and weights are those of `networks.shared.xfeat`. The normalisations keep the statistics
that they came with: those belong to the weights. The first two convolutions work at the full
size, where four channels leave a vector unit three quarters idle; here they are computed at half
the size, four pixels a cell, with the same numbers (a test holds them to that).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.shared.grid import resize
from l2m_ros.networks.shared.xfeat import ConvNormRelu, XFeat

XFEAT = 64  # channels of XFeat's deeper features and descriptors


@dataclass(frozen=True)
class Seen:
    """What the backbone sees, by stride; `matched` is what XFeat matches by."""

    fine: Tensor  # (B, 24, H/4, W/4)
    middle: Tensor  # (B, 64, H/8, W/8)
    coarse: Tensor  # (B, 64, H/16, W/16)
    context: Tensor  # (B, 64, H/32, W/32)
    matched: Tensor  # (B, 64, H/8, W/8)


class Backbone(XFeat):
    """`seen` of a standardised grey image; its statistics never change."""

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def seen(self, grey: Tensor) -> Seen:
        fine = self.block2(self.block1[2:](self._entry(grey)) + self.skip1(grey))
        middle = self.block3(fine)
        coarse = self.block4(middle)
        context = self.block5(coarse)
        size = (middle.shape[-2], middle.shape[-1])
        matched = self.block_fusion(middle + resize(coarse, size) + resize(context, size))
        return Seen(fine, middle, coarse, context, matched)

    def _entry(self, grey: Tensor) -> Tensor:
        """block1[0] and block1[1] at half the size: (B, 1, H, W) -> (B, 8, H/2, W/2)."""
        weight, bias = _folded(self.block1[0])
        phases = [
            F.pad(weight, (right, 1 - right, below, 1 - below))
            for below in (0, 1)
            for right in (0, 1)
        ]
        grey = F.relu(F.conv2d(grey, torch.cat(phases), bias.repeat(4), stride=2, padding=1))
        weight, bias = _folded(self.block1[1])
        return F.relu(F.conv2d(F.pad(grey, (1, 0, 1, 0)), _by_phase(weight), bias))


def _folded(layer: ConvNormRelu) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with its normalisation."""
    convolution, norm = layer.layer[0], layer.layer[1]
    scale = (norm.running_var + norm.eps).rsqrt()
    return convolution.weight * scale.view(-1, 1, 1, 1), -norm.running_mean * scale


def _by_phase(weight: Tensor) -> Tensor:
    """A 3x3 kernel of stride 2 -> a 2x2 kernel over cells of four pixels: (out, 4 C, 2, 2).

    The rows -1, 0, 1 about pixel 2 i are the lower row of cell i - 1 and both rows of cell i.
    """
    out, channels = weight.shape[:2]
    # As cell y, row, cell x, column:
    padded = F.pad(weight, (1, 0, 1, 0)).view(out, channels, 2, 2, 2, 2)
    return padded.permute(0, 3, 5, 1, 2, 4).reshape(out, 4 * channels, 2, 2)
