"""Odometry that speeds up as no base does: its wheels may have begun to slip.

Where nothing of the scene's depth is known, or in a turn that leaves it, the images cannot say how
long a way was. Then how odometry came to its speed is the only sign.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample

# Wheeled robots stay below 2; a hand that carries a camera has 1.4 at most (an office). What may
# accelerate by more than 2.5 (tracking.max_acceleration_m_s2) may leap by more.
USUAL_M_S2, SHARE_OF_MOST = 2.0, 0.8
NOISE_M_S, NOISE_SHARE = 0.05, 0.1  # of a speed read off two samples; stamps are late by a tenth
LONGEST_NS = 500_000_000  # between two samples whose speed means something
SUSPECTED_NS = 3_000_000_000  # for how long it may be slip, if the scene does not say otherwise


class OdometrySpeed:
    """Remembers the speeds of the last half second, and when the last leap was."""

    def __init__(self) -> None:
        self._last: OdometrySample | None = None
        self._speeds: deque[tuple[int, float]] = deque()  # (stamp, m/s)
        self._leapt_ns: int | None = None

    def see(self, sample: OdometrySample, max_acceleration_m_s2: float) -> None:
        """Once a frame; a stamp that was seen says nothing new."""
        last = self._last
        if last is not None and sample.stamp_ns == last.stamp_ns:
            return
        self._last = sample
        apart_ns = 0 if last is None else sample.stamp_ns - last.stamp_ns
        if last is None or not 0 < apart_ns <= LONGEST_NS or sample.delay_ns != last.delay_ns:
            self._speeds.clear()
            return
        way = se3.inverse(last.odom_from_base) @ sample.odom_from_base
        speed = float(np.linalg.norm(way[:3, 3])) / (apart_ns * 1e-9)
        noise = NOISE_M_S + NOISE_SHARE * speed
        while self._speeds and sample.stamp_ns - self._speeds[0][0] > LONGEST_NS:
            self._speeds.popleft()
        most = max(USUAL_M_S2, SHARE_OF_MOST * max_acceleration_m_s2)
        allowed = (
            before + most * (sample.stamp_ns - stamp_ns) * 1e-9 + noise
            for stamp_ns, before in self._speeds
        )
        if speed > min(allowed, default=np.inf):
            self._leapt_ns = sample.stamp_ns
        self._speeds.append((sample.stamp_ns, speed))

    def agree(self) -> None:
        """The scene says that the way is right."""
        self._leapt_ns = None

    def suspect(self, stamp_ns: int) -> bool:
        """Whether odometry leapt a moment ago, and nothing has shown since that it was right."""
        return self._leapt_ns is not None and stamp_ns - self._leapt_ns < SUSPECTED_NS
