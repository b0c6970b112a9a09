"""Which keyframes a map can spare: those whose view another one nearly has."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from l2m_ros.mapping import graph
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.views import view_distance
from l2m_ros.types import FloatArray


def thin(drive: DriveRecorder, keep: int) -> list[int]:
    """Takes away the most redundant keyframes until `keep` are left; their ids. The first one and
    those that tracking uses stay."""
    surplus = max(len(drive.ids) - keep, 0)
    gone = redundant(drive.places.poses, surplus, {*drive.ids[:1], *drive.in_use})
    if gone:
        drive.remove(gone, graph.bridges(set(gone), drive.edges))
    return gone


def redundant(
    poses: dict[int, tuple[FloatArray, FloatArray]], count: int, needed: Collection[int]
) -> list[int]:
    """The keyframes whose view another one nearly has, one after another; never a needed one."""
    ids = np.array(list(poses))
    if len(ids) < 2 or count <= 0:
        return []
    stack = np.stack([poses[int(id)][0] for id in ids])
    away = np.empty((len(ids), len(ids)), np.float32)  # 10,000 keyframes: 400 MB
    for row, pose in zip(away, stack, strict=True):
        row[:] = view_distance(stack, pose)
    np.fill_diagonal(away, np.inf)
    nearest = away.min(axis=1)
    kept = ~np.isin(ids, list(needed))
    gone: list[int] = []
    for _ in range(min(count, len(ids) - 2, int(kept.sum()))):
        worst = int(np.argmin(np.where(kept, nearest, np.inf)))
        gone.append(int(ids[worst]))
        kept[worst] = False
        orphans = np.flatnonzero(away[:, worst] <= nearest)  # it was the nearest of these
        away[worst], away[:, worst] = np.inf, np.inf
        nearest[orphans] = away[orphans].min(axis=1)
    return gone
