"""`labels.label_between` for a batch in torch: the same rules, where the tensors lie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.workshop.gaussians.labels import HIDDEN, JUMP, OUTSIDE_PX, SAME_SURFACE


def labels_between(
    depth_a: Tensor,
    K_a: Tensor,
    b_from_a: Tensor,
    depth_b: Tensor,
    K_b: Tensor,
    sure_a: Tensor,
    sure_b: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Warp (B, H, W, 2) in px of b, visible and unknown (B, H, W).

    Depths (B, H, W) with 0 = unknown, K (B, 3, 3), b_from_a (B, 4, 4), `sure` (B, H, W) bool.
    """
    known = depth_a > 0
    height, width = depth_b.shape[1:]
    warp, z = moved_pixels(torch.where(known, depth_a, 1.0), K_a, b_from_a, K_b)
    front = z > 1e-6
    warp = torch.where((front & known)[..., None], warp.clamp(-OUTSIDE_PX, OUTSIDE_PX), OUTSIDE_PX)
    x, y = warp.unbind(-1)
    inside = known & front & (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    shown = depth_at(depth_b, warp, inside)
    ratio = torch.where(shown > 0, shown, torch.inf) / torch.where(front, z, 1.0) - 1
    visible = inside & (shown > 0) & (ratio.abs() < SAME_SURFACE) & ~at_jump(depth_a)
    at = (torch.where(inside, y, 0.0).round() * width + torch.where(inside, x, 0.0).round()).long()
    visible &= sure_a & sure_b.flatten(1).gather(1, at.flatten(1)).view(at.shape)
    hidden = (known & ~inside) | (inside & (shown > 0) & (ratio < -HIDDEN))
    return warp, visible, ~visible & ~hidden


def moved_pixels(
    depth: Tensor, K_a: Tensor, b_from_a: Tensor, K_b: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, H, W, 2) where a's pixels lie in b and (B, H, W) their depth there."""
    height, width = depth.shape[1:]
    v, u = torch.meshgrid(
        torch.arange(height, device=depth.device, dtype=depth.dtype),
        torch.arange(width, device=depth.device, dtype=depth.dtype),
        indexing="ij",
    )
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).view(1, -1, 3)
    # Sums of three terms, not a matrix product: a GPU may round those to ten bits.
    into_b = _times(K_b, b_from_a[:, :3, :3])
    rays = _applied(_times(into_b, torch.linalg.inv(K_a)), pixels)
    shift = _applied(K_b, b_from_a[:, None, :3, 3])
    points = rays * depth.flatten(1)[..., None] + shift
    z = points[..., 2:]
    warp = points[..., :2] / torch.where(z > 1e-6, z, 1.0)
    return warp.unflatten(1, (height, width)), z[..., 0].unflatten(1, (height, width))


def _times(one: Tensor, other: Tensor) -> Tensor:
    """(B, 3, 3) of two (B, 3, 3)."""
    return (one[:, :, :, None] * other[:, None]).sum(dim=2)


def _applied(matrix: Tensor, points: Tensor) -> Tensor:
    """(B, N, 3) of (B, 3, 3) and (B or 1, N, 3)."""
    return (matrix[:, None] * points[:, :, None, :]).sum(dim=-1)


def depth_at(depth: Tensor, px: Tensor, inside: Tensor) -> Tensor:
    """(B, H, W) depth at pixels; inverse depth is interpolated, 0 where that joins two surfaces."""
    batch, height, width = depth.shape
    x, y = (torch.where(inside, coordinate, 0.0) for coordinate in px.unbind(-1))
    column = x.long().clamp(max=width - 2)
    row = y.long().clamp(max=height - 2)
    fx, fy = x - column, y - row
    known = depth > 0
    inverse = torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0).view(batch, -1)
    at = (row * width + column).view(batch, -1)
    a, b, c, d = (inverse.gather(1, at + step).view(x.shape) for step in (0, 1, width, width + 1))
    low = torch.minimum(torch.minimum(a, b), torch.minimum(c, d))
    high = torch.maximum(torch.maximum(a, b), torch.maximum(c, d))
    value = (a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy
    whole = inside & (low > 0) & (high < (1 + HIDDEN) * low)
    return torch.where(whole, 1.0 / torch.where(whole, value, 1.0), 0.0)


def at_jump(depth: Tensor) -> Tensor:
    """(B, H, W): the pixel or a neighbour lies on a depth jump, or next to unknown depth."""
    known = depth > 0
    inverse = torch.where(known, 1.0 / torch.where(known, depth, 1.0), 0.0)
    bend = torch.zeros_like(inverse)
    across = (inverse[:, :, 2:] + inverse[:, :, :-2] - 2 * inverse[:, :, 1:-1]).abs()
    down = (inverse[:, 2:] + inverse[:, :-2] - 2 * inverse[:, 1:-1]).abs()
    bend[:, :, 1:-1] = across
    bend[:, 1:-1] = torch.maximum(bend[:, 1:-1], down)
    jump = ~known | (bend > JUMP * inverse)
    return F.max_pool2d(jump[:, None].float(), 3, 1, 1)[:, 0] > 0
