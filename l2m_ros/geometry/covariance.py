"""The 6x6 covariance of a pose.

    P = W (k s f A^-1) + A^-1 (r^2 sum G G^T + sum d d^T + c c^T + l l^T + z z^T) A^-1 + u^2 t t^T

    A  Gauss-Newton Hessian of the robust cost, residuals in units of their estimated noise
    f  covariance under the robust weights / covariance by plain least squares (0.99 to 1.01)
    s  the noise was estimated from n residuals itself: n / (n - 2), as in Student's t
    k  matches / effective matches: neighbours err together, so they count less than they are
    W  wider along the directions in which the pose scatters when one region of the image after
       another is left out (delete-a-group jackknife), by what exceeds chance

These terms come from the residuals. A pose absorbs smooth errors, which then leave no
residuals; parameters state those:

    r  error in pixels that all matches of one region (4 x 3 of the image) have in common: what
       a matcher gets wrong near an edge, a lens model, a rolling shutter; times the texture's
       factor (`refine`), below 1 where images agree better than their texture promises. G (6, 2)
       is what a shift of one region's matches does to the normal equations
    d  error that the depths of one region (8 x 6) have in common: a share of their noise as the
       residuals show it, of the keyframe's depths and of the query's
    c  the same for an error that all depths have in common (`Depths.bias_m`, and what a depth
       image that was taken a little earlier or later is off by)
    l  the same for the focal length: flow is longer or shorter by a factor; and for the rows'
       moments: a rolling shutter sees each a little later than the one above
    z  the same for shapes that a known scene may have instead (`scene_depth`)
    u  the depths' scale, relative: along t, whatever the matches say

The effective number is measured, not assumed. Residuals are summed over blocks of the image:
independent ones give sums whose squares equal the sum of squares, correlated ones give more. A
block of side L misses what is correlated across its border, a fraction that falls as 1 / L along
each axis; two sizes extrapolate it away: sqrt k = 2 sqrt k(2 L) - sqrt k(L). The largest one that
is significant counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import ModuleType

import numpy as np
import numpy.typing as npt

from l2m_ros import compiled
from l2m_ros.geometry.rays import Index
from l2m_ros.geometry.refine import Fit, Part
from l2m_ros.geometry.residuals import SHIFT
from l2m_ros.geometry.se3 import difference
from l2m_ros.types import FloatArray

Mask = npt.NDArray[np.bool_]

BLOCKS = (24, 12, 6, 3)  # blocks across the matched area
SIGNIFICANT = 3.0  # standard deviations above 1 before a ratio is believed
REGIONS = (4, 3)  # of the image, across and down, whose matches share an error
DEPTH_REGIONS = (8, 6)  # ... whose depths do
LEFT_OUT = 4  # blocks across the matched area that the jackknife leaves out one by one
MIN_LEFT_OUT = 8  # blocks with matches; fewer say nothing about scatter
CHI2_99_6 = 16.81  # 99 % of chi-square with six degrees of freedom
MIN_PER_BLOCK = 1.5  # matches; below, a block size says nothing about correlation


@dataclass(frozen=True, eq=False)
class Common:
    """Errors that many matches share, which no number of matches averages out."""

    region: Index  # (N,) each match's region of the query
    depth_region: Index  # (N,) of DEPTH_REGIONS
    sigma: float = 0.0  # of the keyframe's pixel by region, each axis, normalised units
    scale_sigma: float = 0.0  # of all depths, relative
    shift: FloatArray | None = None  # (m, 2, N) of the keyframe's pixels, all together, m causes
    depth_shapes_m: FloatArray | None = None  # (m, N) of the depths, all together, m causes

    def select(self, index: Index) -> Common:
        shift = None if self.shift is None else self.shift[:, :, index]
        shapes_m = None if self.depth_shapes_m is None else self.depth_shapes_m[:, index]
        region, depth_region = self.region[index], self.depth_region[index]
        return replace(
            self, region=region, depth_region=depth_region, shift=shift, depth_shapes_m=shapes_m
        )


def regions(pixels: FloatArray, size: tuple[int, int], grid: tuple[int, int] = REGIONS) -> Index:
    """(N,) which of the image's regions holds each pixel (N, 2)."""
    cell = np.floor((pixels + 0.5) / size * grid).astype(np.intp)
    column, row = np.clip(cell, 0, np.array(grid) - 1).T
    return np.asarray(row * grid[0] + column)


def pose_covariance(fit: Fit, query: FloatArray, common: Common) -> FloatArray:
    """6x6 about the keyframe's fixed axes; query (2, N) are the matches' rays."""
    P = _covariance(fit, query, common)
    if fit.fewer is None:
        return P
    apart = difference(fit.fewer.pose, fit.pose)
    squared = float(apart @ np.linalg.solve(_covariance(fit.fewer, query, common), apart))
    return admit(P, apart, squared, CHI2_99_6)


