"""L2M made ready for a CPU: the same network in fewer passes over memory.

Batch normalisations are folded into the convolutions before them. The VGG and the narrow refiners
keep a cell's channels together (channels_last); the wide refiners would be slower so.

On request the linear layers of both transformers multiply in bfloat16, which takes half the time
where the CPU has such instructions. Sums, norms, softmax, residuals and all that is a coordinate
stay in single precision.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NARROW_STRIDES = ("2", "1")


def prepare(network: Any, *, bf16: bool = False) -> Any:
    """An L2M, in place, for inference; the same numbers up to rounding. No checkpoint fits then."""
    fold_normalisations(network)
    if bf16:
        for block in (*network.dinov2.blocks, *network.decoder.embedding_decoder.blocks):
            multiply_in_bf16(block)
    refiners = network.decoder.conv_refiner
    for part in (network.encoder.cnn, *(refiners[stride] for stride in NARROW_STRIDES)):
        part.to(memory_format=torch.channels_last)
    return network


def fold_normalisations(network: nn.Module) -> None:
    """Each batch normalisation that follows a convolution becomes part of it."""
    for layers in list(network.modules()):
        if not isinstance(layers, (nn.Sequential, nn.ModuleList)):
            continue
        for index in range(len(layers) - 1):
            convolution, normalisation = layers[index], layers[index + 1]
            if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
                layers[index] = fuse_conv_bn_eval(convolution, normalisation)
                layers[index + 1] = nn.Identity()


class Bf16Linear(nn.Module):
    """A linear layer whose inputs, weights and result are rounded to bfloat16; float32 outside."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias.detach().bfloat16()
        self.register_buffer("weight", layer.weight.detach().bfloat16())
        self.register_buffer("bias", bias)

    def forward(self, values: Tensor) -> Tensor:
        return F.linear(values.bfloat16(), self.weight, self.bias).float()


def multiply_in_bf16(module: nn.Module) -> None:
    """Every linear layer below becomes a `Bf16Linear`."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, Bf16Linear(child))
