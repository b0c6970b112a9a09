"""`views` in torch, for a batch and for a GPU: the same surface, the same steps, one by one.

Names, conventions and constants are those of `views` and `pairs.warp_between`, which are the
readable twins: a test holds both to the same numbers. Tensors are (B, h, w); nothing here
waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.workshop.lifting.pairs import SAME_SURFACE_PX
from l2m_ros.workshop.lifting.views import (
    CUT,
    CUT_ABSOLUTE,
    CUT_RELATIVE,
    FAR_AWAY_PX,
    MAX_GROW_PX,
    MIN_Z,
    RESIDUAL_PX,
    STEPS,
    UNLABELLED,
)


@dataclass(frozen=True, eq=False)
class Reliefs:
    """A batch of lifted photographs."""

    inverse_depth: Tensor  # (B, h, w) float32 > 0
    K: Tensor  # (B, 3, 3)
    cells: Tensor  # (B, h, w) uint8 of CUT | UNLABELLED

    @classmethod
    def from_inverse_depth(cls, w: Tensor, K: Tensor, unlabelled: Tensor | None = None) -> Reliefs:
        right_below = F.pad(w[:, None], (0, 1, 0, 1), mode="replicate")
        highest = F.max_pool2d(right_below, 2, 1)[:, 0]
        lowest = -F.max_pool2d(-right_below, 2, 1)[:, 0]
        cells = (highest - lowest > CUT_RELATIVE * highest + CUT_ABSOLUTE).to(torch.uint8)
        if unlabelled is not None:
            touched = F.pad(unlabelled[:, None].float(), (0, 1, 0, 1))
            cells = cells | (F.max_pool2d(touched, 2, 1)[:, 0] > 0).to(torch.uint8) * UNLABELLED
        return cls(w, K, cells)


@dataclass(frozen=True, eq=False)
class Views:
    """A batch of `views.View`."""

    x: Tensor  # (B, H, W) pixel of the relief's grid
    y: Tensor
    inverse_depth: Tensor
    seen: Tensor  # bool, as the following
    painted: Tensor
    unlabelled: Tensor
    nearest: Tensor  # (B, H, W) z-buffer grown by a pixel; 0 where the camera only turned
    turned: Tensor  # (B, 1, 1) no translation: no parallax, no holes


def sample(image: Tensor, x: Tensor, y: Tensor, mode: str = "bilinear") -> Tensor:
    """(B, C, H, W) of (B, C, h, w) at pixels x, y; edges repeated."""
    height, width = image.shape[-2:]
    grid = torch.stack([x * (2 / (width - 1)) - 1, y * (2 / (height - 1)) - 1], -1)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=True)


def _sample1(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return sample(image[:, None], x, y)[:, 0]


def pixel_grid(like: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """u (1, 1, W) and v (1, H, 1)."""
    u = torch.arange(width, device=like.device, dtype=torch.float32)
    v = torch.arange(height, device=like.device, dtype=torch.float32)
    return u[None, None, :], v[None, :, None]


def _row(H: Tensor, i: int, u: Tensor, v: Tensor) -> Tensor:
    h = H[:, i, :, None, None]
    return h[:, 0] * u + h[:, 1] * v + h[:, 2]


def project(
    relief: Reliefs, u: Tensor, v: Tensor, w: Tensor, K: Tensor, T: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel and inverse depth in the views K, T = view_from_grid, of grid points."""
    H = K @ T[:, :3, :3] @ torch.linalg.inv(relief.K)
    e = (K @ T[:, :3, 3:])[..., None]  # (B, 3, 1, 1)
    z = _row(H, 2, u, v) + w * e[:, 2]
    front = z > MIN_Z
    over_z = torch.where(front, 1.0 / torch.where(front, z, 1.0), 0.0)
    x, y = ((_row(H, i, u, v) + w * e[:, i]) * over_z for i in (0, 1))
    far = FAR_AWAY_PX
    return (
        torch.where(front, x.clamp(-far, far), -far),
        torch.where(front, y.clamp(-far, far), -far),
        w * over_z,
    )


def inside_grid(relief: Reliefs, x: Tensor, y: Tensor) -> Tensor:
    height, width = relief.inverse_depth.shape[1:]
    return (x >= 0) & (x < width - 1) & (y >= 0) & (y < height - 1)


def cells_at(relief: Reliefs, x: Tensor, y: Tensor) -> Tensor:
    inside = inside_grid(relief, x, y)
    width = relief.cells.shape[2]
    cell = torch.where(inside, y, 0.0).long() * width + torch.where(inside, x, 0.0).long()
    flags = relief.cells.flatten(1).gather(1, cell.flatten(1)).view(cell.shape)
    return torch.where(inside, flags, CUT)


