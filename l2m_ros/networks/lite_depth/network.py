"""`lite_depth`: metres from what `lite`'s encoder already saw; a head, not a matcher.

    depth    what the frozen eyes of `lite` see (`eyes` at 1/16, `eyes_wide` at 1/32)
             -> log_depth, log_sigma (B, 1, H/16, W/16), image_log_sigma (B, 1)

log_depth is the log of depth over focal length in pixels of the network's input, so that one head
serves every camera: what looks as large is as many focal lengths away. log_sigma is of each cell
beside its image's common factor, image_log_sigma of that factor.

Several members read it, each trained without a part of the places. Their mean is what is read. How
far they differ about an image adds to the sigma of its factor: where nothing looks familiar, they
do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_LOG_DEPTH = -5.5  # 2.2 m at 550 px
LOG_DEPTH = (-9.0, 0.5)
LOG_SIGMA = (-3.5, 1.5)
HEADS = 4


@dataclass(frozen=True)
class DepthHeadConfig:
    """Widths; 0.16 M parameters by default."""

    eyes: int = 128  # channels of the encoder's features at 1/16
    wide: int = 64  # at 1/32
    width: int = 32  # at 1/16, of a member
    deep: int = 56  # at 1/32; a multiple of HEADS
    blocks: int = 3  # at 1/32
    attention: int = 1  # of the blocks see every other cell first
    members: int = 2


class Standardised(nn.Module):
    """Features of mean 0 and deviation 1 over the training images."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def into(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        """A 1x1 convolution of x so standardised, and of what else it takes: of where a cell is.

        The numbers go into its weights: x is read once.
        """
        own = len(self.mean)  # type: ignore[arg-type]
        weight = layer.weight[:, :own] * self.scale[:, None, None]  # type: ignore[index]
        shift = (weight * self.mean[:, None, None]).sum(dim=(1, 2, 3))  # type: ignore[index]
        entered = F.conv2d(x, weight, layer.bias - shift)
        if layer.in_channels > own:
            entered = entered + F.conv2d(places(x), layer.weight[:, own:])
        return entered


class Mixer(nn.Module):
    """A depthwise 5x5 and two 1x1 convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.grow = nn.Conv2d(channels, 2 * channels, 1)
        self.shrink = nn.Conv2d(2 * channels, channels, 1)
        nn.init.zeros_(self.shrink.weight)
        nn.init.zeros_(self.shrink.bias)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.shrink(F.relu(self.grow(self.spread(x))))
        return x + mixed


class Attention(nn.Module):
    """Every cell asks every other, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ask = nn.Conv2d(channels, 3 * channels, 1)
        self.answer = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, rows, columns = x.shape
        shape = (batch, HEADS, channels // HEADS, rows * columns)
        query, key, value = (part.reshape(shape) for part in self.ask(x).split(channels, dim=1))
        if self.training:  # the same, without keeping all shares for the gradient
            parts = (part.transpose(2, 3).contiguous() for part in (query, key, value))
            answers = F.scaled_dot_product_attention(*parts).transpose(2, 3)
            asked: Tensor = self.answer(answers.reshape(batch, channels, rows, columns))
            return x + asked
        share = ((query * shape[2] ** -0.5).transpose(2, 3) @ key).softmax(dim=3)
        answers = value @ share.transpose(2, 3)  # (B, heads, C / heads, cells)
        asked = self.answer(answers.reshape(batch, channels, rows, columns))
        return x + asked


class Member(nn.Module):
    """Features -> log depth and log sigma of the cells, log sigma of the image."""

    def __init__(self, config: DepthHeadConfig) -> None:
        super().__init__()
        width, deep = config.width, config.deep
        self.enter = nn.Conv2d(config.eyes + 2, width, 1)
        self.down = nn.Conv2d(width, deep, 2, stride=2)
        self.around = nn.Conv2d(config.wide, deep, 1)
        self.deep = nn.ModuleList(Mixer(deep) for _ in range(config.blocks))
        self.asking = nn.ModuleList(Attention(deep) for _ in range(config.attention))
        self.whole = nn.Linear(deep, deep)
        self.up = nn.Conv2d(deep, width, 1)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.last = Mixer(width)
        self.out = nn.Conv2d(width, 2, 1)
        self.image = nn.Linear(deep, 2)
        for layer in (self.out, self.image):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.out.bias[:1], FIRST_LOG_DEPTH)

    def forward(
        self, x: Tensor, context: Tensor, cells: Standardised, around: Standardised
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, h, w) twice, (B, 1)."""
        x = F.relu(cells.into(self.enter, x))
        deep = F.relu(self.down(x) + around.into(self.around, context))
        for number, block in enumerate(self.deep):
            if number < len(self.asking):
                deep = self.asking[number](deep)
            deep = block(deep)
        whole = F.relu(self.whole(deep.mean(dim=(2, 3))))  # (B, deep)
        deep = F.relu(self.up(deep + whole[:, :, None, None]))
        back = F.interpolate(deep, size=x.shape[-2:], mode="bilinear", align_corners=False)
        x = self.last(F.relu(self.join(torch.cat([x, back], dim=1))))
        out, image = self.out(x), self.image(whole)
        log_depth = (out[:, :1] + image[:, :1, None, None]).clamp(*LOG_DEPTH)
        return log_depth, out[:, 1:].clamp(*LOG_SIGMA) - 1.0, image[:, 1:].clamp(*LOG_SIGMA) - 1.0


