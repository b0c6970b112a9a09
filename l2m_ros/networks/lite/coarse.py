"""The global half of `lite`, at 1/16: context, correlation with every keyframe cell, consensus."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.shared.depthwise import DepthwiseConv


def tokens_of(image: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return image.flatten(2).transpose(1, 2)


def image_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """(B, h w, C) -> (B, C, h, w)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


def unit(image: Tensor) -> Tensor:
    """Length 1 along the channels; 1e-4 keeps the division within half precision."""
    return image / (image.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()


def cell_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(h, w, 2): normalised [-1, 1] coordinates (x, y) of the cell centres."""
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * (2.0 / height) - 1.0
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * (2.0 / width) - 1.0
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)


def _rotary_angles(
    height: int, width: int, step: int, channels: int, device: torch.device
) -> Tensor:
    """(h w, channels / 2) angles: half for x, half for y, wavelengths 4 to 256 cells."""
    count = channels // 4
    exponent = torch.arange(count, device=device, dtype=torch.float32) / max(count - 1, 1)
    frequency = (2 * math.pi / 4) * (4.0 / 256.0) ** exponent
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * step
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * step
    along_x = (x[:, None] * frequency).expand(height, width, count)
    along_y = (y[:, None] * frequency)[:, None].expand(height, width, count)
    return torch.cat([along_x, along_y], dim=-1).reshape(height * width, 2 * count)


def _rotated(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotary position: (B, heads, N, c) turned by (N, c / 2) angles."""
    first, second = heads.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    """Tokens attend to the 2x2-pooled tokens of an image; the output starts at zero.

    Positions enter queries and keys alone (`rotary`): added to the tokens themselves, they let
    training settle on the positional prior of the pairs (a plateau at 44 px, measured).
    """

    def __init__(self, channels: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, count, channels = tokens.shape
        return tokens.view(batch, count, self.heads, channels // self.heads).transpose(1, 2)

    def prepare(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, heads, hw / 4, c) of an image (B, C, h, w)."""
        pooled = F.avg_pool2d(image, 2, ceil_mode=True)
        height, width = pooled.shape[-2:]
        key, value = self.key_value(self.norm_key(tokens_of(pooled))).chunk(2, dim=-1)
        key, value = self._split(key), self._split(value)
        if self.rotary:
            angles = _rotary_angles(height, width, 2, key.shape[-1], key.device)
            key = _rotated(key, angles)
        return key, value

    def forward(self, image: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What is to be added to `image` (B, C, h, w)."""
        height, width = image.shape[-2:]
        query = self._split(self.query(self.norm_query(tokens_of(image))))
        if self.rotary:
            angles = _rotary_angles(height, width, 1, query.shape[-1], query.device)
            query = _rotated(query, angles)
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(2, 3)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
        return image_of(self.out(mixed), height, width)


class Mixer(nn.Module):
    """Two 1x1 convolutions around a depthwise 3x3; the output starts at zero."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.grow = nn.Conv2d(channels, hidden, 1)
        self.spread = DepthwiseConv(hidden, 3)
        self.shrink = nn.Conv2d(hidden, channels, 1)
        nn.init.zeros_(self.shrink.weight)
        nn.init.zeros_(self.shrink.bias)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.shrink(F.relu(self.spread(F.relu(self.grow(image)))))


class Block(nn.Module):
    """Attention, then a mixer; `prepare` is the half that belongs to the image attended to."""

    def __init__(self, channels: int, heads: int, rotary: bool) -> None:
        super().__init__()
        self.attention = Attention(channels, heads, rotary)
        self.mixer = Mixer(channels, 2 * channels)

    def forward(self, image: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self.mixer(image + self.attention(image, key, value))


def _window(radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """dx and dy, (2r+1)^2 each, row by row."""
    span = torch.arange(-radius, radius + 1, device=device)
    dy, dx = torch.meshgrid(span, span, indexing="ij")
    return dx.reshape(-1), dy.reshape(-1)


def _mode(logits: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column (B, N, 1) of the largest, by rows first: a third of one argmax' time."""
    rows = logits.unflatten(2, (height, width))
    row = rows.amax(dim=-1).argmax(dim=-1, keepdim=True)
    at = row[..., None].expand(*row.shape, width)
    return row, rows.gather(2, at).argmax(dim=-1)


def read_peak(
    logits: Tensor, none: Tensor, height: int, width: int, radius: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """The mode of every query cell's correlation with the keyframe's h x w cells.

    logits (B, N, h w), none (B, N, 1) the logit of "nowhere". Returns the soft-argmax about the
    mode (B, N, 2) in normalised coordinates, the window's logits relative to the mode
    (B, N, (2r+1)^2), and the log-odds (B, N, 1) that the cell is matched at all.
    """
    row, column = _mode(logits.detach(), height, width)
    mode = row * width + column
    dx, dy = _window(radius, logits.device)
    x, y = column + dx, row + dy  # (B, N, K)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    peak = logits.gather(2, mode)
    window = torch.where(inside, logits.gather(2, index) - peak, -30.0)
    weight = window.softmax(dim=-1)
    fx = (weight * (x + 0.5)).sum(-1, keepdim=True) * (2.0 / width) - 1.0
    fy = (weight * (y + 0.5)).sum(-1, keepdim=True) * (2.0 / height) - 1.0
    return torch.cat([fx, fy], dim=-1), window, peak - none


class Consensus(nn.Module):
    """Neighbouring cells compare notes on where they lie in the keyframe.

    In: a coordinate with its correlation window and log-odds a cell, and features. Out: the
    corrected coordinate, a hidden state, and how sharp the coordinate is thought to be. The
    weighted means over 3x3 and 7x7 cells offer each cell what its neighbours believe.
    """

    SPANS = (3, 7)

    def __init__(self, window: int, features: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(window + features + 2 + 1 + 3 * len(self.SPANS), hidden, 1)
        self.spread = nn.ModuleList(DepthwiseConv(hidden, 5) for _ in range(3))
        self.mix = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(3))
        self.leave = nn.Conv2d(hidden, len(self.SPANS) + 2 + 1, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def _beliefs(self, flow: Tensor, odds: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The neighbours' mean flow minus the cell's own, and their mean weight, by span."""
        weight = torch.sigmoid(odds) + 1e-3
        offers, support = [], []
        for span in self.SPANS:
            around = F.avg_pool2d(weight, span, 1, span // 2)
            mean = F.avg_pool2d(weight * flow, span, 1, span // 2) / around
            offers.append(mean - flow)
            support.append(around)
        return offers, support

    def forward(
        self, point: Tensor, window: Tensor, odds: Tensor, features: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """point (B, 2, h, w) normalised; returns point, hidden (B, C, h, w), sharpness logit."""
        height, width = point.shape[-2:]
        grid = cell_grid(height, width, point.device).permute(2, 0, 1)
        flow = point - grid
        offers, support = self._beliefs(flow, odds)
        state = torch.cat([window * 0.1, features, flow, odds * 0.1, *offers, *support], dim=1)
        state = F.relu(self.enter(state))
        for spread, mix in zip(self.spread, self.mix, strict=True):
            state = F.relu(state + mix(spread(state)))
        out = self.leave(state).float()
        for index, offer in enumerate(offers):
            point = point + out[:, index : index + 1] * offer
        n = len(offers)
        return point + 0.1 * out[:, n : n + 2], state, out[:, n + 2 : n + 3]
