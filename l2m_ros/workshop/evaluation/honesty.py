"""What mean NEES an honest covariance has where the truth errs too, by no known amount.

    NEES of a pose       e^T (P + T)^-1 e        T: the truth's stated sigma, squared
    errors, in truth     of covariance c P + q T

Where the truth is better than it says (q < 1), the mean is below 6 although P is honest, and no P
can raise it above e^T T^-1 e. Both factors are the likeliest ones on one half of the poses; with
them the other half is told what mean it would have if P were exactly right:

    best = mean of trace((c P + T)^-1 (c P + q T))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2, norm

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray
from l2m_ros.workshop.evaluation.tracking import (
    WRONG_POSE_SIGMAS,
    PosedFrame,
    TruthSigma,
)
from l2m_ros.workshop.evaluation.trajectory import Trajectory

POSE_FACTORS = np.geomspace(0.05, 20.0, 25)
TRUTH_FACTORS = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0])
COST_LIMIT = float(chi2.isf(2 * norm.sf(WRONG_POSE_SIGMAS), 6))  # no error counts for more
LEAST = 10  # poses of a half


@dataclass(frozen=True)
class Honesty:
    """Mean NEES of one recording's poses."""

    stated: float  # with the truth's stated sigma added
    alone: float  # without it: the truth counts as exact
    ceiling: float  # of a covariance of zero, with the truth's sigma
    best: float  # of an exactly honest covariance, with the truth's sigma; NaN of few poses
    pose_factor: tuple[float, float]  # likeliest factor of P, fitted on either half
    truth_factor: tuple[float, float]  # ... of the truth's variance


def honesty(posed: Sequence[PosedFrame], truth: Trajectory, sigma: TruthSigma) -> Honesty:
    """Of poses in the order of time."""
    errors = np.array([_error(record, truth) for record in posed])
    P = np.array([record.covariance for record in posed])
    T = np.broadcast_to(sigma.covariance(), P.shape)
    stated, alone = (float(_nees(errors, C).mean()) for C in (P + T, P))
    ceiling = float(_nees(errors, T).mean()) if T.any() else np.inf
    half = len(posed) // 2
    parts = slice(0, half), slice(half, None)
    if half < LEAST:
        nothing = (np.nan, np.nan)
        return Honesty(stated, alone, ceiling, np.nan, nothing, nothing)
    first, second = (likeliest(errors[part], P[part], T[part]) for part in parts)
    best = np.mean([
        _expected(P[parts[1]], T[parts[1]], *first),
        _expected(P[parts[0]], T[parts[0]], *second),
    ])  # fmt: skip
    factors = (first[0], second[0]), (first[1], second[1])
    return Honesty(stated, alone, ceiling, float(best), *factors)


def likeliest(errors: FloatArray, P: FloatArray, T: FloatArray) -> tuple[float, float]:
    """(factor of P, factor of T) under which these errors are likeliest."""
    costs = {
        (float(c), float(q)): _cost(errors, c * P + q * T)
        for c in POSE_FACTORS
        for q in TRUTH_FACTORS
    }
    return min(costs, key=lambda factors: costs[factors])


def _cost(errors: FloatArray, C: FloatArray) -> float:
    return float(np.mean(np.linalg.slogdet(C)[1] + np.minimum(_nees(errors, C), COST_LIMIT)))


def _expected(P: FloatArray, T: FloatArray, c: float, q: float) -> float:
    return float(np.trace(np.linalg.solve(c * P + T, c * P + q * T), axis1=1, axis2=2).mean())


def _nees(errors: FloatArray, C: FloatArray) -> FloatArray:
    return np.asarray((errors * np.linalg.solve(C, errors[:, :, None])[:, :, 0]).sum(axis=1))


def _error(record: PosedFrame, truth: Trajectory) -> FloatArray:
    ends = [truth.at(stamp) for stamp in (record.keyframe_stamp_ns, record.stamp_ns)]
    assert ends[0] is not None and ends[1] is not None
    return se3.difference(record.keyframe_from_camera, se3.inverse(ends[0]) @ ends[1])
