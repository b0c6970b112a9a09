"""What is known of a camera's pose: metres, a direction, or nothing and why."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2m_ros.types.checks import (
    FloatArray,
    checked_covariance,
    checked_transform,
    frozen,
    require,
    set_fields,
)


@dataclass(frozen=True, eq=False)
class RelativePose:
    """Rotation and UNIT direction: not metric, so no publisher of metric poses takes it."""

    keyframe_from_camera: FloatArray  # 4x4; the translation has length 1, or 0 for pure rotation
    inliers: npt.NDArray[np.bool_]  # (N,) over the correspondences given
    kind: str = "general"  # general | planar | rotation
    covariance: FloatArray | None = None  # 6x6 of rotation and direction (rank 5)
    why_not_metric: str = ""  # what failed, where a source of metres was there
    contradicted: bool = False  # ... because the matches speak against it

    def __post_init__(self) -> None:
        pose = checked_transform(self.keyframe_from_camera, "keyframe_from_camera")
        length = float(np.linalg.norm(pose[:3, 3]))
        require(
            abs(length - 1.0) < 1e-6 or length == 0.0,
            f"the direction of a RelativePose has length 1 (or 0: pure rotation), got {length:g}",
        )
        set_fields(self, keyframe_from_camera=pose, inliers=frozen(self.inliers, np.bool_))
        if self.covariance is not None:
            set_fields(self, covariance=checked_covariance(self.covariance))


@dataclass(frozen=True)
class DepthNoiseShown:
    """What neighbouring matches show of the noise of depth (`geometry.depth_noise`)."""

    factor: float  # on the variance that was claimed
    pairs: int  # of neighbours that show it


@dataclass(frozen=True)
class DepthCheck:
    """How well depths explain what the matches show; 1 is what noise explains.

    Over the matches that two-view geometry agrees on, see `geometry.depth_check`.
    """

    checked: int = 0  # matches with depth among them
    left_over: float = 0.0  # squared distance from where depth puts a match
    rotation_only: float = 0.0  # ... from where a rotation alone would put it: the parallax
    misfit: float = 0.0  # the first with the range, at twice the depth noise
    agreed: float = 1.0  # share of the matches that two-view geometry agrees on
    left_over_learnt: float | None = None  # `left_over` at the noise that was learnt; None: alike
    noise: DepthNoiseShown | None = None
    # Squared distance of the frame's own ranges from those that the pose predicts by the
    # keyframe's, and by how much it says that they changed; None: one of the two has no depth
    ranges: tuple[float, float] | None = None


@dataclass(frozen=True)
class ShutterHint:
    """What the residuals of a pose say of a rolling shutter (`geometry.shutter`)."""

    readout_s: float  # from the first row to the last
    information: float  # one over its variance


@dataclass(frozen=True, eq=False)
class Turn:
    """How the camera turned, by the matches alone."""

    keyframe_from_camera: FloatArray  # 3x3
    covariance: FloatArray  # 3x3, about the keyframe's axes


@dataclass(frozen=True, eq=False)
class MetricPose:
    """The camera in the keyframe's optical frame, in metres, with its covariance."""

    keyframe_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6
    inliers: npt.NDArray[np.bool_]  # (N,) over the correspondences given
    scale_source: str  # a key of geometry.scale.SCALE_SOURCES
    support: float = 1.0  # of the matches that could contradict the pose, the share that agrees
    disagreement: float = 0.0  # with two-view geometry: chi-square of five degrees of freedom
    depth_check: DepthCheck | None = None  # None: no depth, or no two-view geometry to check it by
    scale_sigma: float = 0.0  # of the error that all metres share, a fraction; in `covariance` too
    shutter: ShutterHint | None = None  # by depth of a sensor, where the camera's motion is known
    seen_turn: Turn | None = None  # before odometry's turn was taken in; None: none was

    def __post_init__(self) -> None:
        set_fields(
            self,
            keyframe_from_camera=checked_transform(
                self.keyframe_from_camera, "keyframe_from_camera"
            ),
            covariance=checked_covariance(self.covariance),
            inliers=frozen(self.inliers, np.bool_),
        )


class LostReason(enum.Enum):
    """Why there is no pose."""

    TOO_FEW_MATCHES = "too_few_matches"
    NOT_CONFIDENT = "not_confident"  # every match has zero confidence
    INVALID_INPUT = "invalid_input"  # NaN or infinity in the matches
    DEGENERATE = "degenerate"  # collinear, identical, or otherwise without a unique answer
    TOO_FEW_INLIERS = "too_few_inliers"
    NO_DEPTH = "no_depth"  # depth was promised but unknown at the matches
    NO_SCALE = "no_scale"  # a direction is known, its length is not
    UNCERTAIN = "uncertain"  # the covariance exceeds what the caller accepts
    IMPLAUSIBLE = "implausible"  # speed or reprojection beyond the gate
    CONTRADICTED = "contradicted"  # independent evidence speaks against it (`tracking.trust`)
    UNKNOWN_PLACE = "unknown_place"  # no keyframes of the map agree on where this is
    AMBIGUOUS = "ambiguous"  # two places of the map look like this one
    REPEATED_IMAGE = "repeated_image"  # the image before under a new stamp
    LOOKS_ALIKE = "looks_alike"  # another place than the keyframe's, odometry says
    TWO_MOTIONS = "two_motions"  # a person or a part of the robot moves otherwise than the scene


@dataclass(frozen=True)
class Lost:
    """No pose, and why. Expected failure is a value, never a fake pose."""

    reason: LostReason
    detail: str
