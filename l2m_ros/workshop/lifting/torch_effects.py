"""`camera_effects` for a batch in torch: the same kinds and ranges, drawn on the device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.torch_scenes import Draws

BLUR_TAPS = 9
BLOCK = 8  # JPEG's blocks


def camera_effects(draws: Draws, rgb: Tensor, options: EffectOptions, strength: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] as another light, exposure and camera would have it."""
    out = _toned(draws, rgb, options, strength)
    out = out * _light(draws, rgb, options, strength)
    out = _blurred(draws, out, options, strength)
    sigma = draws.uniform(len(rgb)) ** 2 * 14 / 255 * strength
    sigma = sigma * (draws.uniform(len(rgb)) < options.noise)
    out = (out + draws.normal(*rgb.shape) * sigma[:, None, None, None]).clamp(0, 1)
    grey = out.mean(1, keepdim=True).expand_as(out)
    out = torch.where(_chance(draws, len(rgb), options.grey), grey, out)
    packed = jpeg_like(out, draws.uniform(len(rgb)) * strength)
    return torch.where(_chance(draws, len(rgb), options.jpeg), packed, out)


def _chance(draws: Draws, batch: int, probability: float) -> Tensor:
    return draws.uniform(batch, 1, 1, 1) < probability


def _toned(draws: Draws, rgb: Tensor, options: EffectOptions, strength: Tensor) -> Tensor:
    """Exposure and colour temperature in linear light, then gamma and contrast."""
    batch = len(rgb)
    signed = draws.uniform(5, batch, low=-1.0) * strength
    temperature, tint = options.colour_temperature * signed[0], 0.3 * signed[1]
    tint = tint * options.colour_temperature
    gains = torch.stack([temperature, tint, -temperature], 1)
    gains = torch.exp(gains + math.log(2) * options.exposure_stops * signed[2][:, None])
    gamma = torch.exp(options.gamma * signed[3])[:, None, None, None]
    linear = (rgb.clamp(min=1e-4) ** 2.2 * gains[..., None, None]).clamp(1e-6, 1)
    contrast = torch.exp(options.contrast * signed[4])[:, None, None, None]
    return ((linear ** (gamma / 2.2) - 0.5) * contrast + 0.5).clamp(0, 1)


def _light(draws: Draws, rgb: Tensor, options: EffectOptions, strength: Tensor) -> Tensor:
    """(B, 3, H, W) gain: soft coloured lamps, a cast shadow's edge, vignetting."""
    batch, _, height, width = rgb.shape
    how_strong = strength[:, None, None, None]
    lamps = F.interpolate(draws.normal(batch, 1, 3, 4), (height, width), mode="bicubic")
    coloured = 1 + draws.uniform(batch, 3, 1, 1, low=-0.3, high=0.3)
    light = 0.35 * lamps * coloured * _chance(draws, batch, options.shading)
    v, u = torch.meshgrid(
        torch.linspace(-1, 1, height, device=rgb.device),
        torch.linspace(-1, 1, width, device=rgb.device),
        indexing="ij",
    )
    turn = draws.uniform(batch, 1, 1, 1, high=2 * math.pi)
    side = u * turn.cos() + v * turn.sin() - draws.uniform(batch, 1, 1, 1, low=-0.8, high=0.8)
    edge = torch.sigmoid(side * draws.uniform(batch, 1, 1, 1, low=10, high=120))
    depth = draws.uniform(batch, 1, 1, 1, low=0.2, high=1.1)
    light = light - depth * edge * _chance(draws, batch, 0.4 * options.shading)
    dark = draws.uniform(batch, 1, 1, 1, low=0.1, high=0.7)
    light = light - dark * (u**2 + v**2) * _chance(draws, batch, options.vignette)
    return torch.exp(light * how_strong)


def _blurred(draws: Draws, rgb: Tensor, options: EffectOptions, strength: Tensor) -> Tensor:
    """Gaussian along two axes of its own width each: out of focus, or moved along an axis."""
    batch, channels, height, width = rgb.shape
    sigma = 2.0 * width / 320 * draws.uniform(batch, 2) * strength[:, None]
    sigma = sigma * (draws.uniform(batch, 1) < options.blur) + 1e-3
    tap = torch.arange(BLUR_TAPS, device=rgb.device) - BLUR_TAPS // 2
    kernels = torch.exp(-0.5 * (tap / sigma[..., None]) ** 2)
    kernels = (kernels / kernels.sum(-1, keepdim=True)).repeat_interleave(channels, 0)
    flat = rgb.reshape(1, batch * channels, height, width)
    half = BLUR_TAPS // 2
    flat = F.pad(flat, (half, half, half, half), mode="replicate")
    flat = F.conv2d(flat, kernels[:, 0, None, None, :], groups=batch * channels)
    flat = F.conv2d(flat, kernels[:, 1, None, :, None], groups=batch * channels)
    return flat.view(batch, channels, height, width)


def jpeg_like(rgb: Tensor, amount: Tensor) -> Tensor:
    """Blocks of 8x8 through a cosine transform whose coefficients are rounded.

    The step grows with the frequency as in JPEG's table; `amount` (B,) in [0, 1] is from fine
    to coarse. Sides that are no multiple of 8 keep their last rows and columns unchanged.
    """
    height, width = (side - side % BLOCK for side in rgb.shape[2:])
    k = torch.arange(BLOCK, device=rgb.device, dtype=torch.float32)
    cosine = torch.cos(math.pi / BLOCK * (k[None, :] + 0.5) * k[:, None]) * math.sqrt(2 / BLOCK)
    cosine[0] /= math.sqrt(2)
    blocks = rgb[:, :, :height, :width].unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    coefficients = cosine @ blocks @ cosine.T
    step = (0.006 + 0.05 * amount)[:, None, None, None, None, None] * (
        1 + 0.5 * (k[:, None] + k[None, :])
    )
    rounded = cosine.T @ ((coefficients / step).round() * step) @ cosine
    out = rgb.clone()
    shape = (*rgb.shape[:2], height, width)
    out[:, :, :height, :width] = rounded.permute(0, 1, 2, 4, 3, 5).reshape(shape)
    return out.clamp(0, 1)
