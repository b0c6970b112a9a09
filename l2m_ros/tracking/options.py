"""What of the tracker may be set."""

from __future__ import annotations

from dataclasses import dataclass, field

from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.matching.mask import Mask
from l2m_ros.tracking.gates import GateOptions
from l2m_ros.tracking.keyframes import KeyframeOptions
from l2m_ros.tracking.odometry import OdometryNoise
from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import FloatArray

LEAST_HEIGHT_M = 0.03  # of a camera above its floor


@dataclass(frozen=True)
class TrackerOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    max_matches: int = 1000  # twice as many: the same errors, a slower and an overconfident pose
    subpixel: bool = True  # pairs of a dense match are refined by their patches of pixels
    mask: Mask | None = field(default=None, compare=False)  # what of each image is used
    leave_out_movers: bool = True  # what moved into a keyframe's view, and the robot's own parts
    pose: PoseOptions = field(default_factory=PoseOptions)
    gates: GateOptions = field(default_factory=GateOptions)
    trust: TrustOptions = field(default_factory=TrustOptions)
    keyframes: KeyframeOptions = field(default_factory=KeyframeOptions)
    kept_keyframes: int = 5  # tried after a loss
    restart_after: int = 15  # frames lost before a new chain begins
    base_from_camera: FloatArray | None = field(default=None, compare=False)  # lever arm of odom
    floor_below_base_m: float | None = None  # None: the camera is not carried by wheels
    odometry: OdometryNoise = field(default_factory=OdometryNoise)
    accept_repeated: bool = (
        False  # images equal to the one before, of a rendered camera that stands
    )
