"""L2M made ready for a CPU: the same network in fewer passes over memory.

Batch normalisations are folded into the convolutions before them. The VGG and the narrow refiners
keep a cell's channels together (channels_last); the wide refiners would be slower so.

On request both transformers multiply in bfloat16, which takes half the time where the CPU has such
instructions. Norms, residuals, GELU and all that is a coordinate stay in single precision.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from l2m_ros.networks.shared.transformer import Attention

NARROW_STRIDES = ("2", "1")
HEADS_AT_ONCE = 2


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
    """A linear layer whose inputs, weights and result are rounded to bfloat16."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        bias = None if layer.bias is None else layer.bias.detach().bfloat16()
        self.register_buffer("weight", layer.weight.detach().bfloat16())
        self.register_buffer("bias", bias)

    def rounded(self, values: Tensor) -> Tensor:
        return F.linear(values.bfloat16(), self.weight, self.bias)

    def forward(self, values: Tensor) -> Tensor:
        return self.rounded(values).float()


class Bf16Attention(nn.Module):
    """`Attention` by two products: torch's fused one takes as long in bfloat16 as without.

    A few heads at once: weights of all (82 MB for L2M's ViT) would be new memory each time.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads = attention.heads
        self.qkv, self.proj = Bf16Linear(attention.qkv), Bf16Linear(attention.proj)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        depth = width // self.heads
        split = self.qkv.rounded(tokens).reshape(batch, count, 3, self.heads, depth)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, depth)
        scaled = query * depth**-0.5
        few = (part.split(HEADS_AT_ONCE, dim=1) for part in (scaled, key, value))
        attended = [
            (q @ k.transpose(-2, -1)).softmax(dim=-1) @ v for q, k, v in zip(*few, strict=True)
        ]
        return self.proj(torch.cat(attended, dim=1).transpose(1, 2).reshape(batch, count, width))


def multiply_in_bf16(block: Any) -> None:
    """A transformer's `Block`, in place: no training, and no checkpoint, fits it then."""
    block.attn = Bf16Attention(block.attn)
    block.mlp.fc1, block.mlp.fc2 = Bf16Linear(block.mlp.fc1), Bf16Linear(block.mlp.fc2)
