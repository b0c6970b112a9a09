"""A depthwise convolution that also trains well on a CPU.

torch's backward pass of one takes a quarter of a training step of the compact networks there. The
gradient of the image is a depthwise convolution again; that of the weights is one matrix product
for each row of the kernel, whose diagonals are summed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DepthwiseConv(nn.Conv2d):
    """One odd kernel a channel, same size out; parameters as nn.Conv2d names them."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, image: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and image.device.type == "cpu"):
            return super().forward(image)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled("cpu"):
            kind = torch.get_autocast_dtype("cpu")
            image, weight, bias = image.to(kind), weight.to(kind), bias.to(kind)
        spread: Tensor = _Depthwise.apply(image, weight, bias)
        return spread


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        image, weight = ctx.saved_tensors
        turned = weight.flip(2, 3)
        to_image = F.conv2d(slope, turned, padding=weight.shape[-1] // 2, groups=len(weight))
        to_weight = _slope_of_weight(image, slope, weight.shape[-1]).to(weight.dtype)
        return to_image, to_weight, slope.float().sum(dim=(0, 2, 3)).to(weight.dtype)


def _slope_of_weight(image: Tensor, slope: Tensor, side: int) -> Tensor:
    """(C, 1, side, side): the sum over batch, rows and columns of image shifted times slope."""
    batch, channels, height, width = image.shape
    padded = F.pad(image, (side // 2,) * 4).transpose(0, 1)
    flat = slope.transpose(0, 1).reshape(channels, batch * height, width)
    rows = []
    for top in range(side):
        shifted = padded[:, :, top : top + height].reshape(channels, batch * height, -1)
        product = torch.bmm(shifted.transpose(1, 2), flat).contiguous()  # column by column
        down, right = product.stride()[1:]
        shape = (channels, side, width)
        diagonals = product.as_strided(shape, (product.stride(0), down, down + right))
        rows.append(diagonals.float().sum(dim=-1))
    return torch.stack(rows, dim=1)[:, None]
