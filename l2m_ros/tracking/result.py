"""What the tracker says of one frame."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from l2m_ros.matching.mask import Mask
from l2m_ros.matching.matcher import Match
from l2m_ros.tracking.chain import ChainEvent
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.place import Twist
from l2m_ros.types import Correspondences, FloatArray, Frame, Lost, MetricPose, RelativePose, Turn

Outcome = MetricPose | RelativePose | Lost


class TrackState(enum.Enum):
    WAITING = "waiting"  # for a first frame worth keeping
    TRACKING = "tracking"
    LOST = "lost"


@dataclass(frozen=True, eq=False)
class TrackResult:
    """Everything known of one frame."""

    state: TrackState
    reason: str  # in words, for people
    frame: Frame
    keyframe: Keyframe | None
    outcome: Outcome | None = None  # None: the frame was not matched (it became a keyframe)
    match: Match | None = None
    correspondences: Correspondences | None = None
    odom_from_camera: FloatArray | None = None
    odom_covariance: FloatArray | None = None
    twist: Twist | None = None  # of the camera
    new_keyframe: bool = False
    chain_event: ChainEvent | None = None
    remarks: dict[str, str | None] = field(default_factory=dict)  # by what they are about
    stages_ms: dict[str, float] = field(default_factory=dict)
    used: Mask | None = None  # (H, W) of the images: without the robot's own parts; None: all

    @property
    def pose(self) -> MetricPose | None:
        """The pose that may be published: metric and trusted, or nothing."""
        return self.outcome if isinstance(self.outcome, MetricPose) else None

    @property
    def seen_turn(self) -> Turn | None:
        """How the camera turned since the keyframe, by the matches alone."""
        outcome = self.outcome
        if not isinstance(outcome, MetricPose | RelativePose) or outcome.covariance is None:
            return None
        if isinstance(outcome, MetricPose) and outcome.seen_turn is not None:
            return outcome.seen_turn
        return Turn(outcome.keyframe_from_camera[:3, :3], outcome.covariance[3:, 3:])

    @property
    def why_not_posed(self) -> str:
        """One word for counting: keyframe, no_scale, or the reason of `Lost`."""
        if isinstance(self.outcome, Lost):
            return self.outcome.reason.value
        return "no_scale" if isinstance(self.outcome, RelativePose) else "keyframe"
