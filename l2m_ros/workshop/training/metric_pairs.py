"""Which two posed images make a pair: near enough in place and angle, and seeing the same.

    pairs = MetricPairs(groups, seed, PairLimits(way_m=1.2, turn_deg=40.0, overlap=0.3))
    pairs.pair(index, difficulty)      the same one every time

A group's pairs within the limits are listed once, the easiest first: difficulty d allows those
within d times the limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.se3 import angles_rad
from l2m_ros.types import FloatArray
from l2m_ros.workshop.training.metric_data import Group, MetricPair, PosedFrame

LEAST_WAY_M = 0.1  # a pair whose cameras are nearer teaches no metres
PROBES = (12, 9)  # points of an image that are looked for in others
SAME_DEPTH = 0.1  # relative: what differs more is hidden there


@dataclass(frozen=True)
class PairLimits:
    """How far apart two cameras may be, at difficulty 1; less where it is lower."""

    way_m: float = 1.2
    turn_deg: float = 40.0
    overlap: float = 0.3  # of the first image, seen in the second, where depth tells


@dataclass(frozen=True, eq=False)
class PairList:
    """Of one group, the easiest first."""

    excess: FloatArray  # (n,) 1 at the limits
    ends: npt.NDArray[np.intp]  # (n, 2)

    def allowed(self, difficulty: float) -> int:
        return int(np.searchsorted(self.excess, difficulty, side="right"))


class MetricPairs:
    """The pair of a number: the same one every time."""

    def __init__(self, groups: Sequence[Group], seed: int, limits: PairLimits = PairLimits()):
        self.groups, self.seed, self.limits = [g for g in groups if len(g) > 1], seed, limits
        self._lists = [pair_list(group, limits) for group in self.groups]
        if not any(len(pairs.ends) for pairs in self._lists):
            raise InvalidInput(
                "no two posed images of one place that show the same from two places: nothing to "
                "train on"
            )

    def pair(self, index: int, difficulty: float) -> MetricPair:
        group, first, second = self.ends(index, difficulty)
        return MetricPair(self.groups[group][first], self.groups[group][second])

    def ends(self, index: int, difficulty: float) -> tuple[int, int, int]:
        """The group's number and the two images' in it; the easiest there is, if none is allowed.

        Groups are drawn first, so that a long recording does not outweigh many worlds.
        """
        rng = np.random.default_rng((self.seed, 55, index))
        allowed = [pairs.allowed(difficulty) for pairs in self._lists]
        having = np.flatnonzero(allowed)
        if len(having):
            group = int(rng.choice(having))
            chosen = int(rng.integers(allowed[group]))
        else:
            easiest = [p.excess[0] if len(p.excess) else np.inf for p in self._lists]
            group, chosen = int(np.argmin(easiest)), 0
        first, second = self._lists[group].ends[chosen]
        return group, int(first), int(second)


def pair_list(group: Group, limits: PairLimits) -> PairList:
    """Ordered pairs with a way between them that see enough of each other: within the limits, or
    of a group that has none, any."""
    within = _seeing(group, *_ends(group, limits, 1.0), limits)
    return within if len(within.ends) else _seeing(group, *_ends(group, limits, np.inf), limits)


def _ends(group: Group, limits: PairLimits, most: float) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """(n,) excess, `most` at most, and (n, 2) ends; one image after another, as thousands of them
    have millions of pairs."""
    poses = np.stack([frame.world_from_camera for frame in group])
    R, t = poses[:, :3, :3], poses[:, :3, 3]
    excess, ends = [np.zeros(0)], [np.zeros((0, 2), np.intp)]
    for first in range(len(group)):
        way = np.linalg.norm(t - t[first], axis=1)
        near = np.flatnonzero((way >= LEAST_WAY_M) & (way <= most * limits.way_m))
        near = near[near != first]
        turn = np.degrees(angles_rad(R[first].T @ R[near]))
        far = np.maximum(way[near] / limits.way_m, turn / limits.turn_deg)
        near, far = near[far <= most], far[far <= most]
        excess.append(far)
        ends.append(np.stack([np.full(len(near), first), near], axis=1))
    return np.concatenate(excess), np.concatenate(ends)


def _seeing(
    group: Group, excess: FloatArray, ends: npt.NDArray[np.intp], limits: PairLimits
) -> PairList:
    """The easiest first, without those that see too little of each other."""
    if limits.overlap > 0 and all(frame.depth is not None for frame in group):
        good = overlaps(group, ends) >= limits.overlap
        excess, ends = excess[good], ends[good]
    order = np.argsort(excess, kind="stable")
    return PairList(excess[order], ends[order])


def overlaps(group: Group, ends: npt.NDArray[np.intp]) -> FloatArray:
    """(n,) of (n, 2) pairs: the share of what is known of the first that the second sees, too."""
    points = np.stack([probed(frame) for frame in group])  # (G, P, 3)
    known = np.isfinite(points[..., 0]).sum(axis=1)
    shares = np.zeros(len(ends))
    order = np.argsort(ends[:, 1], kind="stable")
    seconds, begins = np.unique(ends[order, 1], return_index=True)
    for second, own in zip(seconds, np.split(order, begins)[1:], strict=True):
        frame, firsts = group[second], ends[own, 0]
        depth, K, pose = frame.depth, frame.camera.K, frame.world_from_camera
        assert depth is not None
        seen = (points[firsts] - pose[:3, 3]) @ pose[:3, :3]
        z = seen[..., 2]
        with np.errstate(invalid="ignore"):
            ahead = z > 1e-3
            px = seen[..., :2] / np.where(ahead, z, 1.0)[..., None]
            px = np.round(px * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2]))
            inside = ahead & (px >= 0).all(axis=-1) & (px < depth.shape[::-1]).all(axis=-1)
            x, y = np.where(inside[..., None], px, 0).astype(int).transpose(2, 0, 1)
            near = inside & (np.abs(depth[y, x] - z) < SAME_DEPTH * z)
        shares[own] = near.sum(axis=1) / np.maximum(known[firsts], 1)
    return shares


def probed(frame: PosedFrame) -> FloatArray:
    """(P, 3) points of the world, of a grid of the image's pixels; NaN where depth is unknown."""
    assert frame.depth is not None
    height, width = frame.depth.shape
    x, y = np.meshgrid(*(((np.arange(n) + 0.5) * side / n).astype(int)
                         for n, side in zip(PROBES, (width, height), strict=True)))  # fmt: skip
    z = frame.depth[y, x].ravel()
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)]).T @ np.linalg.inv(frame.camera.K).T
    z = np.where(np.isfinite(z) & (z > 0), z, np.nan)
    pose = frame.world_from_camera
    return np.asarray(rays * z[:, None] @ pose[:3, :3].T + pose[:3, 3])
