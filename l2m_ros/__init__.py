"""Dense visual matching and metric relative pose for ROS 2.

    from l2m_ros import Camera, Frame, Tracker, correspondences, estimate_pose, load_matcher

Each name is imported when it is first used, so that `import l2m_ros` costs nothing and a robot
loads only what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from l2m_ros.geometry.pose import estimate_pose
    from l2m_ros.images import read_depth, read_rgb
    from l2m_ros.matching.catalogue import load_matcher
    from l2m_ros.matching.sampling import correspondences
    from l2m_ros.tracking.tracker import Tracker
    from l2m_ros.types import Camera, Frame, Lost, MetricPose, RelativePose

__version__ = "0.1.0"

_HOMES = {
    "Camera": "types",
    "Frame": "types",
    "Lost": "types",
    "MetricPose": "types",
    "RelativePose": "types",
    "Tracker": "tracking.tracker",
    "correspondences": "matching.sampling",
    "estimate_pose": "geometry.pose",
    "load_matcher": "matching.catalogue",
    "read_depth": "images",
    "read_rgb": "images",
}
__all__ = [
    "Camera",
    "Frame",
    "Lost",
    "MetricPose",
    "RelativePose",
    "Tracker",
    "correspondences",
    "estimate_pose",
    "load_matcher",
    "read_depth",
    "read_rgb",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'l2m_ros' has no attribute {name!r}")
    return getattr(importlib.import_module(f"l2m_ros.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
