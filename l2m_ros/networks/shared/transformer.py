"""The pre-norm transformer block that the ViT and the match decoder are made of.

x <- x + scale1 Attention(norm1 x);   x <- x + scale2 MLP(norm2 x)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MLP_RATIO = 4


class Attention(nn.Module):
    """Self-attention over tokens (B, N, C); scaled by head width^-1/2."""

    def __init__(self, width: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        split = self.qkv(tokens).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, C / heads)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, MLP_RATIO * width)
        self.fc2 = nn.Linear(MLP_RATIO * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class LayerScale(nn.Module):
    """A learnt factor per channel, nearly closed at birth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Block(nn.Module):
    """`layer_scale` and `qkv_bias` are the ViT's; the match decoder has neither."""

    def __init__(
        self, width: int, heads: int, *, qkv_bias: bool, layer_scale: bool, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class MatchDecoder(nn.Module):
    """(B, C, h, w) -> (B, anchors, h, w) logits of where each cell lies, (B, 1, h, w) certainty.

    Attention among the query's cells only, no position code, no final norm.
    """

    def __init__(self, width: int, depth: int, heads: int, anchors: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(width, heads, qkv_bias=False, layer_scale=False, norm_eps=1e-5)
            for _ in range(depth)
        )
        self.to_out = nn.Linear(width, anchors + 1)

    def forward(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        batch, _, height, width = cells.shape
        tokens = cells.flatten(2).transpose(1, 2)  # (B, h w, C), row-major
        for block in self.blocks:
            tokens = block(tokens)
        out = self.to_out(tokens).transpose(1, 2).reshape(batch, -1, height, width)
        return out[:, :-1], out[:, -1:]
