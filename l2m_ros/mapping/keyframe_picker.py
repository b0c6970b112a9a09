"""Which tracked frames become keyframes of the map, and what tracking knows of them.

Tracking keeps few keyframes, to match against; a map keeps more, to be found from anywhere.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.options import PICKER, PickerOptions
from l2m_ros.mapping.views import view_distance
from l2m_ros.matching.mask import Mask, without
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.result import TrackResult
from l2m_ros.types import FloatArray, Frame

MOST_SEEN = 4096  # places of one chain: a drive of days must neither fill memory nor slow tracking
REMEMBERED = 64  # keyframes of tracking, of which five are in use


@dataclass(frozen=True, eq=False)
class Picked:
    """A frame for the map, with what tracking knows of it."""

    frame: Frame
    chain: int  # of tracking's keyframes: each is continuous in odom
    parent_ns: int | None = None  # stamp of the keyframe that the frame is posed in
    scale_source: str = "none"
    odom_from_camera: FloatArray | None = None
    keyframe_from_camera: FloatArray | None = None
    covariance: FloatArray | None = None  # of keyframe_from_camera
    odometry: OdometrySample | None = None  # of the base, by wheels or an IMU
    base_from_camera: FloatArray | None = None
    epoch: int = 0  # of what was known of the map then, see `map_process`
    used: Mask | None = None  # (H, W) of the frame, without the robot's own parts; None: all

    @property
    def scene(self) -> Frame:
        """The frame without the robot's own parts: they would look like a place seen before."""
        return self.frame if self.used is None else without(self.frame, self.used)


def known(result: TrackResult) -> Picked | None:
    """What the map needs of a result; None while tracking has no keyframe."""
    kept, pose, odom = result.keyframe, result.pose, result.odom_from_camera
    if kept is None:
        return None
    if odom is None and kept.frame is result.frame:
        odom = kept.odom_from_keyframe
    if pose is None:
        return Picked(result.frame, kept.chain, odom_from_camera=odom, used=result.used)
    return Picked(
        result.frame,
        kept.chain,
        kept.frame.stamp_ns,
        pose.scale_source,
        odom,
        se3.compose(pose.keyframe_from_camera),
        pose.covariance,
        used=result.used,
    )


def breaks(result: TrackResult) -> bool:
    """Whether places in odom are others from this frame on: a new chain, or an earlier one that was
    found again and moved to where odom is now."""
    return result.chain_event is not None and result.chain_event.is_break


class KeyframePicker:
    """Looks at every tracked frame; cheap, so that it may run in tracking's thread."""

    def __init__(self, options: PickerOptions = PICKER) -> None:
        self.options = options
        self._seen: dict[int, deque[FloatArray]] = {}  # by chain: odom_from_camera
        self._parents: deque[int] = deque(maxlen=REMEMBERED)  # stamps of keyframes that were picked

    def pick(
        self,
        result: TrackResult,
        odometry: OdometrySample | None = None,
        base_from_camera: FloatArray | None = None,
    ) -> Picked | None:
        """`odometry` of the result's frame. What is picked may be a frame before, with its own."""
        if breaks(result) and result.keyframe is not None:  # a chain found again lies elsewhere
            self._seen.pop(_space(result.keyframe), None)
        picked = self._picked(result)
        if picked is None:
            return None
        if picked.frame is result.frame:
            picked = replace(picked, odometry=odometry)
        return replace(picked, base_from_camera=base_from_camera)

    def _picked(self, result: TrackResult) -> Picked | None:
        kept = result.keyframe
        if kept is None:
            return None
        if result.outcome is None:
            if not result.new_keyframe:
                return None
            self._remember(kept, np.eye(4))
            self._parents.append(kept.frame.stamp_ns)
            return known(result)
        if result.pose is None:
            return None
        if kept.frame.stamp_ns not in self._parents:
            # Tracked beside the chain: the keyframe was not known as one when it passed by.
            self._remember(kept, np.eye(4))
            self._parents.append(kept.frame.stamp_ns)
            return Picked(kept.frame, kept.chain, odometry=kept.odometry, used=result.used)
        in_keyframe = result.pose.keyframe_from_camera
        if not result.new_keyframe and not self._is_new(kept, in_keyframe):
            return None
        self._remember(kept, in_keyframe)
        if result.new_keyframe:
            self._parents.append(result.frame.stamp_ns)
        return known(result)

    def _is_new(self, kept: Keyframe, in_keyframe: FloatArray) -> bool:
        seen = self._seen.get(_space(kept))
        if not seen:
            return True
        here = kept.odom_from_keyframe @ in_keyframe
        return float(view_distance(np.stack(seen), here).min()) > self.options.every_m

    def _remember(self, kept: Keyframe, in_keyframe: FloatArray) -> None:
        seen = self._seen.setdefault(_space(kept), deque(maxlen=MOST_SEEN))
        seen.append(kept.odom_from_keyframe @ in_keyframe)
        while len(self._seen) > 8:
            self._seen.pop(next(iter(self._seen)))


def _space(kept: Keyframe) -> int:
    """Number of the space that its places are of: a chain's, or its own beside all chains."""
    return kept.chain or -1 - kept.id
