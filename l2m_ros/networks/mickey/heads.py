"""MicKey's four heads: where each cell's keypoint lies, how deep, how likely, how it looks.

All have one trunk, not shared: three residual blocks, attention over the cells, a fourth block.
Names are those of the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.mickey.attention import AttentionStack

BORDER = 3  # cells along each side whose keypoints are never drawn
SCORE_TEMPERATURE = 100.0
NORM_EPS = 1e-10


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, *, last_relu: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.last_relu = last_relu
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, cells: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(cells)))))
        out = out + self.shortcut(cells)
        return F.relu(out) if self.last_relu else out


class Trunk(nn.Module):
    """(B, features, h, w) -> (B, widths[3], h, w)."""

    def __init__(
        self, features: int, widths: Sequence[int], layers: int, heads: int, *, last_relu: bool
    ) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.resblock1 = BasicBlock(features, first)
        self.resblock2 = BasicBlock(first, second)
        self.resblock3 = BasicBlock(second, third)
        self.resblock4 = BasicBlock(third, fourth, last_relu=last_relu)
        self.att_layer = AttentionStack(third, layers, heads)

    def trunk(self, cells: Tensor) -> Tensor:
        cells = self.resblock3(self.resblock2(self.resblock1(cells)))
        return self.resblock4(self.att_layer(cells))


class OffsetHead(Trunk):
    """(B, 2, h, w) in [0, 1]: the keypoint's place within its cell, x and y."""

    def __init__(self, features: int, widths: Sequence[int], layers: int, heads: int) -> None:
        super().__init__(features, widths, layers, heads, last_relu=True)
        self.xy_offset = nn.Conv2d(widths[-1], 2, 1, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        return torch.sigmoid(self.xy_offset(self.trunk(cells)))


class DepthHead(Trunk):
    """(B, 1, h, w) metres along the optical axis; nothing keeps it above 0."""

    def __init__(self, features: int, widths: Sequence[int], layers: int, heads: int) -> None:
        super().__init__(features, widths, layers, heads, last_relu=True)
        self.depth = nn.Conv2d(widths[-1], 1, 1, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        return self.depth(self.trunk(cells))


class DescriptorHead(Trunk):
    """(B, C, h, w) of length 1."""

    def __init__(self, features: int, widths: Sequence[int], layers: int, heads: int) -> None:
        super().__init__(features, widths, layers, heads, last_relu=False)

    def forward(self, cells: Tensor) -> Tensor:
        raw = self.trunk(cells)
        return raw / torch.sqrt((raw * raw).sum(dim=1, keepdim=True) + NORM_EPS)


class ScoreHead(Trunk):
    """(B, 1, h, w): how likely each keypoint is drawn; the sum over an image is 1.

    Of the four frozen numbers only `eps` is used; checkpoints hold all four.
    """

    def __init__(self, features: int, widths: Sequence[int], layers: int, heads: int) -> None:
        super().__init__(features, widths, layers, heads, last_relu=True)
        self.eps = _frozen(torch.tensor(1e-16))
        self.offset_par1 = _frozen(torch.tensor(0.5))
        self.offset_par2 = _frozen(torch.tensor(2.0))
        self.ones_kernel = _frozen(torch.ones(1, 1, 3, 3))
        self.score = nn.Conv2d(widths[-1], 1, 1, bias=False)

    def forward(self, cells: Tensor) -> Tensor:
        rows, columns = cells.shape[-2:]
        if min(rows, columns) <= 2 * BORDER:
            raise InvalidInput(
                f"a grid of {columns}x{rows} cells is all border: mickey needs more than "
                f"{2 * BORDER} cells each way, so give a larger image"
            )
        raw = self.score(self.trunk(cells))
        centred = raw - (raw.detach().mean(dim=(1, 2, 3), keepdim=True) + self.eps)
        inner = torch.ones(rows - 2 * BORDER, columns - 2 * BORDER, device=raw.device)
        likely = torch.exp(centred / SCORE_TEMPERATURE) * F.pad(inner, [BORDER] * 4)
        return likely / (likely.sum(dim=(1, 2, 3), keepdim=True) + self.eps)


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
