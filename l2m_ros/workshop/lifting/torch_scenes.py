"""Procedural depth and camera pairs for a whole batch at once, in torch.

The same kinds of scenes and motions as `procedural` and `motion`, drawn on the device: rooms,
streets and slopes are maxima of up to five planes; hills are a smooth field on top; objects in
front follow the photograph's colours. The draws differ from the NumPy path, their ranges do not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.workshop.lifting.motion import KINDS, LEAST_SHARE, PROBES, STRENGTHS, MotionRange
from l2m_ros.workshop.lifting.procedural import FARTHEST, NEAREST, STEEPEST
from l2m_ros.workshop.lifting.torch_views import Reliefs, pixel_grid, project

OBJECTS = 3
PLANES = 5
LAYOUT_CHANCES = (0.35, 0.25, 0.4)  # room, street, slope or hills


class Draws:
    """Random tensors of one generator on one device."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self.device = device
        self.generator = torch.Generator(device=device).manual_seed(seed)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def rotations(axis_angle: Tensor) -> Tensor:
    """(B, 4, 4) of rotation vectors (B, 3): Rodrigues' formula."""
    angle = axis_angle.norm(dim=1).clamp(min=1e-9)[:, None, None]
    x, y, z = (axis_angle / angle[:, 0]).unbind(1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).view(-1, 3, 3)
    eye = torch.eye(3, device=x.device)
    R = eye + angle.sin() * cross + (1 - angle.cos()) * (cross @ cross)
    T = torch.eye(4, device=x.device).repeat(len(x), 1, 1)
    T[:, :3, :3] = R
    return T


def centred(focal_px: Tensor, width: int, height: int) -> Tensor:
    K = torch.zeros(len(focal_px), 3, 3, device=focal_px.device)
    K[:, 0, 0] = K[:, 1, 1] = focal_px
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = (width - 1) / 2, (height - 1) / 2, 1.0
    return K


def inverse_depths(draws: Draws, rgb: Tensor, K: Tensor, strength: Tensor) -> Tensor:
    """(B, h, w) inverse depth of median 1 for photographs (B, 3, h, w) in [0, 1]."""
    batch, _, height, width = rgb.shape
    normals, near = _planes(draws, batch, strength)
    rows = (normals / near[..., None]) @ torch.linalg.inv(K)  # (B, PLANES, 3)
    u, v = pixel_grid(rgb, width, height)
    w = rgb.new_full((batch, height, width), 0.05)
    for i in range(PLANES):
        a, b, c = rows[:, i, :, None, None].unbind(1)
        w = torch.maximum(w, a * u + b * v + c)
    w = (w / _median(w)).clamp(max=STEEPEST)
    field = F.interpolate(draws.normal(batch, 1, 6, 8), (height, width), mode="bicubic")[:, 0]
    amount = 0.35 * strength * draws.uniform(batch) * (draws.uniform(batch) < 0.6)
    w = w * torch.exp(field * amount[:, None, None])
    for _ in range(OBJECTS):
        w = _with_object(draws, rgb, w, strength)
    return (w / _median(w)).clamp(FARTHEST, NEAREST)


def _median(w: Tensor) -> Tensor:
    return w[:, ::4, ::4].flatten(1).median(1).values[:, None, None]


