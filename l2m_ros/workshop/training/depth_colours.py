"""What another camera, another light and other materials do to an image, and to what eyes see.

coloured    exposure, uneven light, blur along any way, sharpening, noise: in grey
restyled    features take the means and deviations of another image of the batch
dropped     some channels of the features tell their mean only
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_PX = 9  # side of its kernel
BLURRED, SHARPENED = 0.5, 0.25  # shares of the images
UNEVEN = ((3, 4, 0.25), (12, 16, 0.08))  # rows, columns, sigma of the log of the light
NOISE = 0.05  # at most


def coloured(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> grey (B, 1, H, W), as another camera in another light gives it."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=rgb.device, generator=generator)

    count = len(rgb)
    weights = (1.0 + 0.35 * normal(count, 3, 1, 1)).clamp_min(0.05)
    grey = (rgb * weights / weights.sum(dim=1, keepdim=True)).sum(dim=1, keepdim=True)
    grey = grey.clamp(1e-3, 1.0) ** torch.exp(0.25 * normal(count, 1, 1, 1))
    exposure = 0.2 * normal(count, 1, 1, 1)  # what is too bright is cut off
    light = exposure + sum(
        F.interpolate(sigma * normal(count, 1, rows, columns), rgb.shape[-2:], mode="bilinear")
        for rows, columns, sigma in UNEVEN
    )
    kernel = kernels(count, generator, rgb.device)
    seen = F.conv2d(
        (grey * light.exp()).transpose(0, 1), kernel, padding=BLUR_PX // 2, groups=count
    ).transpose(0, 1)
    strength = NOISE * torch.rand(count, 1, 1, 1, device=rgb.device, generator=generator) ** 2
    return (seen + strength * normal(*seen.shape)).clamp(0.0, 1.0)


def kernels(count: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """(B, 1, k, k): some blur, longer along one way as hands shake; some sharpen as cameras do."""
    drawn = torch.rand(6, count, 1, 1, device=device, generator=generator)
    blurs = (drawn[0] < BLURRED).float()
    long = 0.25 + blurs * 2.2 * drawn[1] ** 2
    kernel = _gaussian(long, 0.25 + (long - 0.25) * drawn[2], torch.pi * drawn[3])
    wide = torch.full_like(long, 1.2)
    amount = (drawn[4] < SHARPENED).float() * drawn[5]
    sharpened = (1.0 + amount) * kernel - amount * _gaussian(wide, wide, torch.zeros_like(wide))
    return sharpened[:, None]


def _gaussian(long: Tensor, short: Tensor, angle: Tensor) -> Tensor:
    """Sigmas in px, (B, 1, 1) each -> (B, k, k) of sum 1."""
    side = torch.arange(BLUR_PX, device=long.device) - BLUR_PX // 2.0
    y, x = side[:, None], side[None]
    along, across = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    kernel = torch.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
    return kernel / kernel.sum(dim=(1, 2), keepdim=True)


def restyled(
    features: tuple[Tensor, ...], share: float, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """Each (B, C, h, w). Of that share of the images each channel's mean and deviation move some
    way towards another image's: photographs among them lend rendered ones theirs."""
    if share <= 0.0:
        return features
    count, device = len(features[0]), features[0].device
    drawn = torch.rand(2, count, 1, 1, 1, device=device, generator=generator)
    amount = drawn[0] * (drawn[1] < share)
    other = torch.randperm(count, device=device, generator=generator)
    moved = []
    for x in features:
        mean, deviation = x.mean(dim=(2, 3), keepdim=True), x.std(dim=(2, 3), keepdim=True) + 1e-4
        target = mean + amount * (mean[other] - mean)
        spread = deviation + amount * (deviation[other] - deviation)
        moved.append((x - mean) * (spread / deviation) + target)
    return tuple(moved)


def mean_of(features: Tensor) -> Tensor:
    """(C, 1, 1) of (N, C, h, w)."""
    return features.float().mean(dim=(0, 2, 3))[:, None, None]


def dropped(features: Tensor, mean: Tensor, share: float, drawn: Tensor) -> Tensor:
    """(B, C, h, w), that share of the channels at their mean (C, 1, 1), the others telling more.

    drawn: (B, C, 1, 1) in [0, 1). Zeros in place of the mean teach a head that later, when it sees
    all channels, reads depths that are off as a whole (by a fifth, on what it was trained on too).
    """
    return (features - mean) * ((drawn >= share) / (1.0 - share)) + mean
