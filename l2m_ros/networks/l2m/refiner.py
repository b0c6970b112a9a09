"""A convolutional refiner: corrects flow and certainty at one stride of the pyramid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from l2m_ros.networks.shared.correlation import local_correlation
from l2m_ros.networks.shared.grid import centre_grid, sample

KERNEL = 5
DISPLACEMENT_SCALE = 40 / 32  # a constant of the released networks


class Refiner(nn.Module):
    """`forward(query, support, flow, scale_factor)` -> (B, 2, h, w) delta, (B, 1, h, w) logits.

    The input is [query | support at the flow | embedded displacement | local correlation].
    """

    def __init__(self, channels: int, embedding: int, radius: int, blocks: int) -> None:
        super().__init__()
        self.radius = radius
        width = 2 * channels + embedding + ((2 * radius + 1) ** 2 if radius else 0)
        self.block1 = _block(width)
        self.hidden_blocks = nn.Sequential(*(_block(width) for _ in range(blocks)))
        self.out_conv = nn.Conv2d(width, 3, 1)
        self.disp_emb = nn.Conv2d(2, embedding, 1)

    def forward(
        self, query: Tensor, support: Tensor, flow: Tensor, scale_factor: float
    ) -> tuple[Tensor, Tensor]:
        support = support.detach()  # as published: the samples carry no gradient
        there = sample(support, flow)
        displacement = flow - centre_grid(*flow.shape[-2:], like=flow)
        embedded = self.disp_emb(DISPLACEMENT_SCALE * scale_factor * displacement)
        parts = [query, there, embedded]
        if self.radius:
            parts.append(local_correlation(query, support, flow, self.radius))
        hidden = self.hidden_blocks(self.block1(torch.cat(parts, dim=1)))
        out = self.out_conv(hidden.float())
        return out[:, :2], out[:, 2:]


def _block(width: int) -> nn.Sequential:
    """Depthwise 5x5, normalisation, ReLU, 1x1; no residual and nothing after the 1x1."""
    return nn.Sequential(
        nn.Conv2d(width, width, KERNEL, padding=KERNEL // 2, groups=width),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1),
    )
