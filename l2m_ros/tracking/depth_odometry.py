"""Depth and odometry are two witnesses of the same metres: where both are there, they must agree.

one pose    depth that was contradicted lately is not believed against odometry
first ones  until both agreed on a way, a pose by depth is no surer than odometry's is from it: a
            part of the robot close to the camera, which never moves, may be all that depth knows
many poses  the lengths by depth over those by odometry: their common factor is seen by nothing
            else. Neither is known to be the right one, so a difference beyond what both admit
            becomes part of the uncertainty of either's metres; beyond MOST_EXCESS there are none

Ways from one keyframe err alike, and the longest is the surest: it speaks for its keyframe. Of few
keyframes the weighted mean counts; of more, the weighted median: one slip is outvoted, and a
factor that varies from keyframe to keyframe is no unit but slip, of which depth knows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6, squared_apart
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.odometry import MOUNTING, OdometryNoise, OdometryStep
from l2m_ros.types import FloatArray, MetricPose

LEAST_WAY_M = 0.1
REMEMBERED = 8  # keyframes
FEW = 3  # keyframes
MOST_EXCESS = 0.5  # of the log: one of the two is in another unit, or of another robot
# A wrong unit is one factor for all ways; what is larger than SLIP and varies by a share is slip.
SLIP, VARIES = 0.1, 0.3
FIRST_WAY_M = 0.05  # of odometry, on which both agree
FIRST_NS = 3_000_000_000  # for how long they may differ before depth is believed: wheels may slip
LEAST_SIGMA = 0.01  # of a way by odometry, relative, besides what all ways have in common


@dataclass(frozen=True)
class _Way:
    """The log of its length by depth over that by odometry, and its own variance."""

    log: float
    variance: float


class FirstAgreement:
    """Whether depth and odometry have agreed on a way yet."""

    def __init__(self) -> None:
        self._agreed = False
        self._differ_ns: int | None = None  # since when

    def admitted(
        self, pose: MetricPose, step: OdometryStep | None, stamp_ns: int, gates: GateOptions
    ) -> MetricPose:
        """A pose by depth, no surer than odometry's is from it, until both have agreed.

        As far as a pose may be unsure at all.
        """
        if step is None or self._agreed:
            return pose
        T, told = pose.keyframe_from_camera, step.a_from_b
        if squared_apart(T, pose.covariance, told, step.covariance) <= CHI2_999_6:
            self._agreed = float(np.linalg.norm(told[:3, 3])) > FIRST_WAY_M
            return pose
        if self._differ_ns is None:
            self._differ_ns = stamp_ns
        if stamp_ns - self._differ_ns > FIRST_NS:
            return pose
        apart = se3.difference(told, T)
        P, more = pose.covariance, []
        for part, most in ((slice(0, 3), gates.max_sigma_m), (slice(3, 6), gates.max_sigma_rad)):
            left = max(0.0, most**2 - float(np.linalg.eigvalsh(P[part, part])[-1]))
            more += [min(float(apart[part] @ apart[part]), 0.99 * left)] * 3
        return replace(pose, covariance=P + np.diag(more))


class ScaleAgainstOdometry:
    """Remembers by how much ways are longer by depth than by odometry."""

    def __init__(self) -> None:
        self._ways: dict[int, _Way] = {}  # by keyframe, the surest of each
        self._systematic = 0.0

    def learn(
        self, keyframe: int, pose: MetricPose, step: OdometryStep | None, noise: OdometryNoise
    ) -> None:
        """A pose by depth that was believed, and the same way by odometry."""
        if step is None:
            return
        t, o = pose.keyframe_from_camera[:3, 3], step.a_from_b[:3, 3]
        seen_m, told_m = float(np.linalg.norm(t)), float(np.linalg.norm(o))
        if min(seen_m, told_m) < LEAST_WAY_M:
            return
        # What all ways by this odometry may have in common.
        self._systematic = MOUNTING if step.modelled is None else noise.sigma_m_per_m
        # Of the shorter way: one that slip made longer is no surer.
        along = float(o @ step.covariance[:3, :3] @ o) / (told_m * min(seen_m, told_m)) ** 2
        variance = max(along - self._systematic**2, LEAST_SIGMA**2)
        known = self._ways.get(keyframe)
        if known is None or variance <= known.variance:
            self._ways[keyframe] = _Way(float(np.log(seen_m / told_m)), variance)
        while len(self._ways) > REMEMBERED:
            del self._ways[next(iter(self._ways))]

    def excess(self, depth_scale_sigma: float) -> float:
        """The log of the factor between both, where it is more than both admit; else 0."""
        if not self._ways:
            return 0.0
        logs = np.array([way.log for way in self._ways.values()])
        weights = 1.0 / np.array([way.variance for way in self._ways.values()])
        middle = _middle(logs, weights)
        spread, middle = _middle(np.abs(logs - middle), weights), abs(middle)
        if middle > SLIP and len(logs) >= FEW and spread > VARIES * middle:
            return 0.0
        chance = 1.0 / weights.sum()
        admitted = np.sqrt(depth_scale_sigma**2 + self._systematic**2 + chance)
        return middle if middle > admitted else 0.0


def _middle(logs: FloatArray, weights: FloatArray) -> float:
    """Weighted mean of few, else the weighted median."""
    if len(logs) < FEW:
        return float(np.average(logs, weights=weights))
    order = np.argsort(logs)
    reached = np.cumsum(weights[order]) - 0.5 * weights[order]
    return float(np.interp(0.5 * weights.sum(), reached, logs[order]))
