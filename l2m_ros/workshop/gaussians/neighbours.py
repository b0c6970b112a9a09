"""Which views see the same place from aside."""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry.camera import project
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.model import Gaussians

ASIDE = 0.25  # of the usual distance: what views around are apart
MOST_TURN_DEG = 60
SKY = 12.0  # usual distances: what lies beyond has no depth that matters


def usual_distance(gaussians: Gaussians, items: list[Capture]) -> float:
    """Median distance of what the cameras see."""
    means, seen = gaussians.means.detach().cpu().numpy(), []
    for capture in items:
        pose = capture.view.camera_from_world
        px = project(capture.view.camera, means @ pose[:3, :3].T + pose[:3, 3])
        inside = np.nan_to_num((px >= 0) & (px < capture.view.size), nan=0).astype(bool).all(1)
        if inside.any():
            seen.append(np.median((means[inside] @ pose[:3, :3].T + pose[:3, 3])[:, 2]))
    return float(np.median(seen)) if seen else 1.0


def views_around(items: list[Capture], index: int, distance: float, count: int) -> list[int]:
    """Views apart by about ASIDE of the distance and turned little, the best first."""
    poses = [c.view.world_from_camera for c in items]
    own = poses[index]
    gap = np.array([np.linalg.norm(p[:3, 3] - own[:3, 3]) for p in poses])
    turn = np.degrees(np.arccos([np.clip(p[:3, 2] @ own[:3, 2], -1, 1) for p in poses]))
    cost = np.abs(np.log(np.maximum(gap, 1e-9) / (ASIDE * distance))) + turn / 30
    cost[index] = np.inf
    return [int(i) for i in np.argsort(cost)[:count] if turn[i] < MOST_TURN_DEG and i != index]
