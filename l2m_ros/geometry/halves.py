"""How far a two-view pose scatters when it is found again in half of the image.

The residuals of one fit do not tell that another pose, degrees away, fits nearly as many matches
of two blurred images, nor that a yaw and a step to the side hardly differ; halves of the image then
find different ones. Each is searched for anew, or found from the pose on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.ransac import RAYS_SAMPLE, Search, find_relative, relative_near
from l2m_ros.geometry.rays import Index, RayPairs
from l2m_ros.types import FloatArray

BLOCKS = (8, 6)  # of the image, across and down; a half is half of them
SPLITS = 3  # into two halves each
TRIALS = 60  # of each half's search
LEAST_MATCHES = 4 * RAYS_SAMPLE  # of a half
MEDIAN_3 = 2.366  # of chi-square with three degrees of freedom
FARTHEST = 3.0  # times the median angle: a half that saw too little


def poses_of_halves(
    pairs: RayPairs,
    block: Index,
    length_m: float,
    search: Search,
    near: FloatArray | None = None,
) -> FloatArray:
    """(n, 4, 4) keyframe_from_camera with translations of that length; block (N,) of each match.

    near: the pose from which each half's is found; None: it is searched for anew.
    """
    rng = np.random.default_rng(search.seed)
    quick = replace(search, max_iterations=TRIALS)
    found = []
    for _ in range(SPLITS):
        drawn = rng.permutation(BLOCKS[0] * BLOCKS[1])
        for blocks in np.array_split(drawn, 2):
            chosen = np.flatnonzero(np.isin(block, blocks))
            if len(chosen) >= LEAST_MATCHES:
                half = pairs.select(chosen)
                T = find_relative(half, quick) if near is None else relative_near(half, near, quick)
                found.append(se3.transform(T[:3, :3], length_m * T[:3, 3]))
    return np.array(found).reshape(-1, 4, 4)


def widened_by_halves(P: FloatArray, T: FloatArray, halves: FloatArray) -> FloatArray:
    """P (6, 6) of the pose T, wider where the halves scatter more than the rotation's own sigma."""
    if len(halves) < SPLITS:
        return P
    apart = np.array([se3.difference(half, T) for half in halves])
    squared = (apart[:, 3:] ** 2).sum(axis=1)
    median = float(np.median(squared))
    stated = float(np.trace(P[3:, 3:])) / 3.0
    excess = max(0.0, 1.0 - MEDIAN_3 * stated / max(median, 1e-18))
    near = apart[squared <= FARTHEST**2 * median]
    return np.asarray(P + excess * (near.T @ near) / len(near))
