"""Builds a map: keyframes from tracking, loops found and verified twice, the graph optimised.

    drive.add(frame, edge from tracking) -> close_loops -> optimise -> settle, once in a while

No threads here: `node/` gives it a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from l2m_ros.mapping import chaining, graph, joining, thinning, triangulation
from l2m_ros.mapping.drive_recorder import DriveRecorder
from l2m_ros.mapping.loop_closer import LoopCloser
from l2m_ros.mapping.meta import LOOK_ALIKES, OWN_DETAIL
from l2m_ros.mapping.options import MAPPER, MapperOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.store import MapStore
from l2m_ros.matching.matcher import Matcher


class Mapper:
    """One writer of a store."""

    def __init__(self, store: MapStore, matcher: Matcher, options: MapperOptions = MAPPER) -> None:
        self.store, self.options = store, options
        self.drive = DriveRecorder(store, matcher, options)
        self.loops = LoopCloser(self.drive)

    @property
    def places(self) -> Places:
        return self.drive.places

    @property
    def ids(self) -> list[int]:
        return self.drive.ids

    @property
    def run(self) -> int:
        """Number of this drive among those of the map."""
        return self.drive.run

    def close_loops(self, id: int) -> list[Edge]:
        """Edges to keyframes that look alike and to those just before; stored at once."""
        return self.loops.close(id, self.drive.just_before(id))

    def optimise(self, keep: Collection[int] = ()) -> None:
        """New places for the largest connected group, or that of `keep`; the rest has none."""
        o, drive = self.options, self.drive
        usable = joining.believed(drive.run_of, drive.edges, o.recent, o.gates)
        groups = chaining.components(drive.ids, usable)
        if not groups:
            return
        groups.sort(key=lambda group: not any(id in keep for id in group))
        main = groups[0]
        known = {id: pose for id, (pose, _) in self.places.poses.items()}
        inside = set(main)
        edges = [e for e in usable if e.a in inside]
        first = chaining.chained(main, edges, {id: known[id] for id in main if id in known})
        placed = graph.optimised(edges, first)
        lost: dict[int, None] = {id: None for group in groups[1:] for id in group}
        self.store.set_poses({**placed, **lost})
        self.places.poses = placed

    # --- the whole ------------------------------------------------------------------------------

    def finish(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
        """What a map gets once when it is complete: words, loops, places, depth."""
        self.drive.learn_vocabulary()
        for id in progress(self.ids):
            self.close_loops(id)
        self.drive.in_use.clear()
        self.settle()

    def settle(self) -> None:
        """Places and depth as they are best known now, before the map is closed."""
        if not self.places.fits and len(self.drive.ids) > 1:
            self.drive.learn_vocabulary()
        self.loops.drop_unproven()
        self.optimise()
        triangulation.triangulate(self.drive)
        self.describe_detail()
        if self.options.max_keyframes:
            self.thin(self.options.max_keyframes)

    def describe_detail(self) -> None:
        """What a picture must show to be found here: see `loop_witness`."""
        own = self.loops.witness.own_detail(self.drive.edges)
        alike = int(self.store.meta().get(LOOK_ALIKES, "0"))
        alike += self.loops.witness.take_look_alikes()
        self.store.set_meta({OWN_DETAIL: f"{own:.3f}", LOOK_ALIKES: str(alike)})

    def thin(self, keep: int) -> list[int]:
        """Takes away the most redundant keyframes until `keep` are left; their ids."""
        return thinning.thin(self.drive, keep)
