"""Images that wait on a device, and cuts of them: the label follows.

    Stored    images, log of depth, focal lengths: once into the device's memory
    Cuts      zoomed, stretched, rolled, mirrored parts of them

The label is log(depth / focal length), so a cut that is zoomed shows everything nearer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.training.depth_data import CELL, LEAST_KNOWN, DepthImage, stretched

SHARE = (0.45, 1.0)  # of the width that a cut shows
ASPECT_SIGMA, ROLL_SIGMA_RAD = 0.2, 0.08
PROBES = 4  # of depth, along each side of a cell

Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True, eq=False)
class Stored:
    """N images of one size on the device."""

    rgb: Tensor  # (N, 3, H, W) uint8
    log_depth: Tensor  # (N, H / 2, W / 2) float16 log of metres, NaN = unknown
    log_focal: Tensor  # (N,) log of the focal length in px, of both ways the geometric mean
    place: Tensor  # (N,) int
    family: Tensor  # (N,) int: the member of the head that shall not see it, -1 = none

    def __len__(self) -> int:
        return len(self.rgb)

    def to(self, device: str) -> Stored:
        return Stored(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def picked(self, chosen: Tensor) -> Stored:
        return Stored(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))

    @staticmethod
    def of(views: Iterable[DepthImage], place: int, family: int, size: Size) -> Stored:
        rgb, depth, focal = [], [], []
        for view in (stretched(view, size) for view in views):
            rgb.append(torch.from_numpy(np.ascontiguousarray(view.rgb.transpose(2, 0, 1))))
            with np.errstate(divide="ignore", invalid="ignore"):
                log = np.log(np.where(view.depth > 0, view.depth, np.nan)[::2, ::2])
            depth.append(torch.from_numpy(log.astype(np.float16)))
            focal.append(0.5 * np.log(view.K[0, 0] * view.K[1, 1]))
        if not rgb:
            raise InvalidInput("no image with depth: nothing to learn from")
        count = len(rgb)
        return Stored(
            torch.stack(rgb), torch.stack(depth), torch.tensor(focal, dtype=torch.float32),
            torch.full((count,), place), torch.full((count,), family),
        )  # fmt: skip

    @staticmethod
    def photographs(images: Iterable[ByteArray], size: Size) -> Stored:
        """Without any depth, of an unknown camera."""
        unknown = np.full((size[1], size[0]), np.nan, np.float32)
        views = (
            DepthImage(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.eye(3), unknown)
            for rgb in images
        )
        return Stored.of(views, -1, -1, size)

    @staticmethod
    def joined(parts: Sequence[Stored]) -> Stored:
        names = Stored.__dataclass_fields__
        return Stored(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True, eq=False)
class Cuts:
    """Of B stored images: stored px = linear @ cut px + offset."""

    linear: Tensor  # (B, 2, 2)
    offset: Tensor  # (B, 2)
    log_zoom: Tensor  # (B,) log of cut px a stored px

    def to(self, device: str | torch.device) -> Cuts:
        return Cuts(self.linear.to(device), self.offset.to(device), self.log_zoom.to(device))

    def stored_px(self, cut_px: Tensor) -> Tensor:
        """(h, w, 2) -> (B, h, w, 2)."""
        moved = torch.einsum("bij,hwj->bhwi", self.linear, cut_px)
        return moved + self.offset[:, None, None]

    def cut_px(self, stored_px: Tensor) -> Tensor:
        """(B, h, w, 2) -> (B, h, w, 2)."""
        off = stored_px - self.offset[:, None, None]
        return torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(self.linear), off)


def draw_cuts(rng: np.random.Generator, count: int, stored: Size, size: Size) -> Cuts:
    share = np.exp(rng.uniform(*np.log(SHARE), count))
    aspect = np.exp(rng.normal(0, ASPECT_SIGMA, count))
    part = np.minimum(np.stack([share * np.sqrt(aspect), share / np.sqrt(aspect)], 1), 1.0)
    part = part * stored
    scale = part / size  # stored px a cut px
    flip = np.where(rng.random(count) < 0.5, -1.0, 1.0)
    roll = rng.normal(0, ROLL_SIGMA_RAD, count)
    c, s = np.cos(roll), np.sin(roll)
    turn = np.stack([np.stack([c, -s], 1), np.stack([s, c], 1)], 1)
    linear = turn * (scale * np.stack([flip, np.ones(count)], 1))[:, None]
    centre = part / 2 + rng.random((count, 2)) * (np.array(stored) - part) - 0.5
    middle = (np.array(size) - 1) / 2
    return _cuts(linear, centre - linear @ middle, -0.5 * np.log(scale.prod(axis=1)))


def whole_cuts(count: int, stored: Size, size: Size) -> Cuts:
    scale = np.array(stored) / size
    linear = np.broadcast_to(np.diag(scale), (count, 2, 2))
    offset = np.broadcast_to(0.5 * scale - 0.5, (count, 2))
    return _cuts(linear, offset, np.full(count, -0.5 * np.log(scale.prod())))


def _cuts(linear: FloatArray, offset: FloatArray, log_zoom: FloatArray) -> Cuts:
    return Cuts(*(torch.tensor(x, dtype=torch.float32) for x in (linear, offset, log_zoom)))


def pixels(size: Size, step: float, device: torch.device) -> Tensor:
    """(h, w, 2): the middles of squares of `step` px."""
    x, y = (
        (torch.arange(round(side / step), device=device, dtype=torch.float32) + 0.5) * step - 0.5
        for side in size
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def grid_of(px: Tensor, size: Size) -> Tensor:
    """Pixels of an image -> [-1, 1], as grid_sample has them."""
    return (px + 0.5) * (2.0 / px.new_tensor(size)) - 1.0


def cut_images(stored: Stored, cuts: Cuts, size: Size) -> Tensor:
    """(B, 3, h, w) in [0, 1]."""
    shape = (stored.rgb.shape[3], stored.rgb.shape[2])
    grid = grid_of(cuts.stored_px(pixels(size, 1.0, stored.rgb.device)), shape)
    rgb = stored.rgb.float() / 255.0
    return F.grid_sample(rgb, grid, "bilinear", "border", align_corners=False)


def cut_labels(stored: Stored, cuts: Cuts, size: Size) -> Tensor:
    """(B, 1, h, w) log of depth over focal length of each cell, NaN = too little known."""
    depth = stored.log_depth[:, None].float()
    shape, half = (tuple(image.shape[:1:-1]) for image in (stored.rgb, depth))
    at = cuts.stored_px(pixels(size, CELL / PROBES, stored.rgb.device))
    # Depth is that of pixels 0, 2, 4, ...
    found = F.grid_sample(depth, grid_of(at / 2, half), "nearest", "border", align_corners=False)
    inside = (grid_of(at, shape).abs() < 1.0).all(dim=-1)[:, None]
    found = torch.where(inside, found, torch.nan)
    cells = F.pixel_unshuffle(found, PROBES)  # (B, 16, h, w)
    enough = torch.isfinite(cells).sum(dim=1, keepdim=True) >= LEAST_KNOWN * PROBES**2
    middle = torch.nanmedian(cells, dim=1, keepdim=True).values
    focal = (stored.log_focal + cuts.log_zoom)[:, None, None, None]
    return torch.where(enough, middle - focal, torch.nan)
