"""How differently two cameras look at a place: ways and turns in one number."""

from __future__ import annotations

import numpy as np

from l2m_ros.types import FloatArray

VIEW_RAD_PER_M = 0.6  # a metre away shows as little of the same as 0.6 rad turned away


def view_distance(poses: FloatArray, pose: FloatArray) -> FloatArray:
    """(N,) metres: how differently cameras at poses (N, 4, 4) and at `pose` look."""
    away_m = np.linalg.norm(poses[:, :3, 3] - pose[:3, 3], axis=1)
    cosine = np.clip(poses[:, :3, 2] @ pose[:3, 2], -1.0, 1.0)
    return np.asarray(away_m + np.arccos(cosine) / VIEW_RAD_PER_M)
