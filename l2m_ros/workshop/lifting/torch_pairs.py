"""Batches of training pairs made on the device, without files, while a network trains.

    photographs = load_photographs(paths, width=448, height=336)      # uint8 (N, 3, h, w)
    source = TorchPairSource(photographs.cuda(), PairOptions(), seed=0)
    batch = source.sample(32, difficulty=0.5)                         # everything on the GPU

The geometry is that of `pairs` (see `torch_views`); light, camera and occluders are drawn for
the whole batch at once. Plain torch, so it runs on a CPU as well; there `PairSource` is faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray
from l2m_ros.workshop.lifting.pairs import PairOptions
from l2m_ros.workshop.lifting.photographs import read_photograph
from l2m_ros.workshop.lifting.sky import sky_by_rule
from l2m_ros.workshop.lifting.torch_effects import camera_effects
from l2m_ros.workshop.lifting.torch_scenes import Draws, camera_pairs, centred, inverse_depths
from l2m_ros.workshop.lifting.torch_views import (
    Reliefs,
    Views,
    pixel_grid,
    render,
    sample,
    warp_between,
)


@dataclass(frozen=True, eq=False)
class PairBatch:
    """B pairs; the meaning of each field is that of `pairs.Pair`."""

    rgb_a: Tensor  # (B, 3, H, W) float32 in [0, 1]
    rgb_b: Tensor
    warp: Tensor  # (B, H, W, 2) pixel of b for each pixel of a
    visible: Tensor  # (B, H, W) bool
    unknown: Tensor
    warp_ba: Tensor
    visible_b: Tensor
    unknown_b: Tensor
    K_a: Tensor  # (B, 3, 3)
    K_b: Tensor
    b_from_a: Tensor  # (B, 4, 4)


def load_photographs(
    photographs: Sequence[Path] | Sequence[ByteArray], width: int = 448, height: int = 336
) -> Tensor:
    """(N, 3, h, w) uint8: each photograph's middle, of the one shape that a batch needs."""
    if not photographs:
        raise InvalidInput("no photographs to make pairs of")
    images = (p if isinstance(p, np.ndarray) else read_photograph(p) for p in photographs)
    return torch.stack([_cropped(image, width, height) for image in images])


def _cropped(rgb: np.ndarray, width: int, height: int) -> Tensor:
    scale = max(width / rgb.shape[1], height / rgb.shape[0])
    size = (max(width, round(rgb.shape[1] * scale)), max(height, round(rgb.shape[0] * scale)))
    mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(rgb, size, interpolation=mode)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    middle = resized[top : top + height, left : left + width]
    return torch.from_numpy(np.ascontiguousarray(middle.transpose(2, 0, 1)))


def sky_masks(photographs: Tensor) -> Tensor:
    """(N, h, w) bool by the rule of `sky`, on the photographs' device (about 1 ms each)."""
    images = photographs.permute(0, 2, 3, 1).cpu().numpy()
    masks = [torch.from_numpy(sky_by_rule(np.ascontiguousarray(rgb))) for rgb in images]
    return torch.stack(masks).to(photographs.device)


