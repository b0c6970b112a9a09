"""How fast the camera moved while two images were taken."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray


@dataclass(frozen=True, eq=False)
class ImageMotion:
    """How fast the camera moved while both images were taken, and what is known of its shutter."""

    keyframe_twist: FloatArray  # (6,) m/s and rad/s, in the keyframe's axes
    keyframe_from_before: FloatArray  # 4x4 the camera `seconds` before the query
    seconds: float
    # (6,) of either twist: a mean between two frames is not the velocity at one of them
    twist_sigma: FloatArray = field(default_factory=lambda: np.zeros(6))
    readout_s: float = 0.0
    readout_sigma_s: float = 0.0

    def query_twist(self, keyframe_from_camera: FloatArray) -> FloatArray:
        """(6,) the mean velocity since the frame before, in the query's axes."""
        way = se3.inverse(self.keyframe_from_before) @ keyframe_from_camera
        return np.asarray(se3.log(way) / self.seconds)
