"""ALIKED's deformable convolution in plain torch, where torchvision has no compiled operators.

torchvision's wheels are compiled for one build of torch; beside a torch for the CPU alone they
import but compute nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    mask: Tensor | None = None,
) -> Tensor:
    """As torchvision.ops.deform_conv2d with one offset group and one weight group.

    offset (B, 2 kh kw, H', W') holds y and x of every tap, row by row.
    """
    stride, padding, dilation = (_pair(value) for value in (stride, padding, dilation))
    batch, channels, height, width = input.shape
    out, _, kernel_h, kernel_w = weight.shape
    rows, columns = offset.shape[-2:]
    y = torch.arange(rows, device=input.device)[:, None] * stride[0] - padding[0]
    x = torch.arange(columns, device=input.device)[None, :] * stride[1] - padding[1]
    taps = []
    for index in range(kernel_h * kernel_w):
        row, column = divmod(index, kernel_w)
        at_y = y + row * dilation[0] + offset[:, 2 * index]
        at_x = x + column * dilation[1] + offset[:, 2 * index + 1]
        grid = torch.stack([(2 * at_x + 1) / width - 1, (2 * at_y + 1) / height - 1], dim=-1)
        tap = F.grid_sample(input, grid, align_corners=False)
        taps.append(tap if mask is None else tap * mask[:, index : index + 1])
    columns_of = torch.stack(taps, dim=2).reshape(batch, channels * len(taps), rows * columns)
    result = (weight.reshape(out, -1) @ columns_of).view(batch, out, rows, columns)
    return result if bias is None else result + bias.view(1, -1, 1, 1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