class TorchPairSource:
    """Draws batches; the same seed on the same kind of device gives the same batches."""

    def __init__(
        self,
        photographs: Tensor,
        options: PairOptions | None = None,
        seed: int = 0,
        sky: Tensor | None = None,
    ) -> None:
        """`photographs` (N, 3, h, w) uint8 on the device; `sky` (N, h, w) bool, else by rule."""
        if photographs.ndim != 4 or photographs.shape[1] != 3 or photographs.dtype != torch.uint8:
            raise InvalidInput(
                f"photographs must be (N, 3, h, w) uint8, got {tuple(photographs.shape)} "
                f"of {photographs.dtype}"
            )
        self.photographs, self.options = photographs, options or PairOptions()
        self.sky = sky_masks(photographs) if sky is None and self.options.sky else sky
        self.draws = Draws(photographs.device, seed)

    @torch.no_grad()
    def sample(self, batch: int, difficulty: float | None = None) -> PairBatch:
        options, draws = self.options, self.draws
        hardest = options.difficulty if difficulty is None else difficulty
        hard = hardest * draws.uniform(batch).sqrt()
        chosen = draws.integers(len(self.photographs), batch)
        rgb = self.photographs[chosen].float() / 255
        relief = self._relief(rgb, hard, chosen)
        size = (options.width, options.height)
        cameras = camera_pairs(draws, relief, *size, options.motion, hard)
        return self._pairs(rgb, relief, cameras, hard)

    def _relief(self, rgb: Tensor, hard: Tensor, chosen: Tensor) -> Reliefs:
        """Procedural depth; a share of flat ones, whose views are related by homographies."""
        options, draws, batch = self.options, self.draws, len(rgb)
        height, width = self._grid_size()
        small = F.interpolate(rgb, (height, width), mode="area")
        low, high = (math.radians(angle) for angle in options.field_of_view_deg)
        angle = draws.uniform(batch, low=low, high=high)
        K = centred(max(width, height) / 2 / torch.tan(angle / 2), width, height)
        w = inverse_depths(draws, small, K, 0.35 + 0.65 * hard)
        flat = draws.uniform(batch, 1, 1) < options.homographies
        w = torch.where(flat, torch.ones_like(w), w)
        sky = None
        if self.sky is not None:
            masks = self.sky[chosen][:, None].float()
            sky = F.interpolate(masks, (height, width), mode="nearest")[:, 0] > 0
        return Reliefs.from_inverse_depth(w, K, sky)

    def _grid_size(self) -> tuple[int, int]:
        height, width = self.photographs.shape[2:]
        scale = math.sqrt(self.options.width * self.options.height / (width * height))
        return round(height * scale), round(width * scale)

    def _pairs(
        self, rgb: Tensor, relief: Reliefs, cameras: tuple[Tensor, ...], hard: Tensor
    ) -> PairBatch:
        options, draws = self.options, self.draws
        K_a, K_b, a_from_grid, b_from_grid, _ = cameras
        size = (options.width, options.height)
        a, b = render(relief, K_a, a_from_grid, *size), render(relief, K_b, b_from_grid, *size)
        warp, visible, unknown = warp_between(relief, a, b, K_b, b_from_grid)
        warp_ba, visible_b, unknown_b = warp_between(relief, b, a, K_a, a_from_grid)
        images, masks = zip(*(self._picture(rgb, relief, v, hard) for v in (a, b)), strict=True)
        visible = visible & ~masks[0] & ~_covered(masks[1], warp)
        visible_b = visible_b & ~masks[1] & ~_covered(masks[0], warp_ba)
        unknown, unknown_b = unknown & ~masks[0], unknown_b & ~masks[1]
        rgb_a, rgb_b = (camera_effects(draws, i, options.effects, 0.4 + 0.6 * hard) for i in images)
        pairs = PairBatch(
            rgb_a, rgb_b, warp, visible, unknown, warp_ba, visible_b, unknown_b,
            K_a, K_b, b_from_grid @ torch.linalg.inv(a_from_grid),
        )  # fmt: skip
        return _swapped(pairs, draws.uniform(len(rgb)) < options.swap)

    def _picture(
        self, rgb: Tensor, relief: Reliefs, view: Views, hard: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The view's image with its holes filled, and what stands in front of it."""
        options, draws = self.options, self.draws
        scale = rgb.shape[3] / relief.inverse_depth.shape[2]
        x, y = ((c + 0.5) * scale - 0.5 for c in (view.x, view.y))
        image = sample(rgb, x, y)
        size = (options.height, options.width)
        others = self.photographs[draws.integers(len(self.photographs), len(rgb))].float() / 255
        other = F.interpolate(others, size, mode="bilinear")
        image = torch.where(view.painted[:, None], image, other)
        mask = self._blob(len(rgb), hard)
        foreign = other.flip(0) if len(rgb) > 1 else other.flip(3)
        return torch.where(mask[:, None], foreign, image), mask

    def _blob(self, batch: int, hard: Tensor) -> Tensor:
        """(B, H, W) a wavy foreign thing in some of the views."""
        options, draws = self.options, self.draws
        u, v = pixel_grid(hard, options.width, options.height)
        centre = draws.uniform(batch, 2)[..., None, None]
        du, dv = u - centre[:, 0] * options.width, v - centre[:, 1] * options.height
        angle = torch.atan2(dv, du)
        phase = draws.uniform(batch, 1, 1, high=2 * math.pi)
        waves = 2 + draws.integers(4, batch, 1, 1)
        radius = draws.uniform(batch, 1, 1, low=0.04, high=0.18) * options.width
        there = draws.uniform(batch) < options.occluders * (0.3 + 0.7 * hard)
        outline = radius * (1 + 0.4 * torch.cos(waves * angle + phase))
        return (du**2 + dv**2 < outline**2) & there[:, None, None]


def _covered(mask: Tensor, warp: Tensor) -> Tensor:
    grown = F.max_pool2d(mask[:, None].float(), 3, 1, 1)
    return sample(grown, warp[..., 0], warp[..., 1], "nearest")[:, 0] > 0


def _swapped(pairs: PairBatch, swap: Tensor) -> PairBatch:
    """The items named by `swap` (B,) the other way round."""

    def mixed(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        which = swap.view(-1, *[1] * (one.ndim - 1))
        return torch.where(which, other, one), torch.where(which, one, other)

    rgb_a, rgb_b = mixed(pairs.rgb_a, pairs.rgb_b)
    warp, warp_ba = mixed(pairs.warp, pairs.warp_ba)
    visible, visible_b = mixed(pairs.visible, pairs.visible_b)
    unknown, unknown_b = mixed(pairs.unknown, pairs.unknown_b)
    K_a, K_b = mixed(pairs.K_a, pairs.K_b)
    b_from_a, _ = mixed(pairs.b_from_a, torch.linalg.inv(pairs.b_from_a))
    return PairBatch(
        rgb_a, rgb_b, warp, visible, unknown, warp_ba, visible_b, unknown_b, K_a, K_b, b_from_a
    )
