"""The motion between two sets of points in space that networks lifted from single images.

    found = lifted_motion(x, y, confidence)      y = R x + t, metres

Every triple of the best pairs is tried, then every triple of the next best, so the answer is the
same every time; published solvers draw theirs by chance. What the two images' depths disagree
about tells how far off they are as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray, Lost, LostReason

Mask = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]

CORNERS = 3  # pairs that make a hypothesis
DISTANCE_EPS = 1e-6
SOFTNESS = 5.0
GOLDEN = 0.6180339887498949  # multiples of it, less their whole parts, spread evenly
FLAT_M = 1e-3  # a triangle whose height is less than this leaves its rotation open


@dataclass(frozen=True)
class LiftedOptions:
    """Thresholds in metres are those of the published solver."""

    best: int = 16  # pairs of a group whose every triple is tried: 560 hypotheses
    groups: int = 4  # the best pairs, the next best, ...
    blocks: int = 6  # along each side of the cloud's directions: best pairs come from all of them
    inlier_m: float = 0.15
    soft_inlier_m: float = 0.3
    scored_on: int = 300  # the best pairs, on which hypotheses are compared
    finalists: int = 8  # hypotheses that are refined before one wins
    refinements: int = 8


@dataclass(frozen=True, eq=False)
class LiftedMotion:
    """y = R x + t for most pairs."""

    pose: FloatArray  # 4x4, y_from_x
    inliers: Mask  # (N,)
    score: float  # soft inliers at the narrow threshold
    log_size: float  # log of y's extent over x's: 0 where the two depths agree as a whole
    spread: float  # of one depth about the common motion, as a fraction of it


def lifted_motion(
    x: FloatArray, y: FloatArray, confidence: FloatArray, options: LiftedOptions = LiftedOptions()
) -> LiftedMotion | Lost:
    """The motion of points x (N, 3) to y (N, 3) that most pairs agree on.

    Pairs with NaN or infinity, and points at or behind their camera (z <= 0), are left out.
    """
    usable = np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1) & (confidence > 0)
    usable[usable] &= (x[usable, 2] > 0) & (y[usable, 2] > 0)
    index = np.flatnonzero(usable)
    if len(index) < CORNERS:
        return Lost(
            LostReason.TOO_FEW_MATCHES,
            f"{len(index)} of {len(x)} matches have a positive depth in both images, a motion "
            f"takes {CORNERS}",
        )
    px, py = x[index], y[index]
    order = _spread_order(px, confidence[index], options)
    corners = _triples(px, order, options)
    if not len(corners):
        return Lost(LostReason.DEGENERATE, "all lifted matches lie on one line")
    R, t = procrustes(px[corners], py[corners])
    judges = order[: options.scored_on]
    score = _soft(distances(R, t, px[judges], py[judges]), options.soft_inlier_m)
    finalists = np.argsort(-score, kind="stable")[: options.finalists]
    refined = [_refined(R[k], t[k], px, py, options) for k in finalists]
    scores = [float(_soft(distances(*pose, px, py), options.inlier_m)) for pose in refined]
    best = int(np.argmax(scores))
    return _measured(refined[best], scores[best], index, x, y, options)


def _measured(
    pose: tuple[FloatArray, FloatArray], score: float, index: Index,
    x: FloatArray, y: FloatArray, options: LiftedOptions,
) -> LiftedMotion | Lost:  # fmt: skip
    near = index[distances(*pose, x[index], y[index]) <= options.inlier_m]
    if len(near) <= CORNERS:
        return Lost(
            LostReason.TOO_FEW_INLIERS,
            f"{len(near)} of {len(index)} lifted matches agree on a motion: no more than make one",
        )
    inliers = np.zeros(len(x), np.bool_)
    inliers[near] = True
    R, t = pose
    a, b = x[near], y[near]
    sizes = [float(np.linalg.norm(p - p.mean(axis=0))) for p in (a, b)]
    log_size = float(np.log(sizes[1] / sizes[0])) if min(sizes) > 0 else 0.0
    relative = np.log(b[:, 2] / np.maximum((a @ R.T + t)[:, 2], 1e-6))
    spread = 1.4826 * float(np.median(np.abs(relative - np.median(relative)))) / np.sqrt(2.0)
    return LiftedMotion(se3.transform(R, t), inliers, score, log_size, spread)


def _triples(x: FloatArray, order: Index, options: LiftedOptions) -> Index:
    """(T, 3) indices: triangles within each group, those without an area left out."""
    groups = [order[k * options.best :][: options.best] for k in range(options.groups)]
    found = [triple for group in groups for triple in combinations(group, CORNERS)]
    triples = np.array(found, dtype=np.intp).reshape(-1, CORNERS)
    a, b, c = (x[triples[:, k]] for k in range(CORNERS))
    area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    longest = np.maximum.reduce([np.linalg.norm(s, axis=1) for s in (b - a, c - a, c - b)])
    return np.asarray(triples[area > FLAT_M * longest])


def _spread_order(x: FloatArray, confidence: FloatArray, options: LiftedOptions) -> Index:
    """The best pair of each block of directions, then the second best of each, ..."""
    direction = x[:, :2] / x[:, 2:]
    low, high = direction.min(axis=0), direction.max(axis=0)
    cell = ((direction - low) / np.maximum(high - low, 1e-9) * options.blocks).astype(np.intp)
    cell = np.minimum(cell, options.blocks - 1) @ np.array([1, options.blocks])
    # Equal confidences: not by index, which often follows the image's rows.
    shuffled = np.arange(len(x)) * GOLDEN % 1.0
    rank = np.empty(len(x), np.intp)
    seen = np.zeros(options.blocks**2, np.intp)
    for k in np.lexsort((shuffled, -confidence)):
        rank[k] = seen[cell[k]]
        seen[cell[k]] += 1
    return np.asarray(np.lexsort((shuffled, -confidence, rank)))


def procrustes(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """R (..., 3, 3), t (..., 3) with y = R x + t in the least squares; x, y (..., n, 3)."""
    mean_x, mean_y = x.mean(axis=-2), y.mean(axis=-2)
    H = np.swapaxes(x - mean_x[..., None, :], -1, -2) @ (y - mean_y[..., None, :])
    U, _, Vt = np.linalg.svd(H)
    sign = np.ones((*H.shape[:-2], 3))
    sign[..., 2] = np.sign(np.linalg.det(U @ Vt))
    R = (np.swapaxes(Vt, -1, -2) * sign[..., None, :]) @ np.swapaxes(U, -1, -2)
    return R, mean_y - (R @ mean_x[..., None])[..., 0]


def distances(R: FloatArray, t: FloatArray, x: FloatArray, y: FloatArray) -> FloatArray:
    """(..., N) metres."""
    off = x @ np.swapaxes(R, -1, -2) + t[..., None, :] - y
    return np.asarray(np.sqrt((off * off).sum(axis=-1) + DISTANCE_EPS))


def _soft(distance: FloatArray, threshold_m: float) -> FloatArray:
    slope = np.clip((SOFTNESS / threshold_m) * (distance - threshold_m), -50.0, 50.0)
    return np.asarray((1.0 / (1.0 + np.exp(slope))).sum(axis=-1))


def _refined(
    R: FloatArray, t: FloatArray, x: FloatArray, y: FloatArray, options: LiftedOptions
) -> tuple[FloatArray, FloatArray]:
    """Fitted again to its inliers while they become more."""
    count = CORNERS
    for _ in range(options.refinements):
        near = distances(R, t, x, y) <= options.inlier_m
        if near.sum() <= count:
            break
        count = int(near.sum())
        R, t = procrustes(x[near], y[near])
    return R, t
