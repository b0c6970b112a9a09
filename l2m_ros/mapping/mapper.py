"""Builds a map: keyframes from tracking, loops found and verified twice, the graph optimised.

    add(frame, edge from tracking) -> stored at once -> loops to what looks alike -> optimise

Everything is in the store after each call, so a killed process loses at most the keyframe under
way. No threads here: `node/` gives it one of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from l2m_ros.errors import InvalidInput, MapError
from l2m_ros.geometry import se3
from l2m_ros.geometry.stereo import stereo_depth
from l2m_ros.mapping import chaining, codec, descriptor, graph, joining
from l2m_ros.mapping.appearance import Confirmation, confirmation, together
from l2m_ros.mapping.likeness import cells, likeness
from l2m_ros.mapping.options import MAPPER, MapperOptions
from l2m_ros.mapping.places import LOOK_ALIKES, OWN_DETAIL, Place, Places
from l2m_ros.mapping.records import GIVEN_DEPTH, TRIANGULATED, Edge, MapKeyframe, StoredFeatures
from l2m_ros.mapping.store import MapStore
from l2m_ros.mapping.verification import CHI2_999_6, View, look, sigmas, unmodelled
from l2m_ros.mapping.views import view_distance
from l2m_ros.matching import portable
from l2m_ros.matching.matcher import Matcher
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.scale_evidence import depth_of_match
from l2m_ros.types import Features, FloatArray, Frame, Lost

ARRAYS_KEPT = (
    12  # keyframes whose features stay in memory: a keyframe and its candidates; lite 4 MB
)
SIGMAS_OF_WAY = 4.0  # that the way driven so far may be off, and still speak for a loop
DETAIL_EDGES, FEW = 60, 8  # edges that are judged, and without so many nothing is said
MODEL, CHECKSUM, WORLD = "model", "checksum", "world"  # names in the map's meta table


def model_of(meta: Mapping[str, str], default: str) -> str:
    """The matcher that a map was made with; a map from elsewhere names no file to be loaded."""
    name = meta.get(MODEL, default)
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise InvalidInput(f"the map asks for the model {name!r}, a path: name one by --model")
    return name


@dataclass(frozen=True, eq=False)
class TrackedEdge:
    """A frame as tracking saw it from a keyframe that is in the map."""

    keyframe: int
    keyframe_from_camera: FloatArray
    covariance: FloatArray
    kind: str = "odometry"  # or motion: nothing was seen


class Mapper:
    """One writer of a store."""

    def __init__(
        self,
        store: MapStore,
        matcher: Matcher,
        options: MapperOptions = MAPPER,
        *,
        describe_anew: bool = False,  # the caller learns a new vocabulary next
    ) -> None:
        self.store, self.matcher, self.options = store, matcher, options
        self.places = Places(store, matcher)
        known = store.meta()
        if not describe_anew:
            self._check_model(known)
        self.run = int(known.get("runs", "0"))
        store.set_meta(
            {MODEL: matcher.name, CHECKSUM: self.places.checksum, "runs": str(self.run + 1)}
        )
        self._refused: list[Edge] = []  # loops without a second witness
        self._look_alikes = int(known.get(LOOK_ALIKES, "0"))
        self._features_bytes = store.features_bytes()
        self._edges = store.edges()
        self._ids = store.ids()
        self._recent: list[int] = []
        self._proven: set[Edge] = set()
        self._used: OrderedDict[int, portable.Arrays] = OrderedDict()
        self._learnt_at = len(self.places.index) if self.places.fits else 0

    @property
    def ids(self) -> list[int]:
        return list(self._ids)

    def _check_model(self, known: dict[str, str]) -> None:
        if self.store.ids() and self.places.vocabulary is not None and not self.places.fits:
            raise MapError(
                f"{self.store.address} was made with {known.get(MODEL)} or other weights of it; "
                f"`l2m map check --repair --model {self.matcher.name}` describes it anew"
            )

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
        features = self.matcher.encode(frame.rgb)
        arrays = portable.to_arrays(self.matcher, features)
        depth, source = frame.depth, GIVEN_DEPTH
        if depth is None and frame.right_rgb is not None:
            stereo, source = stereo_depth(frame), "stereo_depth"
            depth = None if stereo is None else stereo.depth_m
        pose, covariance = self._first_place(edge or motion)
        scale_m = self.options.depth_scale_m
        keyframe = MapKeyframe(
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
        known = [
            Edge(e.keyframe, 0, e.keyframe_from_camera, e.covariance, e.kind)
            for e in (edge, motion)
            if e is not None
        ]
        words = self.places.vocabulary if self.places.fits else None
        vector = None if words is None else words.describe(portable.local_descriptors(arrays))
        id = self.store.add(keyframe, known, self._kept(frame, arrays), vector)
        self._ids.append(id)
        self._used[id] = arrays
        self._edges += [Edge(e.a, id, e.a_from_b, e.covariance, e.kind) for e in known]
        if pose is not None and covariance is not None:
            self.places.poses[id] = (pose, covariance)
        if vector is not None:
            self.places.index.add(id, vector)
        self._recent = [*self._recent, id][-max(self.options.recent, 1) - 1 :]
        return id

    def _first_place(self, edge: TrackedEdge | None) -> tuple[FloatArray | None, FloatArray | None]:
        if edge is None:  # the first keyframe of a map is its origin, later ones wait for a loop
            return (np.eye(4), 1e-8 * np.eye(6)) if not self._ids else (None, None)
        if edge.keyframe not in self.places.poses:
            return None, None
        pose, P = self.places.poses[edge.keyframe]
        T = se3.compose(pose, edge.keyframe_from_camera)
        return T, se3.compose_covariance(pose, P, edge.keyframe_from_camera, edge.covariance)

    def _kept(self, frame: Frame, arrays: portable.Arrays) -> StoredFeatures | None:
        size = sum(a.nbytes // 2 for a in arrays.values())
        if self._features_bytes + size > self.options.features_mb * 1e6:
            return None
        self._features_bytes += size
        image_size = (frame.rgb.shape[1], frame.rgb.shape[0])
        return StoredFeatures(self.matcher.name, self.places.checksum, image_size, arrays)

    # --- loops ----------------------------------------------------------------------------------

    def wants_vocabulary(self) -> bool:
        """At `first_vocabulary` keyframes, and whenever the map has doubled."""
        count = len(self._ids)
        due = max(self.options.first_vocabulary, 2 * self._learnt_at)
        return due <= count and self._learnt_at < self.options.last_vocabulary

    def learn_vocabulary(self) -> None:
        """From the keyframes of the map; all are described with it."""
        ids = self._ids if len(self._ids) > 1 else []
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
        return portable.local_descriptors(self._arrays(id))

    def _arrays(self, id: int) -> portable.Arrays:
        """What the matcher sees of a keyframe: just used, stored, or encoded again."""
        arrays = self._used.pop(id, None)
        if arrays is None:
            kept = self.store.features(id, self.matcher.name, self.places.checksum)
            if kept is not None:
                arrays = kept.arrays
            else:
                rgb = codec.decode_image(self.store.keyframe(id).image)
                arrays = portable.to_arrays(self.matcher, self.matcher.encode(rgb))
        self._used[id] = arrays
        if len(self._used) > ARRAYS_KEPT:
            self._used.popitem(last=False)
        return arrays

    def close_loops(self, id: int) -> list[Edge]:
        """Edges to keyframes that look alike and to those just before; stored at once."""
        linked = {
            e.b if e.a == id else e.a
            for e in self._edges
            if id in (e.a, e.b) and e.kind != "motion"
        }
        candidates = [c for c in self._candidates(id) if c != id and c not in linked]
        if not candidates:
            return []
        keyframe = self.store.keyframe(id)
        frame = keyframe.frame()
        features = portable.from_arrays(self.matcher, self._arrays(id), keyframe.camera.size)
        seen = (self._edge(c, id, frame, features) for c in candidates)
        found = [e for e in seen if e is not None and self._witnessed(e, frame)]
        self.store.add_edges(found)
        self._edges += found
        return found

    def _candidates(self, id: int) -> list[int]:
        around = [i for i in self._recent if i < id]
        words = self.places.vocabulary
        if not self.places.fits or words is None:
            return around
        nearest = self.places.index.nearest(
            words.describe(self._local(id)), self.options.loop_candidates + 1
        )
        return list(dict.fromkeys([*around, *(i for i, _ in nearest)]))

    def _edge(self, a: int, b: int, frame: Frame, features: Features) -> Edge | None:
        """b as seen from a, if the view from either side passes and both agree."""
        place = self.places.place(a)
        if not self._alike(place, b):
            return None
        there = self._look(frame, features, place.id)
        if isinstance(there, Lost):
            return None
        back_features = portable.from_arrays(self.matcher, self._arrays(a), place.frame.camera.size)
        back = self._look(place.frame, back_features, b)
        if isinstance(back, Lost) or not self._returns(there, back):
            return None
        return Edge(a, b, there.keyframe_from_camera, there.covariance, "loop")

    def _witnessed(self, edge: Edge, frame: Frame) -> bool:
        """Whether anything but the fit itself says that this loop is right: being just before it,
        the way that was driven, or the detail of both pictures. A corridor fits itself turned
        round, and any other of its kind."""
        if edge.a in self._recent:
            return True
        if self._suits_the_way(edge) or self._shows_the_same(edge, frame):
            return True
        self._refused.append(edge)
        return False

    def _suits_the_way(self, edge: Edge) -> bool:
        """Whether edges so far lead there, and are certain enough to tell places apart."""
        if edge.a not in self.places.poses or edge.b not in self.places.poses:
            return False
        (a, P_a), (b, P_b) = self.places.poses[edge.a], self.places.poses[edge.b]
        d, o = se3.difference(edge.a_from_b, se3.inverse(a) @ b), self.options
        bound_m, bound_rad = (SIGMAS_OF_WAY * sigma for sigma in sigmas(P_a + P_b))
        bound_m, bound_rad = bound_m + o.gates.agree_most_m, bound_rad + o.gates.agree_most_rad
        if bound_m > o.way_most_m or bound_rad > o.way_most_rad:
            return False
        return bool(np.linalg.norm(d[:3]) < bound_m and np.linalg.norm(d[3:]) < bound_rad)

    def _shows_the_same(self, edge: Edge, frame: Frame) -> bool:
        """Whether the detail is the same from either side. `frame` is b's."""
        sides, o = self._confirmations(edge, frame), self.options
        return all(s.share >= o.loop_share and s.area >= o.loop_area for s in sides)

    def _confirmations(self, edge: Edge, frame: Frame) -> tuple[Confirmation, Confirmation]:
        other = self.places.place(edge.a).frame
        return (
            confirmation(frame, other, edge.a_from_b),
            confirmation(other, frame, se3.inverse(edge.a_from_b)),
        )

    def judge_detail(self) -> None:
        """How well the map's own views agree in detail, and whether places in it look alike: what
        a picture must show to be found here."""
        used = [e for e in self._edges if e.kind in ("odometry", "loop")]
        used = [e for e in used if e.a in self.places.poses and e.b in self.places.poses]
        rng = np.random.default_rng(0)
        shares = []
        for number in rng.permutation(len(used))[:DETAIL_EDGES]:
            edge = used[number]
            sides = self._confirmations(edge, self.places.place(edge.b).frame)
            if (both := together(sides)).area > self.options.loop_area:
                shares.append(both.share)
        self._look_alikes += sum(map(self._is_look_alike, self._refused))
        self._refused.clear()
        own = float(np.percentile(shares, 25)) if len(shares) >= FEW else 0.0
        self.store.set_meta({OWN_DETAIL: f"{own:.3f}", LOOK_ALIKES: str(self._look_alikes)})

    def _is_look_alike(self, edge: Edge) -> bool:
        """Whether a loop that fitted from either side leads to another place of the map."""
        poses = self.places.poses
        if edge.a not in poses or edge.b not in poses:
            return False
        d = se3.difference(edge.a_from_b, se3.inverse(poses[edge.a][0]) @ poses[edge.b][0])
        far_m, far_rad = self.options.way_most_m, self.options.way_most_rad
        return bool(np.linalg.norm(d[:3]) > far_m or np.linalg.norm(d[3:]) > far_rad)

    def _alike(self, place: Place, id: int) -> bool:
        """Whether a match of the two is worth its time."""
        seen = cells(self._arrays(id))
        if seen is None or place.cells is None:
            return True
        return likeness(seen, place.cells) >= self.options.gates.min_likeness

    def _look(self, frame: Frame, features: Features, id: int) -> View | Lost:
        o = self.options
        place = self.places.place(id)
        return look(self.matcher, frame, features, place, o.gates, o.pose, StageTimes())

    def _returns(self, there: View, back: View) -> bool:
        """Forth and back is nowhere, within what both claim."""
        T = se3.inverse(back.keyframe_from_camera)
        P = se3.inverse_covariance(back.keyframe_from_camera, back.covariance)
        d = se3.difference(there.keyframe_from_camera, T)
        g = self.options.gates
        floor = np.diag([g.agree_m**2] * 3 + [g.agree_rad**2] * 3)
        return float(d @ np.linalg.solve(there.covariance + P + floor, d)) < CHI2_999_6

    def drop_unproven(self) -> list[Edge]:
        """Takes away edges of tracking that alone join parts of the map and do not pass as loops.

        One wrong edge of tracking, over a gap in the recording, would place all that hangs on it.
        """
        loops = [edge for edge in self._edges if edge.kind in ("loop", "prior")]
        group = {}
        for number, ids in enumerate(chaining.components(self._ids, loops)):
            group.update(dict.fromkeys(ids, number))
        dropped = []
        for edge in [e for e in self._edges if e.kind == "odometry"]:
            if edge in self._proven or group[edge.a] == group[edge.b]:
                continue
            if self._proves(edge):
                self._proven.add(edge)
            else:
                dropped.append(edge)
        self.store.remove_edges(dropped)
        gone = {id(edge) for edge in dropped}
        self._edges = [edge for edge in self._edges if id(edge) not in gone]
        return dropped

    def _proves(self, edge: Edge) -> bool:
        """Whether images say what tracking said, from either side."""
        keyframe = self.store.keyframe(edge.b)
        features = portable.from_arrays(self.matcher, self._arrays(edge.b), keyframe.camera.size)
        seen = self._edge(edge.a, edge.b, keyframe.frame(), features)
        if seen is None:
            return False
        d = se3.difference(seen.a_from_b, edge.a_from_b)
        P = seen.covariance + edge.covariance + 2 * unmodelled(edge.a_from_b)
        return float(d @ np.linalg.solve(P, d)) < CHI2_999_6

    # --- the whole ------------------------------------------------------------------------------

    def optimise(self, keep: Collection[int] = ()) -> None:
        """New places for the largest connected group, or that of `keep`; the rest has none."""
        o = self.options
        usable = joining.believed(self._ids, self._edges, o.recent, o.gates)
        groups = chaining.components(self._ids, usable)
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

    def finish(self, progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
        """What a map gets once when it is complete: words, loops, places, depth."""
        self.learn_vocabulary()
        for id in progress(list(self._ids)):
            self._recent = [i for i in self._ids if i < id][-self.options.recent :]
            self.close_loops(id)
        self.settle()

    def settle(self) -> None:
        """Places and depth as they are best known now, before the map is closed."""
        if not self.places.fits and len(self._ids) > 1:
            self.learn_vocabulary()
        self.drop_unproven()
        self.optimise()
        self.triangulate()
        self.judge_detail()
        if self.options.max_keyframes:
            self.thin(self.options.max_keyframes)

    def triangulate(self) -> int:
        """Depth for placed keyframes without one, from a neighbour that sees the same."""
        count = 0
        for id in list(self.places.poses):
            if self.store.keyframe(id).depth is None and self._triangulated(id):
                count += 1
        return count

    def _triangulated(self, id: int) -> bool:
        pose = self.places.poses[id][0]
        linked = {e.b if e.a == id else e.a for e in self._edges if id in (e.a, e.b)} - {id}
        around = [i for i in linked if i in self.places.poses] or self.places.near(pose, 4)
        best, most = None, 0
        place = self.places.place(id)
        features = portable.from_arrays(self.matcher, self._arrays(id), place.frame.camera.size)
        for other in around:
            if other == id:
                continue
            there = self.places.place(other)
            match = self.matcher.match(features, there.reference)
            other_from_id = se3.inverse(self.places.poses[other][0]) @ pose
            depth = depth_of_match(match, place.frame.camera, there.frame.camera, other_from_id)
            known = int(np.isfinite(depth).sum())
            if known > most:
                best, most = depth, known
        if best is None:
            return False
        scale_m = self.options.depth_scale_m
        self.store.set_depth(id, codec.encode_depth(best, scale_m), scale_m, TRIANGULATED)
        self.places.forget([id])
        return True

    def thin(self, keep: int) -> list[int]:
        """Takes away the most redundant keyframes until `keep` are left; their ids."""
        gone = redundant(
            self.places.poses, max(len(self._ids) - keep, 0), min(self._ids, default=0)
        )
        if gone:
            self.store.remove(gone, graph.bridges(set(gone), self._edges))
            self._edges = self.store.edges()
            self._ids = self.store.ids()
            for id in gone:
                self.places.poses.pop(id, None)
            self.places.forget(gone)
            self.places.index = type(self.places.index)(*self.store.descriptors())
        return gone


def redundant(
    poses: dict[int, tuple[FloatArray, FloatArray]], count: int, origin: int
) -> list[int]:
    """The keyframes whose view another one nearly has, one after another; never the origin."""
    ids = np.array(list(poses))
    if len(ids) < 2 or count <= 0:
        return []
    stack = np.stack([poses[int(id)][0] for id in ids])
    away = np.empty((len(ids), len(ids)), np.float32)  # 10,000 keyframes: 400 MB
    for row, pose in zip(away, stack, strict=True):
        row[:] = view_distance(stack, pose)
    np.fill_diagonal(away, np.inf)
    nearest = away.min(axis=1)
    kept = ids != origin
    gone: list[int] = []
    for _ in range(min(count, len(ids) - 2)):
        worst = int(np.argmin(np.where(kept, nearest, np.inf)))
        gone.append(int(ids[worst]))
        kept[worst] = False
        orphans = np.flatnonzero(away[:, worst] <= nearest)  # it was the nearest of these
        away[worst], away[:, worst] = np.inf, np.inf
        nearest[orphans] = away[orphans].min(axis=1)
    return gone
