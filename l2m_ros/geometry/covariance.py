"""How sure a pose is.

    P = (k s f + c N / 12) A^-1 + u^2 t t^T

    A  Gauss-Newton Hessian of the robust cost, residuals in units of their estimated noise
    f  what the robust weights make of A, against plain least squares (0.99 to 1.01)
    s  the noise was estimated from n residuals itself: n / (n - 2), as in Student's t
    k  matches / effective matches: neighbours err together, so they count less than they are
    c  fraction of a match's variance that its region's matches have in common (the intraclass
       correlation of Kish's design effect): a pose bends to errors as wide as that, so residuals
       do not show them, and it has to be told (0 = there are none)
    u  the scale's relative uncertainty, common to all depths: along t, whatever the matches say

The effective number is measured, not assumed. Residuals are summed over blocks of the image:
independent ones give sums whose squares equal the sum of squares, correlated ones give more. A
block of side L misses what is correlated across its border, a fraction that falls as 1 / L along
each axis; two sizes extrapolate it away: sqrt k = 2 sqrt k(2 L) - sqrt k(L). The largest one that
is significant counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.rays import Index
from l2m_ros.geometry.refine import Fit
from l2m_ros.geometry.se3 import difference
from l2m_ros.types import FloatArray

Mask = npt.NDArray[np.bool_]

BLOCKS = (24, 12, 6, 3)  # blocks across the matched area
SIGNIFICANT = 3.0  # standard deviations above 1 before a ratio is believed
REGIONS = 12.0  # of the image, 4 x 3, whose matches share an error that no residual shows
MIN_PER_BLOCK = 1.5  # matches; below, a block size says nothing about correlation


def pose_covariance(
    fit: Fit, query: FloatArray, scale_sigma: float, common: float = 0.0
) -> FloatArray:
    """6x6 about the keyframe's fixed axes; query (2, N) are the matches' rays.

    common: fraction of a match's variance that its region's matches have in common.
    """
    free, P = np.ix_(fit.free, fit.free), np.zeros((7, 7))
    P[free] = np.linalg.inv(fit.information[free])
    P = P[:6, :6] * inflation(fit, query, common)
    t = fit.pose[:3, 3]
    P[:3, :3] += scale_sigma**2 * np.outer(t, t)
    return np.asarray(0.5 * (P + P.T))


def direction_covariance(
    fit: Fit, query: FloatArray, other: FloatArray | None, common: float = 0.0
) -> FloatArray:
    """6x6 of rotation and unit direction: no variance along the direction (rank 5).

    A plane's second motion, if it is as likely, enters as the other half of a mixture.
    """
    basis = across_direction(fit.pose[:3, 3])
    A = basis.T @ fit.information[:6, :6] @ basis
    P = basis @ np.linalg.inv(A) @ basis.T * inflation(fit, query, common)
    if other is not None:
        apart = difference(other, fit.pose)
        P = P + np.outer(apart, apart)  # about the published one, so not a quarter of it
    return np.asarray(0.5 * (P + P.T))


def rotation_covariance(
    fit: Fit, query: FloatArray, unseen: float, common: float = 0.0
) -> FloatArray:
    """3x3; unseen: parallax in normalised units that would have passed for none."""
    P = np.linalg.inv(fit.information[3:6, 3:6]) * inflation(fit, query, common)
    return np.asarray(0.5 * (P + P.T) + unseen**2 * np.eye(3))


def inflation(fit: Fit, query: FloatArray, common: float = 0.0) -> float:
    n = max(fit.noise_rows - len(fit.free), 3.0)
    student = n / (n - 2.0)
    shared = common * float(fit.weights.sum()) / REGIONS
    return fit.weight_factor * student / independent_fraction(fit, query) + shared


def independent_fraction(fit: Fit, query: FloatArray) -> float:
    """Effective matches / matches, in (0, 1]."""
    cell = _cells(query, fit.weights > 0.5, BLOCKS[0])
    of_each = sum(float((error * error).sum()) for _, error in fit.errors)
    sums = [_block_sums(cell[index], error) for index, error in fit.errors]
    roots = np.sqrt([_block_ratio(sums, of_each, blocks, len(fit.free)) for blocks in BLOCKS])
    whole = np.where(roots[1:] > 1.0, 2.0 * roots[1:] - roots[:-1], 1.0)
    return float(1.0 / max(roots.max(), whole.max()) ** 2)


def _block_sums(cell: Index, error: FloatArray) -> FloatArray:
    """(1 + r, BLOCKS[0], BLOCKS[0]): how many matches, and the sum of each row, in each block."""
    n = BLOCKS[0] ** 2
    rows = [np.bincount(cell, minlength=n), *(np.bincount(cell, row, n) for row in error)]
    return np.stack(rows).reshape(-1, BLOCKS[0], BLOCKS[0])


def _block_ratio(sums: list[FloatArray], of_each: float, blocks: int, parameters: int) -> float:
    """Squares of block sums over sums of squares; 1 where that is not significant."""
    size = BLOCKS[0] // blocks
    of_sums, terms = 0.0, 0
    for fine in sums:
        count, *coarse = fine.reshape(len(fine), blocks, size, blocks, size).sum(axis=(2, 4))
        filled = int(np.count_nonzero(count))
        if count.sum() < MIN_PER_BLOCK * filled:
            return 1.0
        of_sums += sum(float((row * row).sum()) for row in coarse)
        terms += len(coarse) * filled
    if of_each == 0.0 or terms <= parameters:
        return 1.0
    # The fit has taken as many sums as it has parameters.
    ratio = of_sums / of_each / (1.0 - parameters / terms)
    return ratio if ratio > 1.0 + SIGNIFICANT * float(np.sqrt(2.0 / (terms - parameters))) else 1.0


def _cells(query: FloatArray, inlier: Mask, blocks: int) -> Index:
    """(N,) number of the square block over the inliers' area that holds each match."""
    low = query[:, inlier].min(axis=1, keepdims=True)
    size = float((query[:, inlier].max(axis=1, keepdims=True) - low).max()) * 1.000001 + 1e-12
    column, row = np.clip(((query - low) * (blocks / size)).astype(np.intp), 0, blocks - 1)
    return np.asarray(row * blocks + column)


def across_direction(t: FloatArray) -> FloatArray:
    """(6, 5): the parameters without the direction t."""
    _, _, Vt = np.linalg.svd(t[None])
    basis = np.zeros((6, 5))
    basis[:3, :2] = Vt[1:].T
    basis[3:, 2:] = np.eye(3)
    return basis
