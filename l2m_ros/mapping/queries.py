"""The ways to ask a map about one image, each a `Query`: dearer ones where cheaper ones fail.

upright -> retrieved     the nearest descriptors
        -> wider         the cells of many more keyframes compared (descriptors rank views from
                         another side badly)
        -> turned        about the optical axis, by as much as a hand does, then by any angle
        -> closer        whichever of these looked most alike: each keyframe is looked at twice
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from l2m_ros.errors import MapError
from l2m_ros.mapping.likeness import Cells, cells
from l2m_ros.mapping.options import RelocalizerOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.roll import rolled
from l2m_ros.mapping.verification import Sighting
from l2m_ros.matching import portable
from l2m_ros.timing import StageTimes
from l2m_ros.types import Features, FloatArray, Frame, Lost, LostReason


@dataclass(frozen=True, eq=False)
class Query:
    """An image to be found: as it came, or turned about its optical axis."""

    frame: Frame
    features: Features
    camera_from_frame: FloatArray
    original: Frame  # as it came
    cells: Cells | None = None
    nearest: tuple[tuple[int, float], ...] = ()  # keyframes and their similarity, best first
    descriptor: FloatArray | None = None
    tried: dict[int, Sighting | Lost] = field(default_factory=dict)  # by keyframe
    unlike: set[int] = field(default_factory=set)  # of these, those that were not even matched
    alike: dict[int, float] = field(default_factory=dict)  # likeness, of those that were compared
    closer: bool = False  # keyframes that do not see the place are looked at twice

    def is_hopeless(self, id: int) -> bool:
        """Whether the keyframe was matched, and the matches are too uncertain for any pose."""
        result = self.tried.get(id)
        unsure = isinstance(result, Lost) and result.reason is LostReason.NOT_CONFIDENT
        return unsure and id not in self.unlike


class Queries:
    """Of one map."""

    def __init__(self, places: Places, options: RelocalizerOptions) -> None:
        self.places, self.options = places, options

    def upright(self, frame: Frame, times: StageTimes) -> Query:
        """The image as it came; nothing is looked up yet."""
        with times.stage("encode"):
            return Query(frame, self.places.matcher.encode(frame.rgb), np.eye(4), frame)

    def retrieved(self, query: Query, times: StageTimes) -> Query:
        with times.stage("retrieve"):
            arrays = portable.to_arrays(self.places.matcher, query.features)
            descriptor = self._described(portable.local_descriptors(arrays))
            nearest = tuple(self._placed(descriptor, self.options.candidates))
            return replace(query, cells=cells(arrays), nearest=nearest, descriptor=descriptor)

    def wider(self, query: Query, times: StageTimes) -> Query:
        """The same image, with those keyframes that look most alike of many, if not tried yet."""
        seen, found = query.cells, []
        if seen is not None and query.descriptor is not None:
            with times.stage("compare"):
                for id, _ in self._placed(query.descriptor, self.options.compared):
                    alike = self.places.alike(seen, id)
                    if alike is None:
                        continue
                    query.alike[id] = alike
                    if not isinstance(query.tried.get(id), Lost):
                        found.append((id, alike))
        alike_enough = [pair for pair in found if pair[1] >= self.options.gates.min_likeness]
        return replace(query, nearest=tuple(sorted(alike_enough, key=lambda pair: -pair[1])))

    def turned(self, upright: Query, turns_deg: Sequence[float], times: StageTimes) -> list[Query]:
        """The image turned, the turn in which it looks more like a keyframe first."""
        queries, o = [], self.options
        wanted = [d for d in turns_deg if abs(d) - o.borne_roll_deg < o.max_roll_deg]
        for degrees in wanted if upright.nearest else ():
            size = self._canvas(upright) if abs(degrees) > 45 else None
            frame, camera_from_turned = rolled(upright.frame, np.radians(degrees), size)
            with times.stage("encode"):
                features = self.places.matcher.encode(frame.rgb)
            queries.append(
                self.retrieved(Query(frame, features, camera_from_turned, upright.original), times)
            )
        return sorted(queries, key=lambda query: -best_similarity(query))

    def _canvas(self, query: Query) -> tuple[int, int]:
        """(width, height) of the query, landscape or upright as the nearest keyframe is."""
        size = query.frame.camera.size
        camera = self.places.store.keyframe(query.nearest[0][0]).camera
        lies = (size[0] - size[1]) * (camera.width - camera.height) >= 0
        return size if lies else size[::-1]

    def closer(self, queries: Sequence[Query], times: StageTimes) -> Iterator[Query]:
        """For a second look: the image upright, then that turn in which a keyframe is most alike.

        queries: upright first.
        """
        upright, *turned = queries
        yield from self._promising(upright, times)
        if turned:
            best = max(turned, key=_most_alike)
            if _most_alike(best) >= self.options.gates.min_likeness:
                yield from self._promising(best, times)

    def _promising(self, query: Query, times: StageTimes) -> Iterator[Query]:
        """The query with the keyframes that saw it or are about alike, these first."""
        if query.cells is None:
            return
        with times.stage("compare"):
            for id, _ in query.nearest:
                if id not in query.alike:
                    query.alike[id] = self.places.alike(query.cells, id) or 0.0
        seen: dict[int, Sighting | Lost] = {
            id: s for id, s in query.tried.items() if isinstance(s, Sighting)
        }
        least = self.options.gates.min_likeness * self.options.around_likeness
        promising = [pair for pair in query.alike.items() if pair[1] >= least or pair[0] in seen]
        promising = [pair for pair in promising if not query.is_hopeless(pair[0])]
        promising.sort(key=lambda pair: (pair[0] not in seen, -pair[1]))
        if promising:
            nearest = tuple(promising)
            yield replace(query, nearest=nearest, tried=seen, unlike=set(), alike={}, closer=True)

    def _described(self, local: np.ndarray) -> FloatArray:
        places = self.places
        if not places.fits or places.vocabulary is None:
            raise MapError(
                f"{places.store.address} was made with another matcher or other weights: "
                f"`l2m map check --repair --model {places.matcher.name}` describes it anew"
            )
        return places.vocabulary.describe(local)

    def _placed(self, descriptor: FloatArray, count: int) -> list[tuple[int, float]]:
        """The most similar keyframes that have a place."""
        found = self.places.index.nearest(descriptor, 2 * count)
        return [pair for pair in found if pair[0] in self.places.poses][:count]


def best_similarity(query: Query) -> float:
    return query.nearest[0][1] if query.nearest else 0.0


def _most_alike(query: Query) -> float:
    return max(query.alike.values(), default=0.0)