def _planes(draws: Draws, batch: int, strength: Tensor) -> tuple[Tensor, Tensor]:
    """Normals (B, PLANES, 3) and distances (B, PLANES) of the faces around the camera."""
    kind = torch.multinomial(
        torch.tensor(LAYOUT_CHANCES, device=draws.device).expand(batch, -1),
        1,
        generator=draws.generator,
    )[:, 0]
    room, street = kind == 0, kind == 1
    faces = torch.tensor(
        [[0, 0, 1], [0, 1, 0], [0, -1, 0], [-1, 0, 0], [1, 0, 0.0]], device=draws.device
    )
    reach = 1.0 + torch.where(street, 9.0, 4.0) * strength * draws.uniform(batch) ** 1.5
    near = torch.stack(
        [
            torch.where(room | street, reach, 1.0),
            draws.uniform(batch, low=0.35, high=1.0),
            draws.uniform(batch, low=0.35, high=1.2),
            draws.uniform(batch, low=0.4, high=2.0),
            draws.uniform(batch, low=0.4, high=2.0),
        ],
        1,
    )
    # A street has no ceiling and one facade at most; a slope is its first face alone.
    facade = draws.uniform(batch, 2) < 0.35
    there = torch.stack(
        [torch.ones_like(room), room | street, room]
        + [room | street & facade[:, i] for i in (0, 1)],
        1,
    )
    limits = torch.where(room[:, None], 1.0, 0.5) * torch.tensor(
        [0.44, 0.78, 0.2], device=draws.device
    )
    tilt = draws.uniform(batch, 3, low=-1.0, high=1.0) * limits
    slope = draws.normal(batch, 3)
    slope[:, 2] = 0
    angle = math.radians(65) * strength * draws.uniform(batch)
    slope = slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-6) * angle[:, None]
    turn = torch.where((room | street)[:, None], tilt, slope)
    R = rotations(turn)[:, :3, :3]
    return faces @ R.transpose(1, 2), torch.where(there, near, 1e4)


def _with_object(draws: Draws, rgb: Tensor, w: Tensor, strength: Tensor) -> Tensor:
    """Something in front, on a plane of its own: like colours near a point, or an ellipse."""
    batch, height, width = w.shape
    u, v = pixel_grid(w, width, height)
    seed = draws.uniform(batch, 2)[..., None, None]
    at_u, at_v = seed[:, 0] * (width - 1), seed[:, 1] * (height - 1)
    turn = draws.uniform(batch, 1, 1, high=math.pi)
    axes = draws.uniform(batch, 2, low=0.05, high=0.3)[..., None, None] * width
    du, dv = u - at_u, v - at_v
    across = (du * turn.cos() + dv * turn.sin()) / axes[:, 0]
    along = (dv * turn.cos() - du * turn.sin()) / axes[:, 1]
    ellipse = across**2 + along**2 < 1
    smooth = F.avg_pool2d(rgb, 7, 1, 3)
    index = (at_v.long() * width + at_u.long()).view(batch, 1, 1).expand(-1, 3, 1)
    colour = smooth.flatten(2).gather(2, index)[..., None]
    tolerance = draws.uniform(batch, 1, 1, low=0.04, high=0.18)
    alike = ((smooth - colour).abs().amax(1) < tolerance) & (across**2 + along**2 < 6)
    alike = F.avg_pool2d(alike[:, None].float(), 9, 1, 4)[:, 0] > 0.5
    mask = torch.where(draws.uniform(batch, 1, 1) < 0.65, alike, ellipse)
    area = mask.flatten(1).float().mean(1)[:, None, None]
    wanted = draws.uniform(batch, 1, 1) < 0.6
    mask &= (area > 0.004) & (area < 0.45) & wanted
    behind = (w * mask).flatten(1).amax(1)[:, None, None]
    level = behind * (1.02 + (1.2 * strength * draws.uniform(batch) ** 2)[:, None, None])
    tilt = draws.normal(batch, 2)[..., None, None] * (0.3 * strength / width)[:, None, None, None]
    front = level.clamp(max=NEAREST) * (1 + tilt[:, 0] * du + tilt[:, 1] * dv)
    return torch.where(mask, torch.maximum(front, w), w)


