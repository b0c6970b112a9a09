"""Odometry by stamp, at an image's stamp: interpolated over a bounded gap, extrapolated a little.

What the base may have done between two messages is admitted: a base that accelerates by a leaves
the straight line between stamps t0 and t1 by a |t - t0| |t - t1| / 2 at t.
"""

from __future__ import annotations

import bisect
import threading
from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import FloatArray

MAX_GAP_NS = 500_000_000
EXTRAPOLATED_NS = 50_000_000  # beyond the newest message: one that is on its way
KEPT = 2000  # 10 s at 200 Hz
JUMP_BACK_NS = 1_000_000_000  # a looping bag; less is a straggler
# One standard deviation of what a base does between two messages: wheels, or a hand.
ACCELERATION_M_S2 = 1.0
ACCELERATION_RAD_S2 = 2.0


class OdometryBuffer:
    """Thread-safe. `problem` says why the last `at` returned None."""

    def __init__(self, max_gap_ns: int = MAX_GAP_NS) -> None:
        self.max_gap_ns = max_gap_ns
        self.problem: str | None = None
        self._samples: list[OdometrySample] = []
        self._lock = threading.Lock()

    @property
    def newest_ns(self) -> int:
        """-1 where there is none."""
        with self._lock:
            return self._samples[-1].stamp_ns if self._samples else -1

    def add(self, sample: OdometrySample) -> None:
        with self._lock:
            if self._samples and sample.stamp_ns <= self._samples[-1].stamp_ns:
                if self._samples[-1].stamp_ns - sample.stamp_ns < JUMP_BACK_NS:
                    return  # a straggler or a repeated stamp
                self._samples.clear()  # time jumped back
            self._samples.append(sample)
            del self._samples[:-KEPT]

    def forget(self, after_ns: int) -> None:
        with self._lock:
            self._samples = [s for s in self._samples if s.stamp_ns <= after_ns]

    def around(self, first_ns: int, last_ns: int) -> list[OdometrySample]:
        """The messages from the last one before `first_ns` to the first after `last_ns`.

        Empty where they do not reach so far, or pause for too long.
        """
        with self._lock:
            first = bisect.bisect_right(self._samples, first_ns, key=_stamp_ns) - 1
            last = bisect.bisect_left(self._samples, last_ns, key=_stamp_ns)
            if first < 0 or last >= len(self._samples):
                return []
            samples = self._samples[first : last + 1]
        longest_ns = max(np.diff([sample.stamp_ns for sample in samples]), default=0)
        return samples if longest_ns <= self.max_gap_ns else []

    def at(self, stamp_ns: int) -> OdometrySample | None:
        """The base at a stamp, from the two messages next to it; None where they are too far."""
        with self._lock:
            samples = self._samples
            after = bisect.bisect_left(samples, stamp_ns, key=_stamp_ns)
            near = samples[after : after + 1]
            pair = samples[max(after - 1, 0) :][:2] if after < len(samples) else samples[-2:]
        self.problem = None
        if near and near[0].stamp_ns == stamp_ns:
            return replace(near[0], velocity=self._velocity(pair))
        self.problem = self._objection(pair, stamp_ns)
        return None if self.problem else between(*pair, stamp_ns)

    def _velocity(self, pair: list[OdometrySample]) -> FloatArray:
        """(6,) between two messages; zeros where they do not tell it."""
        if len(pair) < 2 or pair[1].stamp_ns - pair[0].stamp_ns > self.max_gap_ns:
            return np.zeros(6)
        return velocity(*pair)

    def _objection(self, pair: list[OdometrySample], stamp_ns: int) -> str | None:
        if len(pair) < 2:
            return "no two messages of odom yet"
        a, b = pair
        gap_s, bound_s = (b.stamp_ns - a.stamp_ns) / 1e9, self.max_gap_ns / 1e9
        if gap_s > bound_s:
            return (
                f"odom pauses for {gap_s:.2f} s: images in between are without it; publish it "
                f"faster, or raise sync.odom_gap_s ({bound_s:g})"
            )
        beyond_ns = max(stamp_ns - b.stamp_ns, a.stamp_ns - stamp_ns)
        if beyond_ns > EXTRAPOLATED_NS:
            return (
                f"odom is {beyond_ns / 1e9:.3f} s away from the image: does it still come, and "
                "with the camera's clock?"
            )
        return None


def _stamp_ns(sample: OdometrySample) -> int:
    return sample.stamp_ns


def between(a: OdometrySample, b: OdometrySample, stamp_ns: int) -> OdometrySample:
    """On the straight way from a to b at constant speed, or a little beyond it."""
    weight = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    pose = se3.interpolate(a.odom_from_base, b.odom_from_base, weight)
    inside = min(max(weight, 0.0), 1.0)
    covariance = (1 - inside) * a.covariance + inside * b.covariance
    timing = _timing(abs(stamp_ns - a.stamp_ns) * 1e-9, abs(stamp_ns - b.stamp_ns) * 1e-9)
    return OdometrySample(stamp_ns, pose, covariance, timing, velocity=velocity(a, b))


def velocity(a: OdometrySample, b: OdometrySample) -> FloatArray:
    """(6,) of a base that goes from a to b, in its own axes."""
    way = se3.inverse(a.odom_from_base) @ b.odom_from_base
    return se3.log(way) / ((b.stamp_ns - a.stamp_ns) * 1e-9)


def _timing(before_s: float, after_s: float) -> FloatArray:
    """6x6 of what the base may have done beside the straight way."""
    acceleration = np.array([ACCELERATION_M_S2] * 3 + [ACCELERATION_RAD_S2] * 3)
    return np.diag((acceleration * before_s * after_s / 2) ** 2)
