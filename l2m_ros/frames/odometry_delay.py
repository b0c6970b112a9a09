"""How much later odometry's messages are stamped than what they tell of: learnt from turns.

Drivers stamp a message when it is sent, wheels are filtered, and the camera's clock is another one.
The matches alone tell how the camera turned between two images; odometry tells it, too, read at any
delay. Where the turning changes, only the right delay suits both:

    odometry's turn from a + d to b + d, inverse of the matches' turn from a to b
        -> chi-square by d, summed over the last frames -> its least

The metres of a single camera are odometry's way between two images: at 1 m/s and 0.1 s late it is
0.1 m wrong wherever the speed changes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.frames.odometry_buffer import OdometryBuffer
from l2m_ros.types import FloatArray, Turn

REACH_NS = 300_000_000  # around the delay that was given
STEP_NS = 20_000_000
GRID_NS = np.arange(-REACH_NS, REACH_NS + 1, STEP_NS)
TURN_NOISE = 0.03  # of a turn: wheels and gyroscopes err by so much of it
FLOOR_RAD = 5e-3
MOST = 25.0  # chi-square of one frame: beyond it a turn is wrong, and says no more
FRAMES = 200  # that are remembered
LEAST_FRAMES, LEAST_KEYFRAMES = 10, 4
# Mean chi-square of a degree of freedom at the best delay: above it no delay makes both agree, and
# something else is wrong.
NO_DELAY = 5.0
GAIN = 6.0  # of chi-square, before another delay is taken
LEAST_NS, SIGMAS = 15_000_000, 3.0  # a smaller change is not worth a keyframe
KEPT_STAMPS = 100
SIGMA_NS = 20_000_000  # of a delay that nothing has shown yet: stamps of drivers and of images


@dataclass(frozen=True, eq=False)
class _Seen:
    keyframe_ns: int
    stamp_ns: int
    turn: FloatArray  # 3x3, of the base
    covariance: FloatArray


@dataclass(frozen=True)
class _Hold:
    since_ns: int  # stamp of an image
    delay_ns: int
    sigma_ns: float


class OdometryDelay:
    """Not thread-safe but for `at`: one thread learns, any may ask."""

    def __init__(
        self, buffer: OdometryBuffer, given_ns: int = 0, given_sigma_ns: int = SIGMA_NS
    ) -> None:
        self._buffer, self._given_ns, self._given_sigma_ns = buffer, given_ns, given_sigma_ns
        self.forget()

    def forget(self) -> None:
        """Begin anew with the delay that was given."""
        # The delays, each from an image's stamp on: odometry must have come so far by then.
        self._holds = [_Hold(-1, self._given_ns, self._given_sigma_ns)]
        self._waiting: deque[_Seen] = deque()
        self._curves: deque[tuple[int, FloatArray]] = deque(maxlen=FRAMES)  # and its keyframe
        self._told: OrderedDict[int, FloatArray | None] = OrderedDict()

    @property
    def learnt_ns(self) -> int | None:
        """None: what was given suits."""
        newest = self._holds[-1].delay_ns
        return None if newest == self._given_ns else newest

    def at(self, stamp_ns: int) -> int:
        """The delay by which odometry is read for an image of this stamp."""
        return self._hold(stamp_ns).delay_ns

    def sigma_s(self, stamp_ns: int) -> float:
        """One standard deviation of that delay."""
        return 1e-9 * self._hold(stamp_ns).sigma_ns

    def _hold(self, stamp_ns: int) -> _Hold:
        newest_first = self._holds[::-1]
        return next((it for it in newest_first if stamp_ns >= it.since_ns), newest_first[-1])

    def see(
        self, keyframe_ns: int, stamp_ns: int, turn: Turn, base_from_camera: FloatArray
    ) -> None:
        """An image was tracked. What it shows counts once odometry is sure to have come."""
        if self._waiting and stamp_ns < self._waiting[-1].stamp_ns:
            self.forget()  # time jumped back
        B = base_from_camera[:3, :3]
        R, P = turn.keyframe_from_camera, turn.covariance
        self._waiting.append(_Seen(keyframe_ns, stamp_ns, B @ R @ B.T, B @ P @ B.T))
        while self._waiting and self._waiting[0].stamp_ns + 2 * REACH_NS <= stamp_ns:
            seen = self._waiting.popleft()
            curve = self._curve(seen)
            if curve is not None:
                self._curves.append((seen.keyframe_ns, curve))
                self._decide(stamp_ns)

    def _curve(self, seen: _Seen) -> FloatArray | None:
        """(n,) chi-square of a degree of freedom at each delay."""
        from scipy.spatial.transform import Rotation  # 0.1 s to import; needed with odometry only

        a, b = self._told_at(seen.keyframe_ns), self._told_at(seen.stamp_ns)
        if a is None or b is None:
            return None
        told = np.swapaxes(a, 1, 2) @ b
        off = Rotation.from_matrix(told @ seen.turn.T).as_rotvec()
        turned = float(Rotation.from_matrix(seen.turn).magnitude())
        P = seen.covariance + ((TURN_NOISE * turned) ** 2 + FLOOR_RAD**2) * np.eye(3)
        squared = np.einsum("ni,ni->n", off, np.linalg.solve(P, off.T).T)
        return np.minimum(squared, MOST) / 3.0

    def _told_at(self, stamp_ns: int) -> FloatArray | None:
        if stamp_ns not in self._told:
            self._told[stamp_ns] = self._read(stamp_ns + self._given_ns)
            while len(self._told) > KEPT_STAMPS:
                self._told.popitem(last=False)
        self._told.move_to_end(stamp_ns)
        return self._told[stamp_ns]

    def _read(self, middle_ns: int) -> FloatArray | None:
        from scipy.spatial.transform import Rotation, Slerp

        samples = self._buffer.around(middle_ns - REACH_NS, middle_ns + REACH_NS)
        if not samples:
            return None
        times = np.array([sample.stamp_ns - middle_ns for sample in samples])
        turns = Rotation.from_matrix([sample.odom_from_base[:3, :3] for sample in samples])
        return np.asarray(Slerp(times, turns)(GRID_NS).as_matrix())

    def _decide(self, stamp_ns: int) -> None:
        """Take the delay of least cost, where it is much better and all keyframes say so.

        Frames of one keyframe err alike. The delay's sigma is the jackknife's over keyframes.
        """
        by_keyframe: dict[int, FloatArray] = {}
        for keyframe, curve in self._curves:
            by_keyframe[keyframe] = by_keyframe.get(keyframe, 0.0) + curve
        frames, keyframes = len(self._curves), len(by_keyframe)
        if frames < LEAST_FRAMES or keyframes < LEAST_KEYFRAMES:
            return
        cost = np.sum(list(by_keyframe.values()), axis=0)
        found_ns = _least(cost)
        without = [_least(cost - curve) for curve in by_keyframe.values()]
        least = float(cost.min())
        if found_ns is None or None in without or least > NO_DELAY * frames:
            return
        sigma_ns = np.sqrt((keyframes - 1) * np.var(np.array(without, float)))
        now_ns = self._holds[-1].delay_ns - self._given_ns
        gain = (float(np.interp(now_ns, GRID_NS, cost)) - least) / max(1.0, least / frames)
        off_ns, least_ns = abs(found_ns - now_ns), LEAST_NS / 2
        if gain < GAIN or off_ns < max(LEAST_NS, SIGMAS * sigma_ns):
            sigma_ns = min(max(least_ns, np.hypot(sigma_ns, off_ns)), self._given_sigma_ns)
            self._holds[-1] = replace(self._holds[-1], sigma_ns=sigma_ns)
            return
        delay_ns, sigma_ns = self._given_ns + round(found_ns), max(least_ns, sigma_ns)
        self._holds = [*self._holds[-2:], _Hold(stamp_ns + REACH_NS, delay_ns, sigma_ns)]


def _least(cost: FloatArray) -> float | None:
    """The delay of least cost, between the steps of the grid; None at its end."""
    best = int(np.argmin(cost))
    if best in (0, len(cost) - 1):
        return None
    left, here, right = cost[best - 1 : best + 2]
    bend = max(float(left - 2 * here + right), 1e-9)
    return float(GRID_NS[best] + STEP_NS * (left - right) / (2 * bend))