def render(relief: Reliefs, K: Tensor, T: Tensor, width: int, height: int) -> Views:
    """The views of cameras K (B, 3, 3) at T (B, 4, 4); items without translation only turn."""
    turned = ~(T[:, :3, 3] != 0).any(1)[:, None, None]
    start, nearest = _z_buffer(relief, K, T, width, height)
    x, y, z, omega = _trace(relief, K, T, start)
    omega = torch.where(turned, _sample1(relief.inverse_depth, x, y) * z, omega)
    cells = cells_at(relief, x, y)
    u, v = pixel_grid(x, width, height)
    back_x, back_y, _ = project(relief, x, y, _sample1(relief.inverse_depth, x, y), K, T)
    converged = torch.maximum((back_x - u).abs(), (back_y - v).abs()) < RESIDUAL_PX
    in_front = nearest <= omega * (1 + CUT_RELATIVE) + CUT_ABSOLUTE
    front = z > MIN_Z
    drawn = torch.where(turned, front, converged & in_front) & (cells & CUT == 0)
    inside = inside_grid(relief, x, y)
    painted = torch.where(turned, front & inside, drawn | ~_wide(~drawn) & inside)
    unlabelled = (torch.where(turned, front, drawn)) & (cells & UNLABELLED > 0)
    nearest = torch.where(turned, 0.0, nearest)
    return Views(x, y, omega, drawn & ~unlabelled, painted, unlabelled, nearest, turned)


def _grown(image: Tensor, by: int) -> Tensor:
    return F.max_pool2d(image[:, None], 2 * by + 1, 1, by)[:, 0]


def _wide(hole: Tensor) -> Tensor:
    """Holes without their parts of a pixel's width (morphological opening)."""
    eroded = -_grown(-hole.float(), 1)
    return _grown(eroded, 1) > 0


def _z_buffer(
    relief: Reliefs, K: Tensor, T: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    w = relief.inverse_depth
    batch, rows, columns = w.shape
    u, v = pixel_grid(w, columns, rows)
    x, y, omega = project(relief, u, v, w, K, T)
    inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5) & (omega > 0)
    slot = (y + 0.5).long() * width + (x + 0.5).long()
    slot = torch.where(inside, slot, width * height).flatten(1)  # one more slot for the rest
    nearest = w.new_zeros(batch, width * height + 1)
    nearest = nearest.scatter_reduce(1, slot, omega.flatten(1), "amax")
    nearest = nearest[:, :-1].view(batch, height, width)
    count = inside.flatten(1).sum(1).clamp(min=1)
    grow = (width * height / count).sqrt().ceil().clamp(1, MAX_GROW_PX).long()
    levels = torch.stack([_grown(nearest, by) for by in range(1, MAX_GROW_PX + 1)])
    grown = levels[grow - 1, torch.arange(batch, device=w.device)]
    return torch.where(grown > 0, grown, 1.0), levels[0]


def _trace(
    relief: Reliefs, K: Tensor, T: Tensor, start: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = start.shape[1:]
    u, v = pixel_grid(start, width, height)
    back = relief.K @ T[:, :3, :3].transpose(1, 2)
    H = back @ torch.linalg.inv(K)
    e = (-back @ T[:, :3, 3:])[..., None]
    hx, hy, hz = (_row(H, i, u, v) for i in range(3))
    omega = start
    previous: tuple[Tensor, Tensor] | None = None
    for step in range(STEPS):
        z = (hz + omega * e[:, 2]).clamp(min=MIN_Z)
        x, y = (hx + omega * e[:, 0]) / z, (hy + omega * e[:, 1]) / z
        if step == STEPS - 1:
            break
        error = _sample1(relief.inverse_depth, x, y) * z - omega
        fall = torch.ones_like(omega)
        if previous is not None:
            moved = omega - previous[0]
            safe = moved.abs() > 1e-7
            fall = (previous[1] - error) / torch.where(safe, moved, 1.0)
            fall = torch.where(safe, fall.clamp(0.3, 3.0), 1.0)
        previous = (omega, error)
        omega = (omega + error / fall).clamp(min=1e-4)
    return x, y, z, omega


def warp_between(
    relief: Reliefs, a: Views, b: Views, K_b: Tensor, b_from_grid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Warp (B, H, W, 2) of a's pixels into b, visible, unknown: as `pairs.warp_between`."""
    height, width = b.seen.shape[1:]
    w = _sample1(relief.inverse_depth, a.x, a.y)
    bx, by, omega = project(relief, a.x, a.y, w, K_b, b_from_grid)
    inside = (omega > 0) & (bx >= 0) & (bx <= width - 1) & (by >= 0) & (by <= height - 1)
    shown_px = torch.where(b.seen[:, None], torch.stack([b.x, b.y], 1), -FAR_AWAY_PX)
    shown = sample(shown_px, bx, by)
    off = torch.maximum((shown[:, 0] - a.x).abs(), (shown[:, 1] - a.y).abs())
    visible = inside & a.seen & (off < SAME_SURFACE_PX)
    near = torch.stack([b.nearest, b.painted.float()], 1)
    nearest, painted = sample(near, bx, by, "nearest").unbind(1)
    maybe = torch.where(b.turned, painted > 0, nearest <= 1.1 * omega + 0.05)
    unknown = inside & a.painted & ~visible & maybe
    return torch.stack([bx, by], -1), visible, unknown | a.unlabelled
