"""Odometry that misbehaves: wheels that slip, messages that are late or missing, jumps.

What each is called on the command line is in `sensor_faults.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.workshop.simulation.path import BODY_FROM_OPTICAL
from l2m_ros.workshop.simulation.sequence import Shots

SLIP_M_S = 0.5
SCALE, LATE_S, JUMP_M = 1.1, 0.1, 0.4


def slip(shots: Shots, rng: np.random.Generator) -> Shots:
    """The wheels spin for one second in three: the base is said to go forward faster."""
    drift, before = np.eye(4), None
    for shot in shots:
        if before is not None and shot.time_s % 3.0 > 2.0:
            slip = np.eye(4)
            slip[0, 3] = SLIP_M_S * (shot.time_s - before.time_s)
            drift = drift @ before.odom_from_base @ slip @ np.linalg.inv(before.odom_from_base)
        before = shot
        yield replace(shot, odom_from_base=drift @ shot.odom_from_base)


def covariance(diagonal: Sequence[float]) -> Callable[[Shots, np.random.Generator], Shots]:
    def apply(shots: Shots, rng: np.random.Generator) -> Shots:
        for shot in shots:
            yield replace(shot, odom_covariance=np.diag(diagonal))

    return apply


def gaps(shots: Shots, rng: np.random.Generator) -> Shots:
    """Three seconds in six without a message."""
    for shot in shots:
        yield replace(shot, odom_published=shot.time_s % 6.0 < 3.0)


def wrong_frame(shots: Shots, rng: np.random.Generator) -> Shots:
    """Poses in optical axes where the base's are promised."""
    turn = BODY_FROM_OPTICAL
    for shot in shots:
        yield replace(shot, odom_from_base=turn.T @ shot.odom_from_base @ turn)


def scaled(shots: Shots, rng: np.random.Generator) -> Shots:
    """Wheels of another radius: each way is said to be SCALE as long."""
    start = None
    for shot in shots:
        start = shot.odom_from_base if start is None else start
        moved = se3.inverse(start) @ shot.odom_from_base
        moved[:3, 3] *= SCALE
        yield replace(shot, odom_from_base=start @ moved)


def late(shots: Shots, rng: np.random.Generator) -> Shots:
    """Stamped LATE_S after it was measured."""
    for shot in shots:
        yield replace(shot, odom_late_ns=round(LATE_S * 1e9))


def jumps(shots: Shots, rng: np.random.Generator) -> Shots:
    """Every four seconds odometry jumps, as a fusion with GPS or a map does."""
    for shot in shots:
        jumps = int(shot.time_s // 4.0)
        moved = np.eye(4)
        moved[:2, 3] = JUMP_M * (jumps % 2), 0.5 * JUMP_M * (jumps // 2 % 2)
        yield replace(shot, odom_from_base=moved @ shot.odom_from_base)
