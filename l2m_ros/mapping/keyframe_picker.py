"""Which tracked frames become keyframes of the map, and how tracking connects them.

Tracking keeps few keyframes, to match against; a map keeps more, to be found from anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping.mapper import Mapper, TrackedEdge
from l2m_ros.mapping.options import PICKER, PickerOptions
from l2m_ros.mapping.places import view_distance
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.result import TrackResult
from l2m_ros.types import FloatArray

REMEMBERED = 64  # keyframes of tracking whose place in the map is known


@dataclass(frozen=True, eq=False)
class Picked:
    """A frame that belongs into the map; `parent` is the stamp of tracking's keyframe."""

    result: TrackResult
    parent_ns: int | None


class KeyframePicker:
    """Looks at every tracked frame; cheap, so that it may run in tracking's thread."""

    def __init__(self, options: PickerOptions = PICKER) -> None:
        self.options = options
        self._seen: dict[int, list[FloatArray]] = {}  # by chain: odom_from_camera

    def pick(self, result: TrackResult) -> Picked | None:
        kept = result.keyframe
        if kept is None:
            return None
        if result.outcome is None:
            if not result.new_keyframe:
                return None
            self._remember(kept, np.eye(4))
            return Picked(result, None)
        if result.pose is None:
            return None
        in_keyframe = result.pose.keyframe_from_camera
        if not result.new_keyframe and not self._is_new(kept, in_keyframe):
            return None
        self._remember(kept, in_keyframe)
        return Picked(result, kept.frame.stamp_ns)

    def _is_new(self, kept: Keyframe, in_keyframe: FloatArray) -> bool:
        seen = self._seen.get(kept.chain, [])
        if not seen:
            return True
        here = kept.odom_from_keyframe @ in_keyframe
        return float(view_distance(np.stack(seen), here).min()) > self.options.every_m

    def _remember(self, kept: Keyframe, in_keyframe: FloatArray) -> None:
        seen = self._seen.setdefault(kept.chain, [])
        seen.append(kept.odom_from_keyframe @ in_keyframe)
        while len(self._seen) > 8:
            self._seen.pop(next(iter(self._seen)))


class TrackedMapper:
    """Puts picked frames into a map and knows which keyframe of tracking is which of the map."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self._ids: OrderedDict[int, int] = OrderedDict()  # stamp of a keyframe: id in the map

    def id_of(self, stamp_ns: int) -> int | None:
        return self._ids.get(stamp_ns)

    def add(self, picked: Picked, name: str = "", truth: FloatArray | None = None) -> int:
        result, edge = picked.result, None
        parent = None if picked.parent_ns is None else self._ids.get(picked.parent_ns)
        pose = result.pose
        if parent is not None and pose is not None:
            T = se3.compose(pose.keyframe_from_camera)
            edge = TrackedEdge(parent, T, pose.covariance)
        source = "none" if pose is None else pose.scale_source
        id = self.mapper.add(result.frame, edge, scale_source=source, name=name, truth=truth)
        self._ids[result.frame.stamp_ns] = id
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return id
