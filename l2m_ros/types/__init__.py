"""The values that travel between the rooms: checked at birth, frozen afterwards.

Conventions, stated once:
    pixels      centres at integers; (u, v) = (x, y); arrays of points are (N, 2)
    transforms  b_from_a takes points of a into b: c_from_a = c_from_b @ b_from_a
    cameras     x right, y down, z forward (REP-103 optical)
    covariance  6x6, order x, y, z, rot x, rot y, rot z about the fixed axes of the frame
                that the pose is expressed in, as geometry_msgs/PoseWithCovariance has it
"""

from l2m_ros.types.checks import ByteArray, FloatArray
from l2m_ros.types.frames import DISTORTION_LENGTHS, Camera, Frame, resized_K
from l2m_ros.types.matches import Correspondences, DenseMatch, Features, MatchDepths, Reference
from l2m_ros.types.poses import (
    DepthCheck,
    DepthNoiseShown,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
    ShutterHint,
    Turn,
)

__all__ = [
    "DISTORTION_LENGTHS",
    "ByteArray",
    "Camera",
    "Correspondences",
    "DenseMatch",
    "DepthCheck",
    "DepthNoiseShown",
    "Features",
    "FloatArray",
    "Frame",
    "Lost",
    "LostReason",
    "MatchDepths",
    "MetricPose",
    "Reference",
    "RelativePose",
    "ShutterHint",
    "Turn",
    "resized_K",
]
