"""How long a two-view translation is, from how high the camera rides above the floor.

A camera on wheels knows its height and its tilt. Points triangulated with |t| = 1 that lie on the
floor are d below it in those units, so that the translation is

    L = height_m / d

Which points are of the floor is not known: walls, tables and cars stand on it, nothing lies below
it. So the lowest layer that many matches share is taken, and only if hardly any lie deeper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.rays import RayPairs, homogeneous
from l2m_ros.geometry.scale import Floor
from l2m_ros.geometry.triangulation import nearest_depths
from l2m_ros.types import FloatArray

UNEVEN = 0.02  # of the height: carpets, kerbs, the wheels' springs
VAGUE = 0.25  # a point's relative sigma: beyond, it tells nothing
GRID = 0.01  # of the log of length
LEAST_POINTS, LEAST_SHARE = 25, 0.12  # of the points below the camera, that the floor has
DEEPER = 0.25  # of the floor's own: so many may seem to lie below it
FROM_SIGMAS = 3.0
INDEPENDENT = 30.0  # matches: neighbours err together
ROUNDS = 8


@dataclass(frozen=True)
class FloorLength:
    length_m: float
    sigma: float  # of its log, without what all pairs of a drive share
    common: float  # of its log: height and tilt
    points: int  # that lie on the floor


def length_from_floor(
    pairs: RayPairs,
    T: FloatArray,
    inlier: npt.NDArray[np.bool_],
    floor: Floor,
    *,
    match_sigma: float,
) -> FloorLength | None:
    """T: rotation and unit direction; match_sigma in normalised units. None: no floor is seen."""
    k, v = homogeneous(pairs.keyframe), T[:3, :3] @ homogeneous(pairs.query)
    z, _, sine = nearest_depths(k, v, T[:3, 3:4], axis=0)
    points = k * z  # (3, N) in units of |t|
    below = -(floor.up @ points)
    aside = np.sqrt(np.maximum((points * points).sum(axis=0) - below * below, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.hypot(match_sigma / sine, UNEVEN)  # of a point's depth, relative
        sigma = np.hypot(own, floor.tilt_sigma_rad * aside / below)
        log_length = np.log(floor.height_m / below)
    good = inlier & (z > 0) & (below > 0) & (sigma < VAGUE)
    if good.sum() < LEAST_POINTS:
        return None
    middle = _lowest_layer(log_length[good], sigma[good])
    if middle is None:
        return None
    near = inlier & (z > 0) & (own < VAGUE)
    return _plane(points[:, near], own[near], floor, middle)


def _plane(
    points: FloatArray, sigma: FloatArray, floor: Floor, log_length: float
) -> FloorLength | None:
    """The floor as m . point = -1, |m| = 1 / distance: its tilt and its distance together.

    The tilt that the mount states is a prior: a degree of pitch is 17 % of the length, ten heights
    ahead.
    """
    distance = floor.height_m / np.exp(log_length)
    across = np.linalg.svd(floor.up[None])[2][1:]  # (2, 3) what tilt moves
    prior = across * (distance / floor.tilt_sigma_rad)
    m = floor.up / distance  # up . point = -distance
    for _ in range(ROUNDS):
        off = (m @ points + 1.0) / sigma
        own = np.abs(off) < FROM_SIGMAS
        if own.sum() < LEAST_POINTS:
            return None
        share = min(INDEPENDENT / own.sum(), 1.0)
        weights = share * own / (1.0 + off * off) / sigma**2
        A = (points * weights) @ points.T + prior.T @ prior
        m = np.linalg.solve(A, -(points * weights).sum(axis=1))
    deeper = int(((m @ points + 1.0) < -FROM_SIGMAS * sigma).sum())
    if deeper > DEEPER * own.sum():
        return None
    size = float(np.linalg.norm(m))
    P = np.linalg.inv(A)
    alone = float(np.sqrt(m @ P @ m)) / size**2  # of log |m|
    length_m = floor.height_m * size
    return FloorLength(length_m, alone, floor.sigma_m / floor.height_m, int(own.sum()))


def _lowest_layer(log_length: FloatArray, sigma: FloatArray) -> float | None:
    """Log of the length that the floor's points say: deeper points make it shorter."""
    grid = np.arange(log_length.min() - 2 * GRID, log_length.max() + 2 * GRID, GRID)
    off = (grid[:, None] - log_length) / sigma
    density = (np.exp(-0.5 * off * off) / sigma).sum(axis=1)
    inner = density[1:-1]
    peaks = 1 + np.flatnonzero((inner >= density[:-2]) & (inner >= density[2:]))
    least = max(LEAST_POINTS, LEAST_SHARE * len(log_length))
    for at in peaks:  # from the deepest
        middle = _middle(log_length, sigma, float(grid[at]))
        apart = (log_length - middle) / sigma
        own = np.abs(apart) < FROM_SIGMAS
        if own.sum() < least:
            continue
        deeper = int((apart < -FROM_SIGMAS).sum())
        return middle if deeper <= DEEPER * own.sum() else None
    return None


def _middle(log_length: FloatArray, sigma: FloatArray, start: float) -> float:
    for _ in range(5):
        off = (log_length - start) / sigma
        weights = np.where(np.abs(off) < FROM_SIGMAS, 1.0 / (1.0 + off * off), 0.0) / sigma**2
        if not weights.sum() > 0:
            return start
        start = float((weights * log_length).sum() / weights.sum())
    return start
