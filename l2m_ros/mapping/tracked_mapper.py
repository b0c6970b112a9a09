"""Frames of tracking into a map: which keyframe of tracking is which of the map."""

from __future__ import annotations

from collections import OrderedDict

from l2m_ros.geometry import se3
from l2m_ros.mapping.drive_recorder import TrackedEdge
from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.mapping.mapper import Mapper
from l2m_ros.tracking.odometry import OdometryNoise, OdometrySample, step
from l2m_ros.types import FloatArray

NOISE = OdometryNoise()
REMEMBERED = 64  # keyframes of tracking whose place in the map is known


class TrackedMapper:
    """Puts picked frames into a map and knows which keyframe of tracking is which of the map."""

    def __init__(self, mapper: Mapper, noise: OdometryNoise = NOISE) -> None:
        self.mapper, self._noise = mapper, noise
        self._before: tuple[int, OdometrySample] | None = None  # of the newest keyframe
        self._ids: OrderedDict[int, int] = OrderedDict()  # stamp of a keyframe: id in the map

    def id_of(self, stamp_ns: int) -> int | None:
        """None where it is not known, or was thinned."""
        id = self._ids.get(stamp_ns)
        return id if id in self.mapper.drive.run_of else None

    def resume(self, run: int) -> None:
        """After the map's process was started again: the stamps of this drive's keyframes."""
        store = self.mapper.store
        for id in self.mapper.ids[-REMEMBERED:]:
            keyframe = store.keyframe(id)
            if keyframe.run == run:
                self._ids[keyframe.stamp_ns] = id

    def add(self, picked: Picked, name: str = "", truth: FloatArray | None = None) -> int:
        edge = None
        parent = None if picked.parent_ns is None else self.id_of(picked.parent_ns)
        T, P = picked.keyframe_from_camera, picked.covariance
        if parent is not None and T is not None and P is not None:
            edge = TrackedEdge(parent, T, P)
        motion = self._motion(picked)
        source, frame = picked.scale_source, picked.scene
        id = self.mapper.drive.add(
            frame, edge, motion=motion, scale_source=source, name=name, truth=truth
        )
        if picked.odometry is not None:
            self._before = id, picked.odometry
        self._ids[frame.stamp_ns] = id
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return id

    def _motion(self, picked: Picked) -> TrackedEdge | None:
        """From the keyframe before, by wheels or an IMU: what remains where no camera sees."""
        now = picked.odometry
        if self._before is None or now is None or now.stamp_ns <= self._before[1].stamp_ns:
            return None
        id, before = self._before
        if id not in self.mapper.drive.run_of:  # thinned
            return None
        moved = step(before, now, self._noise, picked.base_from_camera)
        return TrackedEdge(id, se3.compose(moved.a_from_b), moved.covariance, "motion")
