"""A frame and the matches that it has with a keyframe."""

from __future__ import annotations

from dataclasses import dataclass, field

from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.late_depth import DepthMoments
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.seam import Rows
from l2m_ros.types import Correspondences, Frame


@dataclass(frozen=True, eq=False)
class MatchedFrame:
    """A frame matched against one keyframe."""

    frame: Frame
    odometry: OdometrySample | None
    keyframe: Keyframe
    pairs: Correspondences
    unsent: Rows | None = None  # (H,) rows that the image before, which was torn, lacked
    motion: ImageMotion | None = None
    moments: DepthMoments = field(default_factory=DepthMoments)
