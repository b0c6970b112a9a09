"""Rolled cameras: of some pairs of every batch the query is turned in its plane, with its truth.

    batches = RolledBatches(batches, (RollShare(0.25, 180.0), RollShare(0.25, 60.0)))

Whatever the pairs come from and wherever they are made. Draws follow from (seed, step) alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import FloatArray
from l2m_ros.workshop.training.data import Batch, Schedule, SizeShare

TORN_PX = 3.0  # the truth's neighbours lie further apart than that from each other: a depth edge


@dataclass(frozen=True)
class RollShare:
    """A share of the pairs, and how far their queries are rolled to either side."""

    share: float
    degrees: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.share <= 1.0 and 0.0 < self.degrees <= 180.0):
            raise InvalidInput(
                "rolls: a share lies in [0, 1] and degrees in (0, 180], "
                f"got {self.share} and {self.degrees}"
            )


def check_shares(rolls: tuple[RollShare, ...]) -> None:
    if sum(roll.share for roll in rolls) > 1.0 + 1e-9:
        raise InvalidInput("rolls: the shares add up to more than 1")


class RolledBatches(Schedule):
    """The batches of `schedule`; shares of their pairs are rolled."""

    def __init__(self, schedule: Schedule, rolls: tuple[RollShare, ...]) -> None:
        super().__init__(schedule.sizes, schedule.seed, schedule.both_ways)
        self.schedule, self.rolls = schedule, rolls

    def size_of(self, step: int) -> SizeShare:
        return self.schedule.size_of(step)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Batch:
        batch = self.schedule.batch(step, rank=rank, count=count, difficulty=difficulty)
        part = len(batch.query)
        angle, zoom = self._draws(step, part * count, batch.query.shape[-1] / batch.query.shape[-2])
        mine = slice(rank * part, (rank + 1) * part)
        return rolled(batch, angle[mine], zoom[mine])

    def _draws(self, step: int, pairs: int, shape: float) -> tuple[FloatArray, FloatArray]:
        """Radians and zoom of every pair of the whole batch; most have 0 and 1."""
        rng = np.random.default_rng((self.seed, 91, step))
        edges = np.cumsum([roll.share for roll in self.rolls])
        kind = np.searchsorted(edges, rng.random(pairs), side="right")
        most = np.array([*(roll.degrees for roll in self.rolls), 0.0])[kind]
        angle = np.deg2rad(most * rng.uniform(-1, 1, pairs))
        # From the whole image, with corners that show nothing known, to a view without those.
        return angle, covering(angle, shape) ** rng.random(pairs)


def covering(angle: FloatArray, shape: float) -> FloatArray:
    """The zoom at which a rolled view of width = shape * height stays within the image."""
    c, s = np.abs(np.cos(angle)), np.abs(np.sin(angle))
    zoom: FloatArray = np.maximum(c + s / shape, c + s * shape)
    return zoom


def rolled(batch: Batch, angle: FloatArray, zoom: FloatArray) -> Batch:
    """The queries turned by `angle` (radians, (B,)) about their middle and zoomed.

    Corners beyond the image are mirrored and have no verdict.
    """
    turned = np.flatnonzero((angle != 0) | (zoom != 1))
    if not len(turned):
        return batch
    rows = torch.from_numpy(turned).to(batch.query.device)
    moved = _Similarity(batch.query, angle[turned], zoom[turned])
    pairs = len(batch.query)
    warp, visible, ignored = (
        value.clone() for value in (batch.warp_px, batch.visible, batch.ignored)
    )
    warp[rows], visible[rows], ignored[rows] = moved.pulled(
        warp[rows], visible[rows], ignored[rows]
    )
    if len(warp) > pairs:  # the other direction: keyframes that look for rolled queries
        back = rows + pairs
        warp[back], there = moved.pushed(warp[back])
        # What leaves the image is not seen any more; what was hidden may show in no corner.
        ignored[back] &= there
        visible[back] &= there
    query = batch.query.clone()
    query[rows] = moved.image(query[rows])
    return replace(batch, query=query, warp_px=warp, visible=visible, ignored=ignored)


class _Similarity:
    """new_from_old of pixels about the middle of images like these; angle, zoom (N,) of each."""

    def __init__(self, images: Tensor, angle: FloatArray, zoom: FloatArray) -> None:
        self.height, self.width = images.shape[-2:]

        def column(values: FloatArray) -> Tensor:
            return torch.from_numpy(values).to(images)[:, None, None]

        self.c, self.s = column(np.cos(angle) * zoom), column(np.sin(angle) * zoom)
        y, x = torch.meshgrid(
            torch.arange(self.height, dtype=images.dtype, device=images.device),
            torch.arange(self.width, dtype=images.dtype, device=images.device),
            indexing="ij",
        )
        u, v = x - (self.width - 1) / 2, y - (self.height - 1) / 2
        square = column(zoom**2)
        old_x = (self.c * u + self.s * v) / square + (self.width - 1) / 2
        old_y = (self.c * v - self.s * u) / square + (self.height - 1) / 2
        self.known = self._inside(old_x, old_y)[:, None]
        self.grid = torch.stack(
            [(2 * old_x + 1) / self.width - 1, (2 * old_y + 1) / self.height - 1], dim=-1
        )

    def _inside(self, x: Tensor, y: Tensor) -> Tensor:
        return (x >= 0) & (x <= self.width - 1) & (y >= 0) & (y <= self.height - 1)

    def _at(self, values: Tensor, mode: str = "bilinear", padding: str = "border") -> Tensor:
        return F.grid_sample(
            values, self.grid, mode=mode, padding_mode=padding, align_corners=False
        )

    def image(self, images: Tensor) -> Tensor:
        return self._at(images, padding="reflection").clamp(0.0, 1.0)

    def pulled(self, warp: Tensor, visible: Tensor, ignored: Tensor) -> tuple[Tensor, ...]:
        """(warp, visible, ignored) of the rolled images' own pixels."""
        # The truth of a pixel between four is that of all of them, or there is none.
        near, mixed = self._at(warp, "nearest"), self._at(warp)
        torn = (near - mixed).abs().amax(1, keepdim=True) > TORN_PX
        seen = self.known & ~torn & (self._at(visible.float()) > 0.999)
        hidden = self.known & (self._at((~visible & ~ignored).float()) > 0.999)
        return mixed, seen, ~seen & ~hidden

    def pushed(self, warp: Tensor) -> tuple[Tensor, Tensor]:
        """Where pixels of the images before lie now, and whether that is in the image."""
        u = warp[:, 0] - (self.width - 1) / 2
        v = warp[:, 1] - (self.height - 1) / 2
        x = self.c * u - self.s * v + (self.width - 1) / 2
        y = self.s * u + self.c * v + (self.height - 1) / 2
        moved = torch.stack([x, y], dim=1).clamp(-1e4, 1e4)
        return moved, self._inside(x, y)[:, None]