def admit(P: FloatArray, apart: FloatArray, squared: float, limit: float) -> FloatArray:
    """P, wide enough for another estimate that lies `apart` (6,) from this one.

    squared: their distance in standard deviations, squared. Where it exceeds what chance allows,
    the other estimate enters as the other half of a mixture, and P itself was too small by as much.
    """
    excess = max(0.0, 1.0 - limit / max(squared, 1e-12))
    return np.asarray(P * max(1.0, squared / limit) + excess * np.outer(apart, apart))


def _covariance(fit: Fit, query: FloatArray, common: Common) -> FloatArray:
    free = np.ix_(fit.free, fit.free)
    inverse: FloatArray = np.zeros((7, 7))
    inverse[free] = np.linalg.inv(fit.information[free])
    P: FloatArray = inverse[:6, :6] * inflation(fit, query)
    if len(fit.free) >= 6:
        P = _widened(P, jackknife(fit, query, np.eye(7)[:, fit.free])[:6, :6])
    P = P + _shared(fit, inverse, common)
    t = fit.pose[:3, 3]
    P[:3, :3] += common.scale_sigma**2 * np.outer(t, t)
    return np.asarray(0.5 * (P + P.T))


def direction_covariance(
    fit: Fit, query: FloatArray, other: FloatArray | None, common: Common
) -> FloatArray:
    """6x6 of rotation and unit direction: no variance along the direction (rank 5).

    A plane's second motion, if it is as likely, enters as the other half of a mixture.
    """
    basis = across_direction(fit.pose[:3, 3])
    A = basis.T @ fit.information[:6, :6] @ basis
    own, inverse = np.linalg.inv(A), np.zeros((7, 7))
    inverse[:6, :6] = basis @ own @ basis.T
    scatter = jackknife(fit, query, np.vstack([basis, np.zeros(5)]))
    own = _widened(own * inflation(fit, query), scatter)
    P = basis @ own @ basis.T + _shared(fit, inverse, common)
    if other is not None:
        apart = difference(other, fit.pose)
        P = P + np.outer(apart, apart)  # about the published one, so not a quarter of it
    return np.asarray(0.5 * (P + P.T))


def rotation_covariance(fit: Fit, query: FloatArray, unseen: float, common: Common) -> FloatArray:
    """3x3; unseen: parallax in normalised units that would have passed for none."""
    inverse = np.zeros((7, 7))
    inverse[3:6, 3:6] = np.linalg.inv(fit.information[3:6, 3:6])
    P = inverse[:6, :6] * inflation(fit, query) + _shared(fit, inverse, common)
    return np.asarray(0.5 * (P + P.T)[3:, 3:] + unseen**2 * np.eye(3))


def inflation(fit: Fit, query: FloatArray) -> float:
    n = max(fit.noise_rows - len(fit.free), 3.0)
    return fit.weight_factor * n / (n - 2.0) / independent_fraction(fit, query)


def _shared(fit: Fit, inverse: FloatArray, common: Common) -> FloatArray:
    """6x6: covariance of the pose by the errors that matches share."""
    sums = _Shared(
        np.zeros((7, 2, REGIONS[0] * REGIONS[1])),
        np.zeros((2, 7, DEPTH_REGIONS[0] * DEPTH_REGIONS[1])),
        np.zeros(7),
        np.zeros((7, 0 if common.shift is None else len(common.shift))),
    )
    kernel = compiled.kernel("covariance")
    for part in fit.parts:
        if kernel is None:
            _shared_sums_numpy(part, common, sums)
        else:
            _shared_sums_compiled(kernel, part, common, sums)
    shifts = common.sigma * fit.noise.texture * sums.shifts.reshape(7, -1)
    causes = [shifts, *sums.depths, sums.bias, sums.shifted]
    if common.depth_shapes_m is not None:
        causes.append(_by_depth_shapes(fit, common.depth_shapes_m))
    moved = inverse @ np.column_stack(causes)
    return np.asarray((moved @ moved.T)[:6, :6])


@dataclass(frozen=True, eq=False)
class _Shared:
    """What errors that matches share do to the normal equations, one standard deviation each."""

    shifts: FloatArray  # (7, 2, regions) per normalised unit
    depths: FloatArray  # (2, 7, depth regions)
    bias: FloatArray  # (7,)
    shifted: FloatArray  # (7, m)


def _shared_sums_numpy(part: Part, common: Common, sums: _Shared) -> None:
    Jw = part.J * part.weights
    score = np.einsum("irn,krn->ikn", Jw, part.by_match)  # (7, 2, N)
    where = common.region[part.index]
    for i, k in np.ndindex(7, 2):
        sums.shifts[i, k] += np.bincount(where, score[i, k], sums.shifts.shape[2])
    if part.by_depth is not None:
        by_depth = np.einsum("irn,drn->din", Jw, part.by_depth)
        cell = common.depth_region[part.index]
        for d, i in np.ndindex(2, 7):
            sums.depths[d, i] += np.bincount(cell, by_depth[d, i], sums.depths.shape[2])
    sums.bias[:] += np.einsum("irn,rn->i", Jw, part.by_bias)
    if common.shift is not None:
        sums.shifted[:] += np.einsum("ikn,mkn->im", score, common.shift[:, :, part.index])


