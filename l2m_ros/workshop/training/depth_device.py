"""Batches of a depth head made on the device: each step cuts, colours and sees its images anew.

    Stored      images, log of depth, focal lengths: once into the device's memory
    Cuts        zoomed, stretched, rolled, mirrored; the label log(depth / focal length) follows
    Eyes        lite's, frozen; `depth_colours` changes what they are shown and what they see

Of photographs nobody knows the depth. Two cuts of one must still agree on the depth of what both
show, whatever their zoom and colours: so the head learns what real images look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.lite2.backbone import Backbone
from l2m_ros.networks.lite2.network import below_of
from l2m_ros.networks.shared.xfeat import standardised_grey
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.depth_colours import coloured, dropped, restyled
from l2m_ros.workshop.training.depth_data import CELL, LEAST_KNOWN, DepthImage, Samples, stretched
from l2m_ros.workshop.training.depth_head import HeadBatch, HeadOptions, Twins

SHARE = (0.45, 1.0)  # of the width that a cut shows
ASPECT_SIGMA, ROLL_SIGMA_RAD = 0.2, 0.08
PROBES = 4  # of depth, along each side of a cell
WHOLE_AT_ONCE = 32

Size = tuple[int, int]  # (width, height)


class Eyes(nn.Module):
    """Grey (B, 1, H, W) -> `eyes` at 1/16 and `eyes_wide` at 1/32, as lite's encoder gives them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.backbone.seen(standardised_grey(grey))
        return below_of(seen), seen.context


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


# --- cuts -------------------------------------------------------------------------------------


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
    shape = (stored.rgb.shape[3], stored.rgb.shape[2])
    step = CELL / PROBES
    grid = grid_of(cuts.stored_px(pixels(size, step, stored.rgb.device)), shape)
    depth = stored.log_depth[:, None].float()
    found = F.grid_sample(depth, grid, "nearest", "border", align_corners=False)
    inside = (grid.abs() < 1.0).all(dim=-1)[:, None]
    found = torch.where(inside, found, torch.nan)
    cells = F.pixel_unshuffle(found, PROBES)  # (B, 16, h, w)
    enough = torch.isfinite(cells).sum(dim=1, keepdim=True) >= LEAST_KNOWN * PROBES**2
    middle = torch.nanmedian(cells, dim=1, keepdim=True).values
    focal = (stored.log_focal + cuts.log_zoom)[:, None, None, None]
    return torch.where(enough, middle - focal, torch.nan)


# --- batches ----------------------------------------------------------------------------------


class AnewBatches(Schedule):
    """Of stored images, drawn from (seed, step); photographs beside them in two cuts each."""

    def __init__(
        self,
        groups: Sequence[Stored],
        shares: Sequence[float],
        eyes: Eyes,
        options: HeadOptions,
        photographs: Stored | None = None,
    ) -> None:
        super().__init__(
            (SizeShare(options.width, options.height, options.batch, 1.0),), options.loop.seed
        )
        self.groups, self.shares = list(groups), np.array(shares) / np.sum(shares)
        self.eyes, self.options, self.photographs = eyes, options, photographs
        self.size = (options.width, options.height)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> HeadBatch:
        part = self.part_of(self.sizes[0], count)
        rng = np.random.default_rng((self.seed, 5, step, rank))
        device = self.groups[0].rgb.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**31)))
        drawn = [
            _some(group, rng, many)
            for group, many in zip(self.groups, rng.multinomial(part, self.shares), strict=True)
            if many
        ]
        twins = None
        if self.photographs is not None:
            photographs = _some(self.photographs, rng, max(part // 8, 1))
            drawn += [photographs, photographs]
        images = Stored.joined(drawn)
        stored = (images.rgb.shape[3], images.rgb.shape[2])
        cuts = draw_cuts(rng, len(images), stored, self.size)
        if self.photographs is not None:
            twins = twins_of(cuts, len(photographs), self.size).to(str(device))
        cuts = cuts.to(device)
        grey = coloured(cut_images(images, cuts, self.size), generator)
        features = restyled(self.eyes(grey), self.options.restyled, generator)
        features = tuple(dropped(x, self.options.channel_dropout, generator) for x in features)
        return HeadBatch(*features, cut_labels(images, cuts, self.size), images.family, twins)


def _some(group: Stored, rng: np.random.Generator, count: int) -> Stored:
    return group.picked(torch.from_numpy(rng.integers(len(group), size=count)).to(group.rgb.device))


def twins_of(cuts: Cuts, count: int, size: Size) -> Twins:
    """Of the last 2 count cuts: where the second half's cells lie in the first half's."""
    parts = [
        Cuts(cuts.linear[at], cuts.offset[at], cuts.log_zoom[at])
        for at in (slice(-2 * count, -count), slice(-count, None))
    ]
    middles = pixels(size, float(CELL), cuts.linear.device)
    there = parts[0].cut_px(parts[1].stored_px(middles))
    return Twins(grid_of(there, size), parts[0].log_zoom - parts[1].log_zoom)


@torch.no_grad()
def seen_whole(
    stored: Stored, eyes: Eyes, size: Size, colour: Callable[[Tensor], Tensor] | None = None
) -> Samples:
    """What the eyes see in each image as it is."""
    parts: list[list[np.ndarray]] = [[], [], []]
    shape = (stored.rgb.shape[3], stored.rgb.shape[2])
    for at in torch.arange(len(stored), device=stored.rgb.device).split(WHOLE_AT_ONCE):
        some = stored.picked(at)
        cuts = whole_cuts(len(at), shape, size).to(stored.rgb.device)
        rgb = cut_images(some, cuts, size)
        grey = rgb.mean(dim=1, keepdim=True) if colour is None else colour(rgb)
        found = [x.half().cpu().numpy() for x in eyes(grey)]
        found.append(cut_labels(some, cuts, size)[:, 0].cpu().numpy())
        for kept, one in zip(parts, found, strict=True):
            kept.append(one)
    return Samples(
        *(np.concatenate(part) for part in parts),
        stored.place.cpu().numpy(), stored.family.cpu().numpy(),
    )  # fmt: skip