def camera_pairs(
    draws: Draws, relief: Reliefs, width: int, height: int, motion: MotionRange, difficulty: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """K_a, K_b (B, 3, 3), a_from_grid, b_from_grid (B, 4, 4), overlap (B,)."""
    K_a, a_from_grid = _first(draws, relief, width, height, motion, difficulty)
    least = motion.least_overlap + (0.8 - motion.least_overlap) * (1 - difficulty)
    wanted = least + (1 - least) * draws.uniform(len(difficulty))
    move = _move(draws, relief, K_a, a_from_grid, width, height, motion, difficulty)
    candidates = [_moved(K_a, a_from_grid, move, strength) for strength in STRENGTHS]
    overlaps = torch.stack(
        [_overlap(relief, K_a, a_from_grid, K_b, T, width, height) for K_b, T in candidates]
    )
    best = (overlaps - wanted).abs().argmin(0)
    item = torch.arange(len(best), device=best.device)
    K_b = torch.stack([K for K, _ in candidates])[best, item]
    b_from_grid = torch.stack([T for _, T in candidates])[best, item]
    return K_a, K_b, a_from_grid, b_from_grid, overlaps[best, item]


def _first(
    draws: Draws, relief: Reliefs, width: int, height: int, motion: MotionRange, hard: Tensor
) -> tuple[Tensor, Tensor]:
    batch, rows, columns = relief.inverse_depth.shape
    fit = min(columns / width, rows / height) * draws.uniform(batch, low=0.45, high=1.0)
    K = centred(relief.K[:, 0, 0] / fit, width, height)
    size = torch.tensor([columns, rows], device=fit.device)
    view = torch.tensor([width, height], device=fit.device) * fit[:, None]
    aim = draws.uniform(batch, 2, low=-1.0) * ((size - view) / 2).clamp(min=0)
    ray = F.pad(aim / relief.K[:, :1, 0], (0, 1), value=1.0)
    ray = ray / ray.norm(dim=1, keepdim=True)
    axis = torch.stack([ray[:, 1], -ray[:, 0], torch.zeros_like(ray[:, 0])], 1)
    sine = axis.norm(dim=1, keepdim=True).clamp(min=1e-9)
    look = rotations(axis / sine * torch.atan2(sine, ray[:, 2:]))
    most = math.radians(motion.roll_deg) * (0.15 + 0.85 * hard) * 0.3
    roll = F.pad((draws.uniform(batch, low=-1.0) * most)[:, None], (2, 0))
    return K, rotations(roll) @ look


Move = dict[str, Tensor]


def _move(
    draws: Draws,
    relief: Reliefs,
    K_a: Tensor,
    a_from_grid: Tensor,
    width: int,
    height: int,
    motion: MotionRange,
    hard: Tensor,
) -> Move:
    batch = len(hard)
    chances = torch.tensor(list(KINDS.values()), device=hard.device).expand(batch, -1)
    kind = torch.multinomial(chances, 1, generator=draws.generator)[:, 0]
    orbit, free = kind == 0, kind == 1
    most = math.radians(motion.rotation_deg) * (0.22 + 0.78 * hard)
    axis = draws.normal(batch, 3)
    axis[:, 2] *= draws.uniform(batch) < 0.5
    angle = most * draws.uniform(batch).sqrt() * torch.where(orbit, 1.0, 0.6)
    turn = axis / axis.norm(dim=1, keepdim=True).clamp(min=1e-9) * angle[:, None]
    roll = math.radians(motion.roll_deg) * (0.15 + 0.85 * hard) * draws.uniform(batch, low=-1.0)
    turn[:, 2] += roll * (draws.uniform(batch) < 0.4)
    turn = turn * (most / turn.norm(dim=1).clamp(min=1e-9)).clamp(max=1)[:, None]
    sign = torch.where(draws.uniform(batch) < 0.5, -1.0, 1.0)
    log_zoom = math.log(motion.zoom) * (0.15 + 0.85 * hard) * draws.uniform(batch) ** 1.5 * sign
    walked = draws.uniform(batch) * orbit
    step = draws.normal(batch, 3) * torch.tensor([1, 0.6, 1], device=hard.device)
    length = motion.translation * (0.2 + 0.8 * hard) * draws.uniform(batch) ** 0.7 * free
    size = torch.tensor([width, height], device=hard.device)
    pixel = size * (0.5 + draws.uniform(batch, 2, low=-0.25, high=0.25))
    return {
        "turn": turn,
        "orbit": orbit,
        "pivot": _pivot(relief, K_a, a_from_grid, pixel),
        "aim": draws.uniform(batch, 2, low=-0.25, high=0.25) * size,
        "log_zoom": log_zoom * (1 - walked),
        "log_nearer": log_zoom * walked,
        "step": step * (length / step.norm(dim=1).clamp(min=1e-9))[:, None],
    }


def _pivot(relief: Reliefs, K_a: Tensor, a_from_grid: Tensor, pixel: Tensor) -> Tensor:
    """(B, 3) the surface behind a pixel of a, in a's camera."""
    rows, columns = relief.inverse_depth.shape[1:]
    R = a_from_grid[:, :3, :3]
    homogeneous = F.pad(pixel, (0, 1), value=1.0)[..., None]
    ray = R.transpose(1, 2) @ torch.linalg.inv(K_a) @ homogeneous
    ray = ray / ray[:, 2:].clamp(min=1e-6)
    at = (relief.K @ ray)[:, :2, 0]
    column, row = at[:, 0].clamp(0, columns - 1).long(), at[:, 1].clamp(0, rows - 1).long()
    w = relief.inverse_depth[torch.arange(len(at), device=at.device), row, column]
    return (R @ ray)[..., 0] / w[:, None]


def _moved(K_a: Tensor, a_from_grid: Tensor, move: Move, strength: float) -> tuple[Tensor, Tensor]:
    K_b = K_a.clone()
    zoom = torch.exp(strength * move["log_zoom"])
    K_b[:, 0, 0] *= zoom
    K_b[:, 1, 1] *= zoom
    T = rotations(strength * move["turn"])
    R, pivot = T[:, :3, :3], move["pivot"]
    stepped = -(R @ (strength * move["step"])[..., None])[..., 0]
    in_a = (K_a @ pivot[..., None])[..., 0]
    at = in_a[:, :2] / pivot[:, 2:] + strength * move["aim"]
    distance = pivot[:, 2] * torch.exp(-strength * move["log_nearer"])
    ray = torch.linalg.inv(K_b) @ F.pad(at, (0, 1), value=1.0)[..., None]
    orbited = ray[..., 0] * distance[:, None] - (R @ pivot[..., None])[..., 0]
    T[:, :3, 3] = torch.where(move["orbit"][:, None], orbited, stepped)
    return K_b, T @ a_from_grid


def _overlap(
    relief: Reliefs,
    K_a: Tensor,
    a_from_grid: Tensor,
    K_b: Tensor,
    T: Tensor,
    width: int,
    height: int,
) -> Tensor:
    """(B,) geometric mean of the shares that each view sees of the other, by probes."""
    columns, rows = PROBES
    device = K_a.device
    u = (torch.arange(columns, device=device) + 0.5) * width / columns
    v = (torch.arange(rows, device=device) + 0.5) * height / rows
    v, u = torch.meshgrid(v, u, indexing="ij")
    rays = torch.stack([u.flatten(), v.flatten(), torch.ones(u.numel(), device=device)])
    s = relief.K @ a_from_grid[:, :3, :3].transpose(1, 2) @ torch.linalg.inv(K_a) @ rays
    x, y = (s[:, i] / s[:, 2].clamp(min=1e-6) for i in (0, 1))
    h, w = relief.inverse_depth.shape[1:]
    inside = (x >= 0) & (x <= w - 1) & (y >= 0) & (y <= h - 1)
    cell = y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()
    depth = relief.inverse_depth.flatten(1).gather(1, cell)[:, None]
    bx, by, omega = (part[:, 0] for part in project(relief, x[:, None], y[:, None], depth, K_b, T))
    lands = inside & (omega > 0) & (bx >= 0) & (bx < width) & (by >= 0) & (by < height)
    share_ab = lands.float().mean(1)
    slot = (by * 6 / height).long().clamp(0, 5) * 8 + (bx * 8 / width).long().clamp(0, 7)
    hit = torch.zeros(len(bx), 49, device=device)
    hit.scatter_(1, torch.where(lands, slot, 48), 1.0)
    share_ba = hit[:, :48].mean(1)
    spans = [
        torch.where(lands, c, -1e9).amax(1) - torch.where(lands, c, 1e9).amin(1) for c in (bx, by)
    ]
    box = (spans[0] / width + 1 / 8) * (spans[1] / height + 1 / 6)
    zoomed = (share_ab > 0) & (share_ab < 0.25)
    share_ba = torch.where(zoomed, torch.maximum(share_ba, box.clamp(0, 1)), share_ba)
    enough = torch.minimum(share_ab, share_ba) >= LEAST_SHARE
    return torch.where(enough, (share_ab * share_ba).clamp(min=0).sqrt(), 0.0)
