"""How fast the camera moves: from two places, with what is not known of it."""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.tracking.place import Place, Twist
from l2m_ros.types import FloatArray

MAX_APART_S = 1.0  # a mean over longer says little of now
# The mean of the time between two places stands for the velocity at the second; half that time's
# acceleration lies between. RMS of a hand that walks, at 30 Hz (10 Hz: 0.39 and 0.67; wheels 0.19
# and 0.26).
ACCELERATION_M_S2 = 0.5
ACCELERATION_RAD_S2 = 0.8


def twist_between(before: Place | None, now: Place) -> Twist | None:
    """The camera's velocity at `now`; None where no pose connects the two places."""
    if before is None or before.chain != now.chain:
        return None
    seconds = (now.stamp_ns - before.stamp_ns) * 1e-9
    if not 0 < seconds <= MAX_APART_S:
        return None
    step, P = _step(before, now)
    J = np.linalg.inv(se3.fixed_from_tangent(step))
    acceleration = [ACCELERATION_M_S2] * 3 + [ACCELERATION_RAD_S2] * 3
    unknown = np.diag((np.array(acceleration) * seconds / 2) ** 2)
    return Twist(se3.log(step) / seconds, J @ P @ J.T / seconds**2 + unknown)


def _step(before: Place, now: Place) -> tuple[FloatArray, FloatArray]:
    """(before_from_now, covariance); the keyframe's own uncertainty cancels where it is shared."""
    if before.keyframe == now.keyframe:
        T, P = before.keyframe_from_camera, before.keyframe_covariance
        back, P_back = se3.inverse(T), se3.inverse_covariance(T, P)
        forth, P_forth = now.keyframe_from_camera, now.keyframe_covariance
    else:
        T, P = before.odom_from_camera, before.covariance
        back, P_back = se3.inverse(T), se3.inverse_covariance(T, P)
        forth, P_forth = now.odom_from_camera, now.covariance
    return se3.compose(back, forth), se3.compose_covariance(back, P_back, forth, P_forth)
