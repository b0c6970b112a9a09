"""Stores a drive: keyframes with their edges, what the matcher sees of them, how they look.

    add(frame, edge from tracking) -> id     one transaction
    learn_vocabulary()                       descriptors of all keyframes anew

Everything is in the store after each call, so a killed process loses at most the keyframe under
way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.geometry.stereo import stereo_depth
from l2m_ros.mapping import codec, descriptor
from l2m_ros.mapping.keyframe_arrays import KEPT, KeyframeArrays
from l2m_ros.mapping.likeness import cells, from_grid, to_grid
from l2m_ros.mapping.meta import CHECKSUM, MODEL, RUNS
from l2m_ros.mapping.options import MAPPER, MapperOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.records import (
    GIVEN_DEPTH,
    Edge,
    MapKeyframe,
    StoredCells,
    StoredFeatures,
)
from l2m_ros.mapping.store import MapStore
from l2m_ros.matching import portable
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import FloatArray, Frame

IN_USE = 6  # tracking tries five keyframes; and the newest


@dataclass(frozen=True, eq=False)
class TrackedEdge:
    """A frame as tracking saw it from a keyframe that is in the map."""

    keyframe: int
    keyframe_from_camera: FloatArray
    covariance: FloatArray
    kind: str = "odometry"  # or motion: nothing was seen


class DriveRecorder:
    """One writer of a store: `ids`, `edges` and `places` are what it holds by now."""

    def __init__(
        self,
        store: MapStore,
        matcher: Matcher,
        options: MapperOptions = MAPPER,
        *,
        describe_anew: bool = False,  # the caller learns a new vocabulary next
    ) -> None:
        self.store, self.matcher, self.options = store, matcher, options
        self.places = Places(store, matcher, cached=KEPT)
        known = store.meta()
        if not describe_anew:
            self._check_model(known)
        self.run = int(known.get(RUNS, "0"))
        store.set_meta(
            {MODEL: matcher.name, CHECKSUM: self.places.checksum, RUNS: str(self.run + 1)}
        )
        self.edges = store.edges()
        self.run_of = store.runs()  # by keyframe, in the order of their ids
        self._features_bytes = store.features_bytes()
        self.arrays = KeyframeArrays(store, matcher, self.places.checksum)
        self._learnt_at = len(self.places.index) if self.places.fits else 0
        self.in_use: dict[int, None] = {}  # what tracking may name in its next edge, latest last

    def _check_model(self, known: dict[str, str]) -> None:
        if self.store.ids() and self.places.vocabulary is not None and not self.places.fits:
            raise MapError(
                f"{self.store.address} was made with {known.get(MODEL)} or other weights of it; "
                f"`l2m map check --repair --model {self.matcher.name}` describes it anew"
            )

    @property
    def ids(self) -> list[int]:
        return list(self.run_of)

    def just_before(self, id: int) -> list[int]:
        """The keyframes of the same drive that were added last: the end of another one may be
        anywhere."""
        run = self.run_of[id]
        before = [other for other, number in self.run_of.items() if number == run and other < id]
        return before[-self.options.recent :] if self.options.recent else []

    # --- one keyframe ---------------------------------------------------------------------------

    def add(
        self,
        frame: Frame,
        edge: TrackedEdge | None = None,
        *,
        motion: TrackedEdge | None = None,
        scale_source: str = "none",
        name: str = "",
        truth: FloatArray | None = None,
    ) -> int:
        """Stores a keyframe with the edge by which tracking knows it, and that of wheels or an IMU
        to the keyframe before; returns its id."""
        arrays = portable.to_arrays(self.matcher, self.matcher.encode(frame.rgb))
        pose, covariance = self._first_place(edge or motion)
        keyframe = self._keyframe(frame, scale_source, name, pose, covariance, truth)
        known = [
            Edge(e.keyframe, 0, e.keyframe_from_camera, e.covariance, e.kind)
            for e in (edge, motion)
            if e is not None
        ]
        words = self.places.vocabulary if self.places.fits else None
        vector = None if words is None else words.describe(portable.local_descriptors(arrays))
        kept = self._kept(frame.camera.size, arrays)
        id = self.store.add(keyframe, known, kept, vector, self._cells(arrays))
        self.run_of[id] = self.run
        self._use(id, *(e.keyframe for e in (edge, motion) if e is not None))
        self.arrays.put(id, arrays)
        self.edges += [Edge(e.a, id, e.a_from_b, e.covariance, e.kind) for e in known]
        if pose is not None and covariance is not None:
            self.places.poses[id] = (pose, covariance)
        if vector is not None:
            self.places.index.add(id, vector)
        return id

    def _use(self, *ids: int) -> None:
        for id in ids:
            self.in_use.pop(id, None)
            self.in_use[id] = None
        while len(self.in_use) > IN_USE:
            del self.in_use[next(iter(self.in_use))]

    def _keyframe(
        self,
        frame: Frame,
        scale_source: str,
        name: str,
        pose: FloatArray | None,
        covariance: FloatArray | None,
        truth: FloatArray | None,
    ) -> MapKeyframe:
        depth, source = frame.depth, GIVEN_DEPTH
        if depth is None and frame.right_rgb is not None:
            stereo, source = stereo_depth(frame), "stereo_depth"
            depth = None if stereo is None else stereo.depth_m
        scale_m = self.options.depth_scale_m
        return MapKeyframe(
            0,
            frame.stamp_ns,
            frame.camera,
            codec.encode_image(frame.rgb),
            None if depth is None else codec.encode_depth(depth, scale_m),
            scale_m,
            scale_source,
            source,
            self.run,
            name,
            pose,
            covariance,
            truth,
        )

    def _first_place(self, edge: TrackedEdge | None) -> tuple[FloatArray | None, FloatArray | None]:
        if edge is None:  # the first keyframe of a map is its origin, later ones wait for a loop
            return (np.eye(4), 1e-8 * np.eye(6)) if not self.ids else (None, None)
        if edge.keyframe not in self.places.poses:
            return None, None
        pose, P = self.places.poses[edge.keyframe]
        T = se3.compose(pose, edge.keyframe_from_camera)
        return T, se3.compose_covariance(pose, P, edge.keyframe_from_camera, edge.covariance)

    def _kept(self, image_size: tuple[int, int], arrays: portable.Arrays) -> StoredFeatures | None:
        size = sum(a.nbytes // 2 for a in arrays.values())
        if self._features_bytes + size > self.options.features_mb * 1e6:
            return None
        self._features_bytes += size
        return StoredFeatures(self.matcher.name, self.places.checksum, image_size, arrays)

    def _cells(self, arrays: portable.Arrays) -> StoredCells | None:
        seen = cells(arrays)
        if seen is None:
            return None
        return StoredCells(self.matcher.name, self.places.checksum, to_grid(seen))

    def keep_features(self) -> None:
        """This matcher's, in place of another's, of as many keyframes as `features_mb` holds."""
        self._features_bytes = 0
        for id in self.ids:
            kept = self._kept(self.store.keyframe(id).camera.size, self.arrays.get(id))
            if kept is None:
                return
            self.store.put_features(id, kept)

    # --- edges, and what goes --------------------------------------------------------------------

    def add_edges(self, edges: list[Edge]) -> None:
        self.store.add_edges(edges)
        self.edges += edges

    def remove_edges(self, edges: list[Edge]) -> None:
        self.store.remove_edges(edges)
        gone = {id(edge) for edge in edges}
        self.edges = [edge for edge in self.edges if id(edge) not in gone]

    def remove(self, gone: Collection[int], bridges: Iterable[Edge]) -> None:
        """Takes away keyframes; `bridges` are the edges that keep their neighbours connected."""
        self.store.remove(gone, bridges)
        self.edges = self.store.edges()
        self.run_of = self.store.runs()
        for id in gone:
            self.places.poses.pop(id, None)
        self.places.forget(gone)
        self.places.index = type(self.places.index)(*self.store.descriptors())

    # --- how places look --------------------------------------------------------------------------

    def wants_vocabulary(self) -> bool:
        """At `first_vocabulary` keyframes, and whenever the map has doubled."""
        count = len(self.ids)
        due = max(self.options.first_vocabulary, 2 * self._learnt_at)
        return due <= count and self._learnt_at < self.options.last_vocabulary

    def learn_vocabulary(self) -> None:
        """From the keyframes of the map; all are described with it."""
        ids = self.ids if len(self.ids) > 1 else []
        if not ids:
            return
        rng = np.random.default_rng(0)
        drawn = rng.permutation(len(ids))[: self.options.last_vocabulary]
        local = {ids[i]: self._local(ids[i]) for i in sorted(drawn)}
        words = descriptor.learn(list(local.values()), self.matcher.name, self.places.checksum)
        vectors = {id: words.describe(local[id] if id in local else self._local(id)) for id in ids}
        self.store.put_descriptors(words.to_bytes(), vectors)
        self.places.vocabulary = words
        self.places.index = type(self.places.index)(ids, np.stack(list(vectors.values())))
        self._learnt_at = len(ids)

    def _local(self, id: int) -> np.ndarray:
        """Of a keyframe: from its stored cells; where those are another matcher's, by encoding its
        image, and then its cells are stored."""
        kept = None
        with contextlib.suppress(MapError):  # damaged: written anew
            kept = self.store.cells(id, self.matcher.name, self.places.checksum)
        if kept is not None:
            return from_grid(kept.grid).descriptors
        arrays = self.arrays.get(id)
        seen = self._cells(arrays)
        if seen is not None:
            self.store.put_cells(id, seen)
        return portable.local_descriptors(arrays)
