"""A map in memory: where its keyframes are, how they look, and what a matcher needs of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from l2m_ros.mapping.descriptor import Vocabulary
from l2m_ros.mapping.likeness import STORED_ERROR, Cells, cells, from_grid, likeness
from l2m_ros.mapping.meta import LOOK_ALIKES, OWN_DETAIL
from l2m_ros.mapping.retrieval import PlaceIndex
from l2m_ros.mapping.store import MapStore
from l2m_ros.mapping.views import view_distance
from l2m_ros.matching import portable
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import FloatArray, Frame, Reference

CACHED = 48  # keyframes kept decoded; lite needs 6 MB each


@dataclass(frozen=True, eq=False)
class Place:
    """A keyframe ready to be matched against."""

    id: int
    frame: Frame
    reference: Reference
    cells: Cells | None = None  # None: the matcher has no grid


class Places:
    """Reads a store through a matcher. One thread at a time."""

    def __init__(self, store: MapStore, matcher: Matcher, cached: int = CACHED) -> None:
        self.store, self.matcher = store, matcher
        self.checksum = portable.checksum(matcher)
        self._cached = cached
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._turn = threading.RLock()
        self._stack: tuple[object, int, np.ndarray, FloatArray] | None = None
        self.load()

    def load(self) -> None:
        """Everything anew, after somebody changed the map."""
        self._places.clear()
        self._stack = None
        self.poses: dict[int, tuple[FloatArray, FloatArray]] = self.store.poses()
        content = self.store.vocabulary()
        self.vocabulary = None if content is None else Vocabulary.from_bytes(content)
        self.index = PlaceIndex(*self.store.descriptors())
        meta = self.store.meta()
        self.own_detail = float(meta.get(OWN_DETAIL, "0"))  # share of it that views here agree in
        self.look_alikes = int(meta.get(LOOK_ALIKES, "0"))  # loops that led to a wrong place

    @property
    def fits(self) -> bool:
        """Whether the map's descriptors are those of this matcher with these weights."""
        words = self.vocabulary
        return (
            words is not None
            and words.model == self.matcher.name
            and words.checksum == self.checksum
        )

    def place(self, id: int) -> Place:
        """From memory, else from the stored features, else by encoding its image again."""
        with self._turn:
            place = self._places.get(id)
            if place is None:
                place = self._read(id)
                self._places[id] = place
                if len(self._places) > self._cached:
                    self._places.popitem(last=False)
            self._places.move_to_end(id)
            return place

    def most_alike(self, seen: Cells | None, id: int) -> float:
        """How alike a keyframe is at most, by what the store keeps of it: 1 ms, loading takes 40.

        Infinite where nothing is kept, or where it is loaded already.
        """
        if seen is None or id in self._places:
            return np.inf
        stored = self.alike(seen, id)
        return np.inf if stored is None else stored + STORED_ERROR

    def alike(self, seen: Cells, id: int) -> float | None:
        """How alike a keyframe is by its stored cells, loaded or not; None where there are none."""
        kept = self.store.cells(id, self.matcher.name, self.checksum)
        return None if kept is None else likeness(seen, from_grid(kept.grid))

    def _read(self, id: int) -> Place:
        frame = self.store.keyframe(id).frame()
        kept = self.store.features(id, self.matcher.name, self.checksum)
        if kept is None:
            features = self.matcher.encode(frame.rgb)
            arrays = portable.to_arrays(self.matcher, features)
        else:
            arrays = kept.arrays
            features = portable.from_arrays(self.matcher, arrays, kept.image_size)
        return Place(id, frame, self.matcher.reference(features), cells(arrays))

    def forget(self, ids: Iterable[int]) -> None:
        self._stack = None
        for id in ids:
            self._places.pop(id, None)

    def _stacked(self) -> tuple[np.ndarray, FloatArray]:
        """Ids (N,) and poses (N, 4, 4), kept while the poses are the same: 10,000 take 10 ms."""
        kept, count = self._stack, len(self.poses)
        if kept is None or kept[0] is not self.poses or kept[1] != count:
            poses = np.stack([pose for pose, _ in self.poses.values()])
            kept = self._stack = (self.poses, count, np.array(list(self.poses)), poses)
        return kept[2], kept[3]

    def near(self, map_from_camera: FloatArray, count: int) -> list[int]:
        """The placed keyframes that look at about the same part of the map, best first."""
        if not self.poses:
            return []
        ids, poses = self._stacked()
        order = np.argsort(view_distance(poses, map_from_camera), kind="stable")
        return [int(id) for id in ids[order[:count]]]
