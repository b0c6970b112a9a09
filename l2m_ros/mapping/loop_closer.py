"""Finds loops: edges from a keyframe to those that look alike and to those just before.

candidates -> likeness -> view from either side -> both agree -> a second witness -> stored
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6
from l2m_ros.mapping import chaining
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.likeness import Cells, cells, likeness
from l2m_ros.mapping.loop_witness import LoopWitness
from l2m_ros.mapping.places import Place
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.verification import View, look, unmodelled
from l2m_ros.timing import StageTimes
from l2m_ros.types import Features, Frame, Lost


class LoopCloser:
    """Adds edges to a drive, and takes away edges of tracking that images do not confirm."""

    def __init__(self, drive: DriveRecorder) -> None:
        self._drive, self._places, self._options = drive, drive.places, drive.options
        self.witness = LoopWitness(drive.places, drive.options)
        self._proven: set[Edge] = set()

    def close(self, id: int, before: Sequence[int]) -> list[Edge]:
        """Edges to keyframes that look alike and to those just `before`; stored at once."""
        linked = {
            e.b if e.a == id else e.a
            for e in self._drive.edges
            if id in (e.a, e.b) and e.kind != "motion"
        }
        candidates = [c for c in self._candidates(id, before) if c != id and c not in linked]
        if not candidates:
            return []
        keyframe = self._drive.store.keyframe(id)
        frame = keyframe.frame()
        features = self._drive.arrays.features(id, keyframe.camera.size)
        seen = (self._edge(c, id, frame, features) for c in candidates)
        driven = self._drive.edges
        found = [
            e for e in seen if e is not None and self.witness.confirms(e, frame, before, driven)
        ]
        self._drive.add_edges(found)
        return found

    def _candidates(self, id: int, before: Sequence[int]) -> list[int]:
        words = self._places.vocabulary
        if not self._places.fits or words is None:
            return list(before)
        described = words.describe(self._drive.arrays.local(id))
        nearest = self._places.index.nearest(described, self._options.loop_candidates + 1)
        return list(dict.fromkeys([*before, *(i for i, _ in nearest)]))

    def _edge(self, a: int, b: int, frame: Frame, features: Features) -> Edge | None:
        """b as seen from a, if the view from either side passes and both agree."""
        seen = cells(self._drive.arrays.get(b))
        if self._places.most_alike(seen, a) < self._options.gates.min_likeness:
            return None
        place = self._places.place(a)
        if not self._alike(place, seen):
            return None
        there = self._look(frame, features, place.id)
        if isinstance(there, Lost):
            return None
        back_features = self._drive.arrays.features(a, place.frame.camera.size)
        back = self._look(place.frame, back_features, b)
        if isinstance(back, Lost) or not self._returns(there, back):
            return None
        return Edge(a, b, there.keyframe_from_camera, there.covariance, "loop")

    def _alike(self, place: Place, seen: Cells | None) -> bool:
        """Whether a match of the two is worth its time."""
        if seen is None or place.cells is None:
            return True
        return likeness(seen, place.cells) >= self._options.gates.min_likeness

    def _look(self, frame: Frame, features: Features, id: int) -> View | Lost:
        o = self._options
        place = self._places.place(id)
        return look(self._drive.matcher, frame, features, place, o.gates, o.pose, StageTimes())

    def _returns(self, there: View, back: View) -> bool:
        """Forth and back is nowhere, within what both claim."""
        T = se3.inverse(back.keyframe_from_camera)
        P = se3.inverse_covariance(back.keyframe_from_camera, back.covariance)
        d = se3.difference(there.keyframe_from_camera, T)
        g = self._options.gates
        floor = np.diag([g.agree_m**2] * 3 + [g.agree_rad**2] * 3)
        return float(d @ np.linalg.solve(there.covariance + P + floor, d)) < CHI2_999_6

    # --- edges of tracking ------------------------------------------------------------------------

    def drop_unproven(self) -> list[Edge]:
        """Takes away edges of tracking that alone join parts of the map and do not pass as loops.

        One wrong edge of tracking, over a gap in the recording, would place all that hangs on it.
        """
        loops = [edge for edge in self._drive.edges if edge.kind in ("loop", "prior")]
        group = {}
        for number, ids in enumerate(chaining.components(self._drive.ids, loops)):
            group.update(dict.fromkeys(ids, number))
        dropped = []
        for edge in [e for e in self._drive.edges if e.kind == "odometry"]:
            if edge in self._proven or group[edge.a] == group[edge.b]:
                continue
            if self._proves(edge):
                self._proven.add(edge)
            else:
                dropped.append(edge)
        self._drive.remove_edges(dropped)
        return dropped

    def _proves(self, edge: Edge) -> bool:
        """Whether images say what tracking said, from either side."""
        keyframe = self._drive.store.keyframe(edge.b)
        features = self._drive.arrays.features(edge.b, keyframe.camera.size)
        seen = self._edge(edge.a, edge.b, keyframe.frame(), features)
        if seen is None:
            return False
        d = se3.difference(seen.a_from_b, edge.a_from_b)
        P = seen.covariance + edge.covariance + 2 * unmodelled(edge.a_from_b)
        return float(d @ np.linalg.solve(P, d)) < CHI2_999_6
