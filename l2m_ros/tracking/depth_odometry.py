"""Depth and odometry are two witnesses of the same metres: where both are there, they must agree.

one pose    depth that was contradicted lately is not believed against odometry
many poses  the lengths by depth over those by odometry: their common factor is seen by nothing
            else. Neither is known to be the right one, so a difference beyond what both admit
            becomes part of the depth's scale uncertainty
"""

from __future__ import annotations

from collections import deque

import numpy as np

from l2m_ros.tracking.odometry import MOUNTING, OdometryNoise, OdometryStep
from l2m_ros.types import MetricPose

LEAST_WAY_M = 0.1
REMEMBERED = 30  # ways
LEAST = 8  # ways before a median is believed
TOGETHER = 4.0  # ways from one keyframe err alike
SIGMAS = 1.5  # of what both admit


class ScaleAgainstOdometry:
    """Remembers by how much ways are longer by depth than by odometry."""

    def __init__(self) -> None:
        self._logs: deque[float] = deque(maxlen=REMEMBERED)
        self._systematic = 0.0

    def learn(self, pose: MetricPose, step: OdometryStep | None, noise: OdometryNoise) -> None:
        """A pose by depth that was believed, and the same way by odometry."""
        if step is None:
            return
        t, o = pose.keyframe_from_camera[:3, 3], step.a_from_b[:3, 3]
        seen_m, told_m = float(np.linalg.norm(t)), float(np.linalg.norm(o))
        if min(seen_m, told_m) < LEAST_WAY_M:
            return
        # What all ways by this odometry may have in common.
        self._systematic = MOUNTING if step.modelled is None else noise.sigma_m_per_m
        self._logs.append(float(np.log(seen_m / told_m)))

    def excess(self, depth_scale_sigma: float) -> float:
        """The factor between both, relative, where it is more than both admit; else 0."""
        if len(self._logs) < LEAST:
            return 0.0
        middle = float(np.median(self._logs))
        spread = 1.4826 * float(np.median(np.abs(np.array(self._logs) - middle)))
        chance = spread * np.sqrt(TOGETHER / len(self._logs))
        admitted = np.linalg.norm([depth_scale_sigma, self._systematic, chance])
        return abs(middle) if abs(middle) > SIGMAS * admitted else 0.0
