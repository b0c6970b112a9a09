"""Which two posed images make a pair: near enough in place and angle, and seeing the same.

    pairs = MetricPairs(groups, seed, PairLimits(way_m=1.2, turn_deg=40.0, overlap=0.3))
    pairs.pair(index, difficulty)      the same one every time

All pairs of a group are listed once, the easiest first: difficulty d allows those within d times
the limits.
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
    """All ordered pairs with a way between them that see enough of each other."""
    poses = np.stack([frame.world_from_camera for frame in group])
    R, t = poses[:, :3, :3], poses[:, :3, 3]
    way = np.linalg.norm(t[:, None] - t[None], axis=2)
    turn = np.degrees(angles_rad(R[:, None].swapaxes(-1, -2) @ R))
    excess = np.maximum(way / limits.way_m, turn / limits.turn_deg)
    good = (way >= LEAST_WAY_M) & ~np.eye(len(group), dtype=bool)
    if limits.overlap > 0 and all(frame.depth is not None for frame in group):
        good &= overlaps(group) >= limits.overlap
    ends = np.argwhere(good)
    order = np.argsort(excess[good], kind="stable")
    return PairList(excess[good][order], ends[order])


def overlaps(group: Group) -> FloatArray:
    """(n, n): the share of what is known of image a that image b sees as well."""
    points = [probed(frame) for frame in group]
    shares = np.zeros((len(group), len(group)))
    for b, frame in enumerate(group):
        depth, K, pose = frame.depth, frame.camera.K, frame.world_from_camera
        assert depth is not None
        for a, world in enumerate(points):
            seen = (world - pose[:3, 3]) @ pose[:3, :3]
            ahead = seen[:, 2] > 1e-3
            px = seen[:, :2] / np.where(ahead, seen[:, 2], 1.0)[:, None]
            px = np.round(px * (K[0, 0], K[1, 1]) + (K[0, 2], K[1, 2]))
            inside = ahead & (px >= 0).all(axis=1) & (px < (depth.shape[1], depth.shape[0])).all(1)
            x, y = px[inside].astype(int).T
            near = np.abs(depth[y, x] - seen[inside, 2]) < SAME_DEPTH * seen[inside, 2]
            shares[a, b] = near.sum() / max(len(world), 1)
    return shares


def probed(frame: PosedFrame) -> FloatArray:
    """(m, 3) points of the world, of a grid of the image's pixels whose depth is known."""
    assert frame.depth is not None
    height, width = frame.depth.shape
    x, y = np.meshgrid(*(((np.arange(n) + 0.5) * side / n).astype(int)
                         for n, side in zip(PROBES, (width, height), strict=True)))  # fmt: skip
    z = frame.depth[y, x].ravel()
    rays = np.stack([x.ravel(), y.ravel(), np.ones(x.size)]).T @ np.linalg.inv(frame.camera.K).T
    known = np.isfinite(z) & (z > 0)
    pose = frame.world_from_camera
    return np.asarray((rays * z[:, None])[known] @ pose[:3, :3].T + pose[:3, 3])