def _by_depth_shapes(fit: Fit, shapes_m: FloatArray) -> FloatArray:
    """(7, m): what the shapes of the depths (m, N) do to the normal equations."""
    sums: FloatArray = np.zeros((7, len(shapes_m)))
    for part in fit.parts:
        by_m = (part.J * part.weights * part.J[SHIFT]).sum(axis=1)  # (7, N)
        sums += by_m @ shapes_m[:, part.index].T
    return sums


def _shared_sums_compiled(kernel: ModuleType, part: Part, common: Common, sums: _Shared) -> None:
    array, n = compiled.array, len(part.index)
    shift = np.zeros((0, 2, n)) if common.shift is None else common.shift[:, :, part.index]
    by_depth = np.zeros_like(part.by_match) if part.by_depth is None else part.by_depth
    kernel.add_shared_sums(
        array(part.J), array(part.weights), array(part.by_match),
        array(common.region[part.index], np.intp), array(by_depth),
        array(common.depth_region[part.index], np.intp), array(part.by_bias), array(shift),
        sums.shifts, sums.depths, sums.bias, sums.shifted,
    )  # fmt: skip


def _widened(P: FloatArray, scatter: FloatArray) -> FloatArray:
    """P, wider along the directions in which the scatter exceeds what chance makes of it."""
    n = len(P)
    L = np.linalg.cholesky(P + 1e-12 * np.trace(P) / n * np.eye(n))
    inverse = np.linalg.inv(L)
    ratios, axes = np.linalg.eigh(inverse @ scatter @ inverse.T)
    blocks = LEFT_OUT * LEFT_OUT
    chance = (1.0 + np.sqrt(n / blocks)) ** 2 - 1.0  # Marchenko and Pastur's upper edge
    return np.asarray(L @ (axes * np.maximum(ratios - chance, 1.0)) @ axes.T @ L.T)


def independent_fraction(fit: Fit, query: FloatArray) -> float:
    """Effective matches / matches, in (0, 1]."""
    if not (fit.weights > 0.5).any():
        return 1.0  # nothing agrees, and so nothing agrees together
    cell = _cells(query, fit.weights > 0.5, BLOCKS[0])
    of_each = sum(float((part.weighted**2).sum()) for part in fit.parts)
    sums = [_block_sums(cell[part.index], part.weighted) for part in fit.parts]
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


def jackknife(fit: Fit, query: FloatArray, basis: FloatArray) -> FloatArray:
    """(m, m): how the pose scatters when one block of the image after another is left out.

    basis (7, m): the directions in which it is free. Each block's share of the normal equations is
    taken out of them: a solve a block.
    """
    P = np.zeros((basis.shape[1], basis.shape[1]))
    if not (fit.weights > 0.5).any():
        return P
    cell = _cells(query, fit.weights > 0.5, LEFT_OUT)
    A, b = np.zeros((LEFT_OUT**2, 7, 7)), np.zeros((LEFT_OUT**2, 7))
    kernel = compiled.kernel("covariance")
    for part in fit.parts:
        if kernel is None:
            _block_equations_numpy(cell[part.index], part, A, b)
        else:
            where = compiled.array(cell[part.index], np.intp)
            matrices = (compiled.array(m) for m in (part.J, part.error, part.weights))
            kernel.add_block_equations(where, *matrices, A, b)
    filled = A.any(axis=(1, 2))
    n = int(filled.sum())
    if n < MIN_LEFT_OUT:
        return P
    A, b = basis.T @ A[filled] @ basis, b[filled] @ basis
    rest = basis.T @ fit.information @ basis - A
    moved = np.linalg.solve(rest, (b.sum(axis=0) - b)[:, :, None])[:, :, 0]
    moved -= moved.mean(axis=0)
    return np.asarray((n - 1) / n * moved.T @ moved)


def _block_equations_numpy(cell: Index, part: Part, A: FloatArray, b: FloatArray) -> None:
    """Add the matches' shares of the normal equations to their blocks' A (n, 7, 7) and b (n, 7)."""
    Jw = part.J * part.weights
    for number in np.unique(cell):
        chosen = cell == number
        rows = Jw[:, :, chosen].reshape(7, -1)
        A[number] += rows @ part.J[:, :, chosen].reshape(7, -1).T
        b[number] += rows @ part.error[:, chosen].ravel()


def across_direction(t: FloatArray) -> FloatArray:
    """(6, 5): the parameters without the direction t."""
    _, _, Vt = np.linalg.svd(t[None])
    basis = np.zeros((6, 5))
    basis[:3, :2] = Vt[1:].T
    basis[3:, 2:] = np.eye(3)
    return basis
