"""What a camera's rolling shutter is, learnt from poses: seconds from the first row to the last.

Each pose in metres says what read-out time its residuals show, and how surely. It is a constant of
the camera, so these are averaged, by their information; frames of one keyframe err together, and
where they scatter by more than they say the mean is less sure by as much. Once it is SIGNIFICANT
sigmas from zero, images are corrected by it where frames follow each other fast enough for their
velocity to be known; else it is admitted in the covariance.

A frame without a pose just before it has no known velocity. The mean since its keyframe is nearly
nothing where a hand shakes; so it is taken to move by any direction as fast as its keyframe did.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.place import Place
from l2m_ros.tracking.velocity import ACCELERATION_M_S2, ACCELERATION_RAD_S2
from l2m_ros.types import FloatArray, MetricPose

MAX_APART_S = 0.35  # a mean velocity over longer says little of the moment
# ... and over longer than this it is too far off to correct an image by: a hand-held camera at 6 Hz
# came no nearer to an odometry of another sensor, at 10 Hz errors in a simulator fell to a fifth.
MAX_CORRECTED_S = 0.12
TOGETHER = 4.0  # frames that err alike, for one keyframe
SIGNIFICANT = 4.0
LEAST_FRAMES = 8
MEMORY = 0.99  # what the past weighs a frame later
ACCELERATION = np.array([ACCELERATION_M_S2] * 3 + [ACCELERATION_RAD_S2] * 3)
LONGEST_S = 0.1  # no camera reads out for longer


@dataclass
class Readout:
    """The mean of what frames showed."""

    prior_sigma_s: float
    frames: int = 0
    # Sums over the frames, the older ones worth less: of 1, of the information I, I tau, I tau^2.
    sums: FloatArray = field(default_factory=lambda: np.zeros(4))

    def learn(self, estimate_s: float, information: float) -> None:
        if abs(estimate_s) < LONGEST_S + 3.0 / np.sqrt(information):
            powers = information * estimate_s ** np.arange(3)
            self.sums = MEMORY * self.sums + np.array([1.0, *powers])
            self.frames += 1

    @property
    def mean_s(self) -> tuple[float, float]:
        """(mean, sigma) with the prior."""
        count, information, first, second = self.sums
        scatter = 1.0  # squared deviation of a frame from the mean, in its own sigmas
        if count > 2.0 and information > 0.0:
            scatter = max(1.0, (second - first * first / information) / (count - 1.0))
        less = TOGETHER * scatter
        whole = information / less + self.prior_sigma_s**-2
        return float(first / less / whole), float(whole**-0.5)

    def estimate_s(self, apart_s: float) -> tuple[float, float]:
        """(read-out time to correct by, one sigma of what is left) of frames so far apart."""
        mean_s, sigma_s = self.mean_s
        sure = self.frames >= LEAST_FRAMES and abs(mean_s) > SIGNIFICANT * sigma_s
        if sure and abs(mean_s) < LONGEST_S and apart_s <= MAX_CORRECTED_S:
            return mean_s, sigma_s
        return 0.0, float(np.hypot(sigma_s, mean_s))


@dataclass(frozen=True, eq=False)
class _Mean:
    """A mean velocity."""

    twist: FloatArray  # (6,)
    seconds: float  # that it is of


class ShutterWatch:
    """Learns the read-out time, and how fast the camera moved when each keyframe was taken."""

    def __init__(self, prior_sigma_s: float) -> None:
        """prior_sigma_s: 0 says that the shutter is known to be a global one."""
        self.prior_sigma_s = prior_sigma_s
        self._readout = Readout(prior_sigma_s) if prior_sigma_s > 0 else None
        self._before: dict[int, _Mean] = {}  # velocity up to the keyframe, by its id
        self._after: dict[int, _Mean] = {}  # ... and from it on
        self._now: tuple[int, _Mean] | None = None  # stamp and velocity of the last pose

    @property
    def readout_s(self) -> float:
        """What images are corrected by; 0 while nothing is sure."""
        return 0.0 if self._readout is None else self._readout.estimate_s(0.0)[0]

    def forget_all_but(self, keyframes: set[int]) -> None:
        for twists in (self._before, self._after):
            for gone in twists.keys() - keyframes:
                del twists[gone]

    def motion(self, keyframe: Keyframe, before: Place | None, stamp_ns: int) -> ImageMotion | None:
        """How the camera moved at both images, as far as it is known."""
        way = _since(keyframe, before, stamp_ns)
        means = [t[keyframe.id] for t in (self._before, self._after) if keyframe.id in t]
        if self._readout is None or not means:
            return None
        twist = np.mean([mean.twist for mean in means], axis=0)
        if way is None:
            return self._unseen(keyframe, twist, stamp_ns)
        keyframe_from_before, seconds = way
        apart_s = max(seconds, *(mean.seconds for mean in means))
        sigma = ACCELERATION * apart_s / 2
        known = self._readout.estimate_s(apart_s)
        return ImageMotion(twist, keyframe_from_before, seconds, sigma, *known)

    def _unseen(self, keyframe: Keyframe, twist: FloatArray, stamp_ns: int) -> ImageMotion | None:
        """Of a frame without a pose just before it: it may move as fast as its keyframe did."""
        seconds = (stamp_ns - keyframe.frame.stamp_ns) * 1e-9
        if seconds <= 0.0:
            return None
        sigma = np.repeat([np.linalg.norm(twist[:3]), np.linalg.norm(twist[3:])], 3) / np.sqrt(3.0)
        assert self._readout is not None
        return ImageMotion(twist, np.eye(4), seconds, sigma, *self._readout.estimate_s(np.inf))

    def learn(
        self, keyframe: Keyframe, pose: MetricPose, before: Place | None, stamp_ns: int
    ) -> None:
        """A pose that was believed."""
        way, self._now = _since(keyframe, before, stamp_ns), None
        if way is None or before is None:
            return
        if pose.shutter is not None and self._readout is not None:
            self._readout.learn(pose.shutter.readout_s, pose.shutter.information)
        step = se3.log(se3.inverse(way[0]) @ pose.keyframe_from_camera)
        mean = _Mean(step / way[1], way[1])
        self._now = stamp_ns, mean
        if before.stamp_ns == keyframe.frame.stamp_ns:
            self._after.setdefault(keyframe.id, mean)

    def take(self, keyframe: Keyframe) -> None:
        """The frame of the last pose became this keyframe."""
        if self._now is not None and self._now[0] == keyframe.frame.stamp_ns:
            self._before[keyframe.id] = self._now[1]


def _since(
    keyframe: Keyframe, before: Place | None, stamp_ns: int
) -> tuple[FloatArray, float] | None:
    """(keyframe_from_camera of the place before, seconds since), unless too long ago."""
    if before is None or before.chain != keyframe.chain:
        return None
    seconds = (stamp_ns - before.stamp_ns) * 1e-9
    if not 0.0 < seconds <= MAX_APART_S:
        return None
    if before.keyframe == keyframe.id:
        return before.keyframe_from_camera, seconds
    return se3.inverse(keyframe.odom_from_keyframe) @ before.odom_from_camera, seconds
