"""The map of a running robot: built while it drives, or loaded to find the robot in.

    submit(tracked frame)     tracking's thread: stores and returns
    step()                    the map's own thread: one keyframe, or one relocalization

`map_from_odom` is what both yield: `odom` stays continuous, corrections go into it alone.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.mapping.keyframe_picker import KeyframePicker, Picked, TrackedMapper
from l2m_ros.mapping.mapper import Mapper
from l2m_ros.mapping.options import BUILD, LOCALIZE, Hint, OnlineOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.matching.matcher import Matcher
from l2m_ros.tracking.result import TrackResult
from l2m_ros.types import FloatArray, Lost

WAITING = 32  # keyframes that may wait for the map's thread
# How far odometry may have drifted since the last fix, to search around it first.
DRIFT_M, DRIFT_RAD = 0.3, 0.1
RELOAD_NS = 10_000_000_000  # between two readings of a map that others write
OPTIMISE_EVERY = 10  # keyframes without a loop


@dataclass(frozen=True, eq=False)
class MapFix:
    """Where odom lies in the map, as one image says."""

    stamp_ns: int
    map_from_odom: FloatArray
    covariance: FloatArray  # of map_from_camera at the stamp
    chain: int
    words: str


class OnlineMap:
    """One map, one matcher of its own, one thread that calls `step`."""

    def __init__(self, matcher: Matcher, options: OnlineOptions) -> None:
        self.options, self._matcher = options, matcher
        self._picker = KeyframePicker(options.picker)
        self._picked: deque[Picked] = deque(maxlen=WAITING)
        self._newest: TrackResult | None = None
        self._hint: Hint | None = None
        self._changed = threading.Condition()
        self._due_ns = 0
        self._since_optimised = 0
        self._store_version, self._loaded_ns = 0, 0
        self._store: MapStore | None = None
        self._tracked: TrackedMapper | None = None
        self._relocalizer: Relocalizer | None = None
        self.fix: MapFix | None = None
        self.version = 0  # grows when the keyframes moved or became more
        self.dropped = 0

    # --- tracking's thread ------------------------------------------------------------------------

    def submit(self, result: TrackResult) -> None:
        """Never blocks longer than a lock is held; costs no more than a comparison of poses."""
        picked = self._picker.pick(result) if self.options.mode == BUILD else None
        with self._changed:
            if picked is not None:
                self.dropped += len(self._picked) == WAITING
                self._picked.append(picked)
                self._changed.notify()
            if self.options.mode == LOCALIZE and result.frame.stamp_ns >= self._due_ns:
                self._newest = result
                self._changed.notify()

    @property
    def mode(self) -> str:
        return self.options.mode

    def map_from_camera(self, result: TrackResult) -> FloatArray | None:
        """Now, by the last fix and odometry since; None before the first or after a restart."""
        fix, kept = self.fix, result.keyframe
        if fix is None or result.odom_from_camera is None or kept is None:
            return None
        return None if kept.chain != fix.chain else fix.map_from_odom @ result.odom_from_camera

    # --- the map's thread -------------------------------------------------------------------------

    def wait(self, timeout_s: float) -> None:
        """Until there is something for `step` to do."""
        with self._changed:
            if not self._picked and self._newest is None:
                self._changed.wait(timeout_s)

    def step(self) -> Localized | Lost | None:
        """One keyframe, or one relocalization; None where there was none to do."""
        with self._changed:
            picked = self._picked.popleft() if self._picked else None
            newest, self._newest = self._newest, None
        if picked is not None:
            self._add(picked)
        if newest is not None:
            return self._localize(newest)
        return None

    def open(self) -> str:
        """Opens the map of `options.path`; what it holds, in words. Raises MapError."""
        self.close()
        if not self.options.path:
            raise MapError("map.path is empty: name a file, or postgresql://...")
        build = self.options.mode == BUILD
        self._store = open_map(self.options.path, create=build, write=build)
        if build:
            mapper = Mapper(self._store, self._matcher, self.options.mapper)
            self._tracked = TrackedMapper(mapper)
        else:
            places = Places(self._store, self._matcher)
            if places.poses and not places.fits:
                raise MapError(
                    f"{self.options.path} was made with another model than {self._matcher.name}: "
                    f"set model, or `l2m map check --repair --model {self._matcher.name}`"
                )
            self._relocalizer = Relocalizer(places, self.options.relocalizer)
        self._store_version = self._store.version()
        self.version += 1
        info = self._store.info()
        return f"{info.keyframes} keyframes, {info.placed} placed, in {info.address}"

    def load(self, path: str) -> str:
        """Another map, or the same one anew."""
        self.options = replace(self.options, path=path)
        self.fix = None
        return self.open()

    def save(self) -> str:
        """All keyframes that wait, the graph optimised, depth where there was none."""
        store, tracked = self._store, self._tracked
        if store is None or tracked is None:
            raise MapError("no map is being built: set map.mode build and map.path")
        while self._picked:
            self._add(self._picked.popleft())
        tracked.mapper.settle()
        self.version += 1
        info = store.info()
        return f"{info.placed} of {info.keyframes} keyframes placed, saved in {info.address}"

    def relocalize(self, hint: Hint | None = None) -> None:
        """Forgets where it was; the next frame is searched for, around the hint if there is one."""
        with self._changed:
            self.fix, self._hint, self._due_ns = None, hint, 0

    @property
    def store(self) -> MapStore | None:
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._tracked = self._relocalizer = None

    def _add(self, picked: Picked) -> None:
        tracked = self._tracked
        if tracked is None:
            return
        mapper, result = tracked.mapper, picked.result
        id = tracked.add(picked)
        if mapper.wants_vocabulary():
            mapper.learn_vocabulary()
        loops = mapper.close_loops(id)
        self._since_optimised += 1
        if loops or self._since_optimised >= OPTIMISE_EVERY:
            mapper.optimise()
            self._since_optimised = 0
        bound = self.options.mapper.max_keyframes
        if bound and len(mapper.ids) > bound + bound // 20:  # some at once: thinning reads all
            mapper.thin(bound)
        self.version += 1
        placed = mapper.places.poses.get(id)
        if placed is not None:
            self._fixed(result, *placed, words=f"keyframe {id}, {len(loops)} loops")

    def _localize(self, result: TrackResult) -> Localized | Lost | None:
        if self._relocalizer is None or self._store is None:
            return None
        self._due_ns = result.frame.stamp_ns + round(self.options.period_s * 1e9)
        version = self._store.version()
        due = result.frame.stamp_ns - self._loaded_ns >= RELOAD_NS
        if version != self._store_version and due:  # another robot added to the map
            self._loaded_ns = result.frame.stamp_ns
            self._relocalizer.places.load()
            self._store_version, self.version = version, self.version + 1
        found = self._relocalizer.localize(result.frame, self._hint_for(result))
        if isinstance(found, Localized):
            self._hint = None
            how = "around the last place" if found.hinted else "anywhere"
            words = f"searched {how}: keyframes {', '.join(map(str, found.keyframes))}"
            self._fixed(result, found.map_from_camera, found.covariance, words=words)
        return found

    def _hint_for(self, result: TrackResult) -> Hint | None:
        if self._hint is not None:
            return self._hint
        place = self.map_from_camera(result)
        if place is None:
            return None
        return Hint(place, np.diag([DRIFT_M**2] * 3 + [DRIFT_RAD**2] * 3))

    def _fixed(self, result: TrackResult, pose: FloatArray, P: FloatArray, *, words: str) -> None:
        odom, chain = result.odom_from_camera, result.keyframe
        if chain is None:
            return
        if odom is None:
            odom = chain.odom_from_keyframe if chain.frame is result.frame else None
        if odom is None:
            return
        map_from_odom = se3.compose(pose, se3.inverse(odom))
        self.fix = MapFix(result.frame.stamp_ns, map_from_odom, P, chain.chain, words)
