"""The map of a running robot, as its own process has it: built while it drives, or loaded to find
the robot in.

    add(picked)        one keyframe: stored, loops closed, optimised where that is due
    localize(picked)   one image found in the map

`map_from_odom` is what both yield: `odom` stays continuous, corrections go into it alone. No
threads and no queues here: `worker` calls this, `map_process` is what the node sees of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.mapping import export
from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.mapping.mapper import Mapper
from l2m_ros.mapping.options import BUILD, Hint, MapFix, OnlineOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.relocalizer import Localized, Relocalizer
from l2m_ros.mapping.store import MapStore, open_map
from l2m_ros.mapping.tracked_mapper import TrackedMapper
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import FloatArray, Lost

# How far odometry may have drifted since the last fix, to search around it first.
DRIFT_M, DRIFT_RAD = 0.3, 0.1
RELOAD_NS = 10_000_000_000  # between two readings of a map that others write
OPTIMISE_EVERY = 10  # keyframes without a loop


class OnlineMap:
    """One map and one matcher of its own."""

    def __init__(self, matcher: Matcher, options: OnlineOptions) -> None:
        self.options, self._matcher = options, matcher
        self._hint: Hint | None = None
        self._since_optimised = 0
        self._store_version, self._loaded_ns = 0, 0
        self._store: MapStore | None = None
        self._tracked: TrackedMapper | None = None
        self._relocalizer: Relocalizer | None = None
        self.fix: MapFix | None = None
        self.version = 0  # grows when the keyframes moved or became more

    def open(self, *, resume: bool = False) -> str:
        """Opens the map of `options.path`; what it holds, in words. Raises MapError.

        `resume`: the process before this one died; its last keyframes are of the same drive.
        """
        self.close()
        if not self.options.path:
            raise MapError("map.path is empty: name a file, or postgresql://...")
        build = self.options.mode == BUILD
        store = self._store = open_map(self.options.path, create=build, write=build)
        if build:
            mapper = Mapper(store, self._matcher, self.options.mapper)
            self._tracked = TrackedMapper(mapper)
            if resume:
                self._tracked.resume(mapper.run - 1)
        else:
            self._relocalizer = Relocalizer(self._fitting(store), self.options.relocalizer)
        self._store_version = store.version()
        self.version += 1
        info = store.info()
        return f"{info.keyframes} keyframes, {info.placed} placed, in {info.address}"

    def _fitting(self, store: MapStore) -> Places:
        places = Places(store, self._matcher)
        if places.poses and not places.fits:
            raise MapError(
                f"{self.options.path} was made with another model than {self._matcher.name}: "
                f"set model, or `l2m map check --repair --model {self._matcher.name}`"
            )
        return places

    def load(self, path: str) -> str:
        """Another map, or the same one anew."""
        self.options = replace(self.options, path=path)
        self.fix = None
        return self.open()

    def save(self) -> str:
        """The graph optimised, depth where there was none."""
        store, tracked = self._store, self._tracked
        if store is None or tracked is None:
            raise MapError("no map is being built: set map.mode build and map.path")
        tracked.mapper.settle()
        self.version += 1
        info = store.info()
        return f"{info.placed} of {info.keyframes} keyframes placed, saved in {info.address}"

    def relocalize(self, hint: Hint | None = None) -> None:
        """Forgets where it was; the next frame is searched for, around the hint if there is one."""
        self.fix, self._hint = None, hint

    def poses(self) -> FloatArray:
        """(N, 4, 4) of the placed keyframes."""
        poses = [] if self._store is None else [pose for pose, _ in self._store.poses().values()]
        return np.array(poses).reshape(-1, 4, 4)

    def points(self) -> export.Cloud:
        """(N, 3) metres in map and their colours. Reads all keyframes."""
        if self._store is None:
            return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
        return export.points(self._store, self.options.voxel_m)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._tracked = self._relocalizer = None

    def add(self, picked: Picked) -> None:
        """One keyframe into the map."""
        tracked = self._tracked
        if tracked is None:
            return
        mapper = tracked.mapper
        id = tracked.add(picked)
        if mapper.drive.wants_vocabulary():
            mapper.drive.learn_vocabulary()
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
            self._fixed(picked, *placed, words=f"keyframe {id}, {len(loops)} loops")

    def localize(self, picked: Picked) -> Localized | Lost | None:
        """One image found in the map; None where there is no map."""
        if self._relocalizer is None or self._store is None:
            return None
        stamp_ns = picked.frame.stamp_ns
        version = self._store.version()
        if version != self._store_version and stamp_ns - self._loaded_ns >= RELOAD_NS:
            self._loaded_ns = stamp_ns  # another robot added to the map
            self._relocalizer.places.load()
            self._store_version, self.version = version, self.version + 1
        found = self._relocalizer.localize(picked.frame, self._hint_for(picked))
        if isinstance(found, Localized):
            self._hint = None
            how = "around the last place" if found.hinted else "anywhere"
            words = f"searched {how}: keyframes {', '.join(map(str, found.keyframes))}"
            self._fixed(picked, found.map_from_camera, found.covariance, words=words)
        return found

    def _hint_for(self, picked: Picked) -> Hint | None:
        fix, odom = self.fix, picked.odom_from_camera
        if self._hint is not None:
            return self._hint
        if fix is None or odom is None or picked.chain != fix.chain:
            return None
        drift = np.diag([DRIFT_M**2] * 3 + [DRIFT_RAD**2] * 3)
        return Hint(fix.map_from_odom @ odom, drift)

    def _fixed(self, picked: Picked, pose: FloatArray, P: FloatArray, *, words: str) -> None:
        odom = picked.odom_from_camera
        if odom is None:
            return
        map_from_odom = se3.compose(pose, se3.inverse(odom))
        self.fix = MapFix(picked.frame.stamp_ns, map_from_odom, pose, P, picked.chain, words)
