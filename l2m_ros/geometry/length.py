"""How long a two-view translation is, from depths that a network read off a single image.

Where there is parallax, matches alone give rotation and direction far better than such depths do,
and they show relative depths of their own. What is left to the network is one length L, and a
shift s that its depths have in common:

    L z = m + s,  log (m / z) = log L - s / m      z triangulated with |t| = 1, m the network's,
                                                   s ~ N(0, shift sigma)

Solved robustly in the log: a network's depths err by factors, and what is linear in 1 / m would
take those read too near for heavier ones (lengths 5 to 10 % too short). Neighbouring depths err
together, so a thousand matches count as INDEPENDENT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.rays import RayPairs, homogeneous
from l2m_ros.geometry.triangulation import nearest_depths
from l2m_ros.types import FloatArray

INDEPENDENT = 30.0  # matches; cells of a network's depth are no more
LEAST_MATCHES = 12
ROUNDS = 10
CAUCHY = 2.0  # standard deviations at which a match counts half


@dataclass(frozen=True)
class Length:
    """In metres, with its own sigma: without what all depths of the image or the place share."""

    length_m: float
    sigma_m: float
    shift_m: float
    misfit: float  # robust spread of the relative residuals, in their sigmas
    spread: float  # of the log of depth read over depth seen: how far the shape is off


def length_from_depths(
    pairs: RayPairs,
    T: FloatArray,
    inlier: npt.NDArray[np.bool_],
    *,
    match_sigma: float,
    depth_sigma: FloatArray,
    shift_sigma_m: float,
) -> Length | None:
    """T: rotation and unit direction; inlier (N,) bool; match_sigma in normalised units of a ray;
    depth_sigma (N,) relative. None where too few matches have a depth and a parallax."""
    k, v = homogeneous(pairs.keyframe), T[:3, :3] @ homogeneous(pairs.query)
    z, _, angle = nearest_depths(k, v, T[:3, 3:4], axis=0)
    m = pairs.keyframe_m
    with np.errstate(divide="ignore", invalid="ignore"):
        sigma = np.hypot(depth_sigma, match_sigma / angle)
    good = inlier & (z > 0) & (m > 0) & np.isfinite(m) & (angle > 2.0 * match_sigma)
    if good.sum() < LEAST_MATCHES:
        return None
    z, m, sigma = z[good], m[good], sigma[good]
    ratio = np.log(m / z)
    rows = np.stack([np.ones_like(m), -1.0 / m], axis=1) / sigma[:, None]  # of (log L, s)
    right = ratio / sigma
    x = np.array([np.median(ratio), 0.0])
    prior = np.diag([0.0, 1.0 / max(shift_sigma_m, 1e-6) ** 2])
    share = INDEPENDENT / max(len(m), INDEPENDENT)
    for _ in range(ROUNDS):
        off = (rows @ x - right) / CAUCHY
        weights = share / (1.0 + off * off)
        A = (rows * weights[:, None]).T @ rows + prior
        x = np.linalg.solve(A, rows.T @ (weights * right))
    off = rows @ x - right
    misfit = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    variance = float(np.linalg.inv(A)[0, 0]) * max(misfit, 1.0) ** 2
    length_m = float(np.exp(x[0]))
    if not (np.isfinite(x).all() and np.isfinite(length_m) and length_m > 0):
        return None
    spread = 1.4826 * float(np.median(np.abs(ratio - np.median(ratio))))
    return Length(length_m, length_m * float(np.sqrt(variance)), float(x[1]), misfit, spread)
