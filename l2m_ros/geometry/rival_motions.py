"""Other motions that explain the same matches: minima of the epipolar cost beside the one found.

A motion to the side and a turn move the pixels of a shallow scene nearly alike, and so the cost of
an essential matrix has several minima, often steep ones. A search ends in one of them, not always
in the lowest. Each is reached from where it begins: the rotation that explains the matches best,
with a translation along one of the camera's axes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.rays import Noise, RayPairs
from l2m_ros.geometry.refine import epipolar_terms, settle
from l2m_ros.geometry.residuals import epipolar_rows
from l2m_ros.geometry.robust import HALF_WEIGHT, costs_of
from l2m_ros.geometry.triangulation import behind_a_camera, triangulated_depth
from l2m_ros.types import FloatArray

# Radians, or of the unit translation: iterations stop up to 0.06 beside the minimum they seek.
APART = 0.08
SAME_COST = 12.0  # two motions whose -2 log likelihoods differ by less cannot be told apart
SURE = 3.0  # ... of a plane, nor by less than so many standard deviations of chance


@dataclass(frozen=True, eq=False)
class Motion:
    """4x4 keyframe_from_camera with a unit translation, and -2 log likelihood of the matches."""

    pose: FloatArray
    cost: float
    found: bool  # from where the search ended


def motions(pairs: RayPairs, found: FloatArray, turned: FloatArray, noise: Noise) -> list[Motion]:
    """Minima of the cost, the likeliest first.

    turned: 4x4 the rotation that explains the matches best.
    """
    minima: list[Motion] = []
    for start in (found, *(se3.transform(turned[:3, :3], axis) for axis in np.eye(3))):
        settled = settle(pairs, start, epipolar_terms(pairs), noise)
        if settled is None or not np.isfinite(settled.pose).all():
            continue
        T = ahead(pairs, settled.pose, settled.weights)
        if all(apart(T, other.pose) > APART for other in minima):
            minima.append(Motion(T, motion_cost(pairs, T, noise), start is found))
    return sorted(minima, key=lambda motion: motion.cost)


def apart(a: FloatArray, b: FloatArray) -> float:
    return float(np.linalg.norm(se3.difference(a, b)))


def motion_costs(pairs: RayPairs, T: FloatArray, noise: Noise) -> FloatArray:
    """(N,) -2 log likelihood; an inlier whose point lies behind a camera costs like an outlier.

    Behind either one: turned by half a turn about the translation, a motion has the same epipolar
    lines and its points ahead of one camera only.
    """
    rows = epipolar_rows(pairs, T, None, noise, 0.0)
    behind = (rows.squared < HALF_WEIGHT[1]) & behind_a_camera(pairs, T)
    return np.asarray(costs_of(rows) + HALF_WEIGHT[1] * behind)


def motion_cost(pairs: RayPairs, T: FloatArray, noise: Noise) -> float:
    return float(motion_costs(pairs, T, noise).sum())


def told_apart(costs: FloatArray, others: FloatArray, told: float) -> bool:
    """Whether the matches tell a plane's motion of `costs` (N,) from that of `others`, the dearer.

    told: effective matches / matches. Nothing but chance lies between a plane's two motions: they
    have epipolar lines of other directions, and each match errs from both by other amounts. How
    much chance makes of that the matches' own differences say (Vuong's test).
    """
    more = others - costs
    chance = float(np.sqrt(((more - more.mean()) ** 2).sum() / told))
    return float(more.sum()) > max(SAME_COST / told, SURE * chance)


def ahead(pairs: RayPairs, T: FloatArray, weights: FloatArray) -> FloatArray:
    """t and -t have the same epipolar lines; the sign that puts the points in front."""
    if float((weights * np.sign(triangulated_depth(pairs, T))).sum()) >= 0:
        return T
    pose = T.copy()
    pose[:3, 3] *= -1
    return pose