class DepthHead(nn.Module):
    def __init__(self, config: DepthHeadConfig | None = None) -> None:
        super().__init__()
        config = config or DepthHeadConfig()
        self.config = config
        self.cells = Standardised(config.eyes)
        self.context = Standardised(config.wide)
        self.members = nn.ModuleList(Member(config) for _ in range(config.members))

    def depth(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """From the encoder's `eyes` and `eyes_wide`."""
        return self(features["eyes"].float(), features["eyes_wide"].float())

    def feature_stand_ins(self, height: int, width: int) -> dict[str, Tensor]:
        """Zeros of the shapes that the encoder gives for an input of that size."""
        return {
            "eyes": torch.zeros(1, self.config.eyes, height // 16, width // 16),
            "eyes_wide": torch.zeros(1, self.config.wide, height // 32, width // 32),
        }

    def forward(self, cells: Tensor, context: Tensor) -> dict[str, Tensor]:
        """cells (B, eyes, h, w) at 1/16, context (B, wide, h / 2, w / 2)."""
        found = [member(cells, context, self.cells, self.context) for member in self.members]
        log_depth, log_sigma, image = (
            torch.cat(parts, dim=1) for parts in zip(*found, strict=True)
        )
        return {
            "log_depth": log_depth.mean(dim=1, keepdim=True),
            "log_sigma": log_sigma.mean(dim=1, keepdim=True),
            "image_log_sigma": 0.5
            * torch.log(torch.exp(2.0 * image).mean(dim=1, keepdim=True) + disagreement(log_depth)),
            "member_log_depth": log_depth,  # (B, members, h, w): for training
            "member_log_sigma": log_sigma,
            "member_image_log_sigma": image,
        }


def disagreement(log_depth: Tensor) -> Tensor:
    """(B, members, h, w) -> (B, 1): variance between the members about the image as a whole."""
    whole = log_depth.mean(dim=(2, 3))
    apart = whole - whole.mean(dim=1, keepdim=True)
    return (apart * apart).sum(dim=1, keepdim=True) / max(whole.shape[1] - 1, 1)


def places(x: Tensor) -> Tensor:
    """(1, 2, h, w): x and y in [-1, 1]; floors lie below."""
    height, width = x.shape[-2:]
    down = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(height, width)
    right = torch.linspace(-1, 1, width, device=x.device).expand(height, width)
    return torch.stack([right, down])[None]


def build_lite_depth(**config: int) -> DepthHead:
    return DepthHead(DepthHeadConfig(**config))
