"""Does odometry move as the camera would if its images were seen in a mirror?

    a_from_b = M T M    M mirrors left and right, or top and bottom, in the camera's axes

Drivers can mirror images, and depth along with them. Such images agree with each other and with
their depth in everything: their poses are those of a camera in a mirrored world. Odometry alone
tells. It may as well be odometry that is left-handed, or a camera that is mounted otherwise than
`base_from_camera` says, so neither is believed.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry.agreement import CHI2_999_6, squared_apart
from l2m_ros.tracking.odometry import OdometryStep
from l2m_ros.types import FloatArray, MetricPose

MIRRORS = {
    "left and right": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "top and bottom": np.diag([1.0, -1.0, 1.0, 1.0]),
}
APART = 4.0  # times CHI2_999_6, within which agrees what does: what does not is beyond
KEYFRAMES = 2  # that must say so, with none that says otherwise


class MirrorWatch:
    """Remembers of which keyframes odometry moved as in a mirror."""

    def __init__(self) -> None:
        self._seen: dict[str, set[int]] = {name: set() for name in MIRRORS}  # ids of keyframes

    def see(self, keyframe: int, pose: MetricPose, step: OdometryStep | None) -> None:
        """A pose by depth or a stereo pair, and the same way by odometry."""
        if step is None:
            return
        as_it_is = _off(pose, step, np.eye(4))
        for name, mirror in MIRRORS.items():
            mirrored = _off(pose, step, mirror)
            if mirrored <= CHI2_999_6 and as_it_is > APART * CHI2_999_6:
                self._seen[name].add(keyframe)
            elif as_it_is <= CHI2_999_6 and mirrored > APART * CHI2_999_6:
                self._seen[name].clear()

    @property
    def words(self) -> str | None:
        """Why no pose is believed, or None."""
        for name, keyframes in self._seen.items():
            if len(keyframes) >= KEYFRAMES:
                return (
                    f"mirrored: odometry moves as the camera would with {name} exchanged: does the "
                    "driver mirror its images? is base_from_camera right? is odom right-handed? "
                    "Until then neither is believed; odom: ignore leaves it out"
                )
        return None


def _off(pose: MetricPose, step: OdometryStep, mirror: FloatArray) -> float:
    """Chi-square of odometry's way against the pose as it is in a mirror."""
    T = mirror @ pose.keyframe_from_camera @ mirror
    # A turn is a pseudovector: of one about the mirror's normal the mirror shows the same.
    R = mirror[:3, :3]
    axes = np.diag(np.concatenate([np.diag(R), np.linalg.det(R) * np.diag(R)]))
    return squared_apart(T, axes @ pose.covariance @ axes, step.a_from_b, step.covariance)
