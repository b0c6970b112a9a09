"""Frames of tracking into a map: which keyframe of tracking is which of the map."""

from __future__ import annotations

from collections import OrderedDict

from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.mapping.mapper import Mapper, TrackedEdge
from l2m_ros.types import FloatArray

REMEMBERED = 64  # keyframes of tracking whose place in the map is known


class TrackedMapper:
    """Puts picked frames into a map and knows which keyframe of tracking is which of the map."""

    def __init__(self, mapper: Mapper) -> None:
        self.mapper = mapper
        self._ids: OrderedDict[int, int] = OrderedDict()  # stamp of a keyframe: id in the map

    def id_of(self, stamp_ns: int) -> int | None:
        return self._ids.get(stamp_ns)

    def resume(self, run: int) -> None:
        """After the map's process was started again: the stamps of this drive's keyframes."""
        store = self.mapper.store
        for id in self.mapper.ids[-REMEMBERED:]:
            keyframe = store.keyframe(id)
            if keyframe.run == run:
                self._ids[keyframe.stamp_ns] = id

    def add(self, picked: Picked, name: str = "", truth: FloatArray | None = None) -> int:
        edge = None
        parent = None if picked.parent_ns is None else self._ids.get(picked.parent_ns)
        T, P = picked.keyframe_from_camera, picked.covariance
        if parent is not None and T is not None and P is not None:
            edge = TrackedEdge(parent, T, P)
        source, frame = picked.scale_source, picked.frame
        id = self.mapper.add(frame, edge, scale_source=source, name=name, truth=truth)
        self._ids[frame.stamp_ns] = id
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return id
