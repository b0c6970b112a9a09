"""How well features find their own point again: the nearest neighbour over a change of view.

Every cell of image a whose middle image b shows as well looks for the most alike cell (cosine)
among all cells of b. Right within 1 or 2 cells: distance of the middles, in cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.se3 import angles_rad
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.encoder.lifted_views import PROCEDURAL, orbit, relief_of, view_of
from l2m_ros.workshop.encoder.patch_encoders import FeatureMap
from l2m_ros.workshop.encoder.photographs import Photograph
from l2m_ros.workshop.gaussians.labels import label_between
from l2m_ros.workshop.gaussians.sources import load_captures
from l2m_ros.workshop.lifting.depth import DepthSource
from l2m_ros.workshop.lifting.pairs import warp_between
from l2m_ros.workshop.lifting.sky import sky_by_rule
from l2m_ros.workshop.lifting.views import BoolArray, render

ANGLES_DEG = (10.0, 30.0, 60.0)
WITHIN_CELLS = (1.0, 2.0)
TOLERANCE = 0.2  # of the angle, for pairs of a recording
LEAST_SHARED = 0.1  # share of a's pixels that b shows
FIELD_OF_VIEW_DEG = (60.0, 60.0)

FeaturesOf = Callable[[ByteArray], FeatureMap]


@dataclass(frozen=True, eq=False)
class ViewChange:
    """Two images of a scene and where each pixel of a lies in b."""

    rgb_a: ByteArray
    rgb_b: ByteArray
    warp_px: FloatArray  # (H, W, 2)
    visible: BoolArray  # (H, W)


def lifted_changes(
    photographs: Sequence[Photograph],
    angle_deg: float,
    size: tuple[int, int],
    *,
    depth: DepthSource = PROCEDURAL,
    seed: int = 0,
) -> Iterator[ViewChange]:
    """Each photograph beside itself seen from `angle_deg` aside; (width, height) images."""
    for index, photograph in enumerate(photographs):
        rng = np.random.default_rng((seed, index))
        rgb = _of_shape(photograph.rgb(2 * max(size)), *size)
        relief = relief_of(rng, rgb, photograph.name, FIELD_OF_VIEW_DEG, depth, sky_by_rule)
        azimuth = rng.uniform(0, 2 * np.pi)
        T = orbit(relief, angle_deg, azimuth)
        b = render(relief, relief.K, T, *size)
        a = render(relief, relief.K, np.eye(4), *size)
        warp, visible, _ = warp_between(relief, a, b, relief.K, T)
        if visible.mean() >= LEAST_SHARED:
            yield ViewChange(rgb, view_of(relief, rgb, relief.K, T, *size).rgb, warp, visible)


def recorded_changes(
    folder: Path, angle_deg: float, *, count: int, longest_px: int = 320, seed: int = 0
) -> Iterator[ViewChange]:
    """Pairs of a posed recording with depth whose cameras are turned by `angle_deg` +- 20 %."""
    captures = [
        c for c in load_captures(folder, longest_px=longest_px).items if c.depth is not None
    ]
    if not captures:
        raise InvalidInput(f"{folder}: has no depth, without which no pair has a truth")
    ahead = np.stack([c.view.world_from_camera[:3, :3] for c in captures])
    angle = np.degrees(angles_rad(ahead[:, None].swapaxes(-1, -2) @ ahead))
    pairs = np.argwhere(np.abs(angle - angle_deg) < TOLERANCE * angle_deg)
    found = 0
    for i, j in np.random.default_rng(seed).permutation(pairs):
        if i == j or found == count:
            continue
        a, b = captures[i], captures[j]
        label = label_between(a.depth, a.view, np.nan_to_num(b.depth), b.view)
        if label.visible.mean() >= LEAST_SHARED:
            found += 1
            yield ViewChange(a.rgb, b.rgb, label.warp_px, label.visible)


def _of_shape(rgb: ByteArray, width: int, height: int) -> ByteArray:
    """Stretched to the size asked for: nothing is cut off, so that depth files keep fitting."""
    resized: ByteArray = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return resized


@dataclass
class Shares:
    """Counts over pairs."""

    right: dict[float, int]
    cells: int = 0
    pairs: int = 0

    def percent(self) -> dict[str, float]:
        return {
            f"within{limit:g}": 100.0 * count / max(self.cells, 1)
            for limit, count in self.right.items()
        }


def nearest_shares(features_of: FeaturesOf, changes: Sequence[ViewChange]) -> Shares:
    """How many cells find their point, over all pairs."""
    shares = Shares({limit: 0 for limit in WITHIN_CELLS})
    for change in changes:
        error = nearest_errors(features_of(change.rgb_a), features_of(change.rgb_b), change)
        for limit in WITHIN_CELLS:
            shares.right[limit] += int((error <= limit).sum())
        shares.cells += len(error)
        shares.pairs += 1
    return shares


def nearest_errors(a: FeatureMap, b: FeatureMap, change: ViewChange) -> FloatArray:
    """(N,) distances in cells, of the cells of a whose middles b shows."""
    rows, columns = a.values.shape[1:]
    size = np.array(a.cell_px)
    row, column = np.mgrid[:rows, :columns]
    middle = (np.stack([column, row], axis=-1).reshape(-1, 2) + 0.5) * size - 0.5
    at = middle.astype(np.float32)[:, None]
    warp = cv2.remap(change.warp_px.astype(np.float32), at, None, cv2.INTER_LINEAR)[:, 0]
    seen = cv2.remap(change.visible.astype(np.float32), at, None, cv2.INTER_LINEAR)[:, 0] > 0.999
    truth = (warp + 0.5) / np.array(b.cell_px) - 0.5
    limit = np.array(b.values.shape[:0:-1]) - 0.5
    seen &= (truth > -0.5).all(axis=1) & (truth < limit).all(axis=1)
    found = (_units(a.values)[seen] @ _units(b.values).T).argmax(axis=1)
    nearest = np.stack([found % b.values.shape[2], found // b.values.shape[2]], axis=1)
    error: FloatArray = np.linalg.norm(nearest - truth[seen], axis=1)
    return error


def _units(values: FloatArray) -> FloatArray:
    """(h w, C) of length 1."""
    cells = values.reshape(len(values), -1).T
    return cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-9)
