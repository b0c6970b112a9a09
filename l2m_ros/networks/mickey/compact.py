"""The compact metric network: corners and gradients that are given, depth that is learnt.

    keypoint      the corner of each 8x8 cell (a mean over the cell), moved by what is learnt
    descriptor    RootSIFT's layout sampled at the keypoint, the image's mean taken off, beside
                  what is learnt (from zero)
    score         the corner's strength times what is learnt
    depth         log of depth over focal length, so that one network serves any camera

So it matches before its first step, and a relative pose teaches it what nothing else does: metres.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.shared.residual import Residual

CELL = 8
BORDER = 1  # cells along each side whose keypoints are never drawn
ORIENTATIONS = 8
BINS = 4  # of the descriptor, along each side
BIN_PX = 5.0
CORNER_TEMPERATURE = 0.1  # of the mean over a cell, in units of its largest response
LOG_DEPTH = (-9.0, 2.0)  # of depth over focal length in pixels: 0.02 m to 1.6 km at 220 px
FIRST_LOG_DEPTH = -4.3  # 3 m at 220 px
NOISE = 0.02  # grey differences below it (of the image's deviation) are noise, not edges


def standardised(image: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> (B, 3, H, W) of mean 0; grey first, of deviation 1."""
    red, green, blue = image.float().split(1, dim=1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    grey = grey - grey.mean(dim=(2, 3), keepdim=True)
    scale = 1.0 / ((grey * grey).mean(dim=(2, 3), keepdim=True) + 1e-4).sqrt()
    return torch.cat([grey, red - green, blue - 0.5 * (red + green)], dim=1) * scale


class Gradients(nn.Module):
    """Grey -> slopes (B, 2, H, W) by a small derivative filter; nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        smooth, slope = torch.tensor([3.0, 10.0, 3.0]) / 16, torch.tensor([-1.0, 0.0, 1.0]) / 2
        dx = smooth[:, None] * slope[None]
        self.register_buffer("filters", torch.stack([dx, dx.T])[:, None], persistent=False)
        angle = torch.arange(ORIENTATIONS) * (2 * math.pi / ORIENTATIONS)
        steer = torch.stack([angle.cos(), angle.sin()], dim=1)
        self.register_buffer("steer", 2 * steer[:, :, None, None], persistent=False)

    def forward(self, grey: Tensor) -> Tensor:
        return F.conv2d(F.pad(grey, (1, 1, 1, 1), mode="replicate"), self.filters)

    def energy(self, slope: Tensor) -> Tensor:
        """(B, 8, H, W): how much of the slope points each way, lobes of 60 degrees."""
        size = ((slope * slope).sum(dim=1, keepdim=True) + NOISE**2).sqrt()
        return F.relu(F.conv2d(slope, self.steer) - size)


def corners(slope: Tensor) -> Tensor:
    """(B, 1, H, W): harmonic mean of the two eigenvalues of the structure tensor, 5x5 px."""
    xx, yy, xy = (
        F.avg_pool2d(part, 5, 1, 2)
        for part in (slope[:, :1] ** 2, slope[:, 1:] ** 2, slope[:, :1] * slope[:, 1:])
    )
    return (xx * yy - xy * xy) / (xx + yy + 1e-3)


class Context(nn.Module):
    """(B, 5, H, W) -> (B, C, H/8, W/8), each cell knowing the whole image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.enter = nn.Conv2d(5, half // 2, 4, stride=2, padding=1)
        self.to4 = nn.Conv2d(half // 2, half, 4, stride=2, padding=1)
        self.to8 = nn.Conv2d(half, width, 4, stride=2, padding=1)
        self.at8 = Residual(width)
        self.to16 = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.at16 = nn.Sequential(Residual(width), Residual(width))
        self.to32 = nn.Conv2d(width, width, 4, stride=2, padding=1)
        self.at32 = nn.Sequential(Residual(width), Residual(width))
        self.whole = nn.Linear(width, width)
        self.back16 = nn.Conv2d(2 * width, width, 1)
        self.back8 = nn.Conv2d(2 * width, width, 1)
        self.last = Residual(width)

    def forward(self, planes: Tensor) -> Tensor:
        fine = F.relu(self.to4(F.relu(self.enter(planes))))
        eight = self.at8(F.relu(self.to8(fine)))
        sixteen = self.at16(F.relu(self.to16(eight)))
        coarse = self.at32(F.relu(self.to32(sixteen)))
        coarse = coarse + self.whole(coarse.mean(dim=(2, 3)))[:, :, None, None]
        sixteen = F.relu(self.back16(torch.cat([sixteen, _like(coarse, sixteen)], dim=1)))
        eight = F.relu(self.back8(torch.cat([eight, _like(sixteen, eight)], dim=1)))
        return self.last(eight)


def _like(image: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(image, size=other.shape[-2:], mode="bilinear", align_corners=False)


class CompactExtractor(nn.Module):
    """Image -> what each cell's keypoint is, under the names that MicKey's heads have."""

    def __init__(self, width: int, learnt: int) -> None:
        super().__init__()
        self.gradients = Gradients()
        self.context = Context(width)
        self.depth = nn.Conv2d(width, 2, 1)  # log of depth over focal, log of its own error
        self.offset = nn.Conv2d(width, 2, 1)
        self.score = nn.Conv2d(width, 1, 1)
        self.described = nn.Conv2d(width, learnt, 1)
        for head in (self.depth, self.offset, self.score, self.described):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.depth.bias[:1], FIRST_LOG_DEPTH)
        nn.init.constant_(self.depth.bias[1:], -0.7)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        _check_size(image)
        with torch.autocast(image.device.type, enabled=False):
            planes = standardised(image)
            slope = self.gradients(planes[:, :1])
            response = corners(slope)
            inner, strength = corner_places(response)
        context = self.context(torch.cat([planes, _places(planes)], dim=1)).float()
        with torch.autocast(image.device.type, enabled=False):
            return self._read(slope, inner, strength, context)

    def _read(
        self, slope: Tensor, inner: Tensor, strength: Tensor, context: Tensor
    ) -> dict[str, Tensor]:
        offset = (inner + 0.25 * torch.tanh(self.offset(context))).clamp(0.0, 1.0)
        points = cell_points(offset)
        raw = self.depth(context)
        given = root_sift(self.gradients.energy(slope), points)
        described = torch.cat([given, self.described(context).flatten(2)], dim=1)
        return {
            "keypoints": points,
            "depth": torch.exp(raw[:, :1].clamp(*LOG_DEPTH)).flatten(2),
            "depth_log_sigma": raw[:, 1:].clamp(-4.0, 1.0).flatten(2),
            "score": likelihood(strength, self.score(context)).flatten(2),
            "descriptors": described / (described.square().sum(1, keepdim=True) + 1e-6).sqrt(),
        }


def _check_size(image: Tensor) -> None:
    height, width = image.shape[-2:]
    if height % 32 or width % 32:
        raise InvalidInput(
            f"the compact metric network takes heights and widths that are multiples of 32, got "
            f"{width}x{height}: resize first"
        )


def _places(planes: Tensor) -> Tensor:
    """(B, 2, H, W): x and y in [-1, 1]; floors lie below."""
    height, width = planes.shape[-2:]
    y = torch.linspace(-1, 1, height, device=planes.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=planes.device).expand(height, width)
    return torch.stack([x, y]).expand(len(planes), 2, height, width)


def corner_places(response: Tensor) -> tuple[Tensor, Tensor]:
    """Each cell's corner (B, 2, h, w), x and y in [0, 1] of the cell, and its strength."""
    parts = F.pixel_unshuffle(response, CELL)  # (B, 64, h, w), row-major within a cell
    strength = parts.amax(dim=1, keepdim=True)
    share = (parts / (CORNER_TEMPERATURE * strength + 1e-6)).softmax(dim=1)
    at = (torch.arange(CELL, device=response.device) + 0.5) / CELL
    grid = torch.stack([at.repeat(CELL), at.repeat_interleave(CELL)])  # (2, 64): x, y
    place = (share[:, None] * grid[None, :, :, None, None]).sum(dim=2)
    return place, strength


def cell_points(offset: Tensor) -> Tensor:
    """(B, 2, h, w) places in cells -> (B, 2, n) px, centres at integers."""
    rows, columns = offset.shape[-2:]
    x = torch.arange(columns, device=offset.device).to(offset).expand(rows, columns)
    y = torch.arange(rows, device=offset.device).to(offset)[:, None].expand(rows, columns)
    return ((offset + torch.stack([x, y])) * CELL - 0.5).flatten(2)


def likelihood(strength: Tensor, learnt: Tensor) -> Tensor:
    """(B, 1, h, w), sum 1: the root of the corner's strength times exp of what is learnt."""
    rows, columns = strength.shape[-2:]
    inner = torch.ones(rows - 2 * BORDER, columns - 2 * BORDER, device=strength.device)
    likely = (strength.clamp_min(0) + 1e-6).sqrt() * torch.exp(learnt.clamp(-6.0, 6.0))
    likely = likely * F.pad(inner, [BORDER] * 4)
    return likely / (likely.sum(dim=(2, 3), keepdim=True) + 1e-12)


def root_sift(energy: Tensor, points: Tensor) -> Tensor:
    """(B, 8, H, W), (B, 2, n) px -> (B, 128, n) of length about 1, the image's mean taken off."""
    batch, _, count = points.shape
    height, width = energy.shape[-2:]
    # Half the size: a fifth of the time, and each bin is 5 px wide anyway.
    blurred = F.avg_pool2d(F.avg_pool2d(energy, 4, 2, 1), 3, 1, 1)
    at = (torch.arange(BINS, device=points.device) - (BINS - 1) / 2) * BIN_PX
    shift = torch.stack([at.repeat(BINS), at.repeat_interleave(BINS)])  # (2, 16)
    where = points.permute(0, 2, 1)[:, :, None] + shift.T  # (B, n, 16, 2) px
    size = torch.tensor([width, height], device=points.device)
    grid = (2.0 * where + 1.0) / size - 1.0
    sampled = F.grid_sample(
        blurred, grid.to(blurred), mode="bilinear", padding_mode="zeros", align_corners=False
    )  # (B, 8, n, 16)
    parts = sampled.permute(0, 1, 3, 2).reshape(batch, -1, count)
    parts = (parts / (parts.sum(dim=1, keepdim=True) + 1e-3) + 1e-6).sqrt()
    parts = parts - parts.mean(dim=2, keepdim=True)
    return parts / (parts.square().sum(dim=1, keepdim=True) + 1e-3).sqrt()
