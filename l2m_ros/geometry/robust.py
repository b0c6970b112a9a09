"""The robust cost of a match's residual, and how noisy the matches are by all of them.

    cost = -2 log(exp(-d^2 / 2) + exp(-c / 2)),   d^2 = |e|^2

the likelihood of a mixture of Gaussian inliers and uniform outliers: weight 1 near, 0 far, half
at d^2 = c. The noise is estimated from the residuals across the epipolar lines, where depth noise
has no say; the depth's noise may grow beyond its model where the residuals along the lines ask for
it, never shrink below. What the texture leaves open may be less than its model says where textured
matches agree better (a rendered or a very good image), never more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gamma
from typing import Any, Protocol

import numpy as np

from l2m_ros.geometry.rays import Noise
from l2m_ros.geometry.residuals import Rows
from l2m_ros.types import FloatArray

# d^2 of half weight by observed rows: an inlier lies beyond once in 300 to 500.
HALF_WEIGHT = np.array([1.0, 9.0, 12.0, 14.5])
MIN_MATCH_FACTOR = 0.02**2  # px^2: an exact world must not give a zero covariance
MIN_TEXTURE_FACTOR = 0.02  # 0.6 of 4 grey levels: no camera is better
MIN_TEXTURE_ROWS = 30.0
WRONG_DEPTH = 10.0  # factor of the depth's variance at which the texture's stays 1
WITNESS = 4  # the texture's factor may be the match's to this power at least
MIN_DEPTH_ROWS = 30.0  # residuals needed before the depth's noise model is doubted
REACH_SIGMAS = 9.0  # of an inlier's residual; beyond lies nothing that counts


class Weighed(Protocol):
    """Matches with the same residual."""

    rows: Rows
    weights: FloatArray  # (N,)
    textured: Any  # (N,) bool: whether the image's texture places them well


def weights_of(rows: Rows) -> FloatArray:
    """(N,) 1 near, 0 far."""
    half = HALF_WEIGHT[rows.observed.astype(np.intp)]
    excess = np.minimum(rows.squared - half, 700.0)  # exp overflows beyond
    return np.asarray(1.0 / (1.0 + np.exp(0.5 * excess)))


def costs_of(rows: Rows) -> FloatArray:
    """(N,) -2 log likelihood, up to a constant; comparable between poses at the same noise only."""
    half = HALF_WEIGHT[rows.observed.astype(np.intp)]
    return np.asarray(-2.0 * np.logaddexp(-0.5 * rows.squared, -0.5 * half))


def noise_now(groups: Sequence[Weighed], noise: Noise, parameters: int) -> Noise:
    """Both factors, each from the residuals in proportion to its part of their variance."""
    match, match_rows, depth, depth_rows, texture, texture_rows, rows = np.zeros(7)
    for group in groups:
        squared = group.weights * group.rows.error**2  # (r, N)
        share, of_depth = group.rows.match_fraction, group.rows.depth_fraction
        of_texture = group.rows.texture_fraction * group.textured
        weight = group.weights * observed_rows(group.rows)
        expected = weight * calibration(int(group.rows.observed.max()))[0]
        match += (share * squared).sum()
        depth += (of_depth * squared).sum()
        match_rows += (share * expected).sum()
        depth_rows += (of_depth * expected).sum()
        texture += (of_texture * squared).sum()
        texture_rows += (of_texture * expected).sum()
        rows += expected.sum()
    fitted = parameters / max(rows, 1.0)  # the residuals are smaller by what the fit took
    left = max(1.0 - fitted, 0.1)
    match_factor = max(noise.match * match / max(left * match_rows, 1e-9), MIN_MATCH_FACTOR)
    depth_factor = _depth_factor(noise.depth, depth, left * depth_rows)
    witness = max(min(match_factor, 1.0) ** WITNESS, (depth_factor - 1.0) / WRONG_DEPTH)
    return Noise(
        match_factor,
        depth_factor,
        _texture_factor(noise.texture, texture, left * texture_rows, witness),
    )


def _depth_factor(factor: float, squares: float, rows: float) -> float:
    """Factor on the depth noise; above 1 only where residuals significantly exceed the model."""
    if rows < MIN_DEPTH_ROWS:
        return factor
    ratio = squares / rows
    if factor == 1.0 and ratio < 1.0 + 3.0 * np.sqrt(2.0 / rows):
        return 1.0
    return max(1.0, factor * ratio)


def _texture_factor(factor: float, squares: float, rows: float, least: float) -> float:
    """Factor on what the texture is said to leave open: below 1 where textured matches show it.

    It holds for blank walls too, where matches show nothing: grey levels that differ little beside
    them differ little on them. Where matches err by more than they say, or depth does, they are no
    witness of how good the images are: least.
    """
    if rows < MIN_TEXTURE_ROWS:
        return factor
    least = min(max(MIN_TEXTURE_FACTOR, least), 1.0)
    return float(np.clip(factor * squares / rows, least, 1.0))


def observed_rows(rows: Rows) -> FloatArray:
    """(r, N): 1 where the row holds a measurement."""
    return np.asarray(np.arange(len(rows.error))[:, None] < rows.observed)


@lru_cache(maxsize=4)
def calibration(rows: int) -> tuple[float, float]:
    """Effect of the robust weights on Gaussian inliers: (variance left, loss of precision).

    E[w e^2] / E[w], and cov(estimate) (sum w J^T J) = E[w^2 e^2] E[w] / E[w + 2 w' d^2 / r]^2.
    """
    # Gauss-Legendre over the length s, s^2 = x: scipy.stats would take 0.5 s to import.
    s, step = np.polynomial.legendre.leggauss(100)
    s, step = 0.5 * REACH_SIGMAS * (s + 1.0), 0.5 * REACH_SIGMAS * step
    x = s * s
    density = 2.0 * s ** (rows - 1) * np.exp(-0.5 * x) / (2.0 ** (rows / 2) * gamma(rows / 2))
    w = 1.0 / (1.0 + np.exp(0.5 * (x - HALF_WEIGHT[rows])))
    slope = -0.5 * w * (1.0 - w)

    def mean(values: FloatArray) -> float:
        return float((values * density) @ step)

    weight = mean(w)
    left = mean(w * x) / rows / weight
    square = mean(w * w * x) / rows
    gain = mean(w + 2.0 * slope * x / rows)
    return left, square * weight / gain**2
