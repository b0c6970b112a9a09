"""Where in the map is this image? Two or more keyframes must agree, or the answer is Lost.

image -> encode -> nearest descriptors -> match -> pose by the keyframe's depth -> gates
      -> keyframes around the first answer -> agreement -> no second place -> pose in `map`

An image that is found nowhere is searched for once more among more keyframes, turned about the
optical axis, and by a second look at the keyframes that are most alike (see `queries`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6
from l2m_ros.mapping.appearance import Confirmation, confirmation, together
from l2m_ros.mapping.likeness import likeness
from l2m_ros.mapping.options import RELOCALIZER, Hint, RelocalizerOptions, ViewGates
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.queries import Queries, Query, best_similarity
from l2m_ros.mapping.steady import SteadyDetail
from l2m_ros.mapping.verification import (
    Sighting,
    agree,
    combined,
    look,
    sighted,
    sigmas,
)
from l2m_ros.mapping.views import view_distance
from l2m_ros.timing import StageTimes
from l2m_ros.types import FloatArray, Frame, Lost, LostReason


@dataclass(frozen=True, eq=False)
class Localized:
    """The camera in the map."""

    map_from_camera: FloatArray
    covariance: FloatArray
    keyframes: tuple[int, ...]  # that agree
    inliers: int
    hinted: bool
    stages_ms: dict[str, float]


class Relocalizer:
    """Map and matcher in, one `localize` per image; no tracking, no state."""

    def __init__(self, places: Places, options: RelocalizerOptions = RELOCALIZER) -> None:
        self.places, self.options = places, options
        self._queries = Queries(places, options)
        self._steady = SteadyDetail(places)

    def localize(self, frame: Frame, hint: Hint | None = None) -> Localized | Lost:
        times = StageTimes()
        query = self._queries.upright(frame, times)
        if hint is not None:
            found = self._by_hint(query, hint, times)
            if found is not None:
                return found
        query = self._queries.retrieved(query, times)
        outcome = self._anywhere(query, times)
        if isinstance(outcome, Localized) or outcome.reason is LostReason.AMBIGUOUS:
            return outcome
        for other in self._others(query, times):
            again = self._anywhere(other, times)
            if isinstance(again, Localized):
                return again
        return outcome

    def _others(self, upright: Query, times: StageTimes) -> Iterator[Query]:
        wider = self._queries.wider(upright, times)
        if best_similarity(wider) >= self.options.promising:
            yield wider
        queries = [upright]
        for degrees in (self.options.turns_deg, self.options.far_turns_deg):
            queries += (turned := self._queries.turned(upright, degrees, times))
            yield from turned
            if any(map(self._is_seen, queries)):
                return  # what was refused for its detail gets no second chance
        yield from self._queries.closer(queries, times)

    def _is_seen(self, query: Query) -> bool:
        """Whether two keyframes agreed on a pose, even if it was not believed."""
        found = [s for s in query.tried.values() if isinstance(s, Sighting)]
        return bool(found) and len(_largest(found, self.options.gates)) > 1

    def _anywhere(self, query: Query, times: StageTimes) -> Localized | Lost:
        if not query.nearest:
            return Lost(LostReason.UNKNOWN_PLACE, "the map has no placed keyframes")
        found: list[Sighting] = []
        best: list[Sighting] = []
        lost: list[Lost] = []
        for id, around in self._candidates(query, best, lost):
            sighting = self._sighting(query, id, times, around=around)
            if isinstance(sighting, Lost):
                lost.append(sighting)
                continue
            found.append(sighting)
            best[:] = _largest(found, self.options.gates)
            if self._suffice(best):
                break
        if len(best) < 2:
            words = f"{len(found)} keyframes see this place, two must agree"
            why = f" ({lost[-1].detail})" if lost else ""
            return Lost(LostReason.UNKNOWN_PLACE, words + why)
        if query.closer and (doubt := self._doubtful(best, found)) is not None:
            return doubt
        with times.stage("detail"):
            detail = self._detail(query, best)
            doubt = self._contradicted(detail)
            if doubt is not None and self._steady_detail_confirms(query, best):
                doubt = None
        doubt = doubt or self._rival(query, best, detail, found, times)
        return doubt or _answer(best, query, times, hinted=False)

    def _doubtful(self, best: Sequence[Sighting], found: Sequence[Sighting]) -> Lost | None:
        """A second look makes wrong poses fit better as well: more is asked of what it found."""
        surest = max(s.view.confidence for s in best)
        if surest < self.options.closer_confidence:
            words = f"confidence {surest:.2f} in the surest of {len(best)} second looks"
            least = f"{self.options.closer_confidence:g} is the least"
            return Lost(LostReason.NOT_CONFIDENT, f"{words}, {least}")
        sigma_rad = sigmas(combined(best)[1])[1]
        if sigma_rad > self.options.closer_sigma_rad:
            least = f"{self.options.closer_sigma_rad:g} is the most"
            return Lost(LostReason.UNCERTAIN, f"{sigma_rad:.4f} rad by second looks, {least}")
        strongest = max(found, key=lambda s: s.view.strength)
        if strongest not in best:
            words = f"keyframe {strongest.view.keyframe}, which shows most of the image"
            return Lost(LostReason.AMBIGUOUS, f"{words}, contradicts {len(best)} others")
        return None

    def _detail(self, query: Query, sightings: Sequence[Sighting]) -> Confirmation:
        """How much of the detail in the keyframes' pictures is in the query, where it should be."""
        frame_from_camera = se3.inverse(query.camera_from_frame)
        parts = []
        for s in sightings[: self.options.agreeing]:
            keyframe = self.places.place(s.view.keyframe).frame
            pose = s.view.keyframe_from_camera @ frame_from_camera
            parts.append(confirmation(query.original, keyframe, pose))
            if not self._is_repetitive() and self._is_plain(parts[-1]):
                break  # 20 ms for each keyframe
        return together(parts)

    def _steady_detail_confirms(self, query: Query, sightings: Sequence[Sighting]) -> bool:
        """Whether that part of the keyframes' pictures says so that stays as it is. Never where
        places look alike: there too little of it is left to tell them apart."""
        if self._is_repetitive():
            return False
        frame_from_camera = se3.inverse(query.camera_from_frame)
        poses = {
            s.view.keyframe: s.view.keyframe_from_camera @ frame_from_camera for s in sightings
        }
        first = list(poses.items())[: self.options.agreeing]
        steady = together([self._steady.confirmation(query.original, *each) for each in first])
        return steady.area >= self.options.detail_area and self._contradicted(steady) is None

    def _is_plain(self, detail: Confirmation) -> bool:
        """Whether one keyframe says all: nothing to speak of differs, on enough of the picture."""
        o = self.options
        return detail.area >= 2 * o.detail_area and detail.share >= o.plain_detail

    def _is_repetitive(self) -> bool:
        """Whether places of this map look alike."""
        return self.places.look_alikes > self.options.repetitive * len(self.places.poses)

    def _contradicted(self, detail: Confirmation, *, hinted: bool = False) -> Lost | None:
        """A hint tells twins apart, so that rooms may change; but not in a map of look-alikes."""
        o, repetitive = self.options, self._is_repetitive()
        if repetitive and detail.area < o.repetitive_area:
            words = f"{100 * detail.area:.1f} % of the picture has detail"
            return Lost(LostReason.AMBIGUOUS, f"{words}, too little where places look alike")
        least = self._least_detail(repetitive=repetitive, hinted=hinted)
        if detail.area < o.detail_area or detail.share >= least:
            return None
        words = f"of the detail in the picture {100 * detail.share:.0f} % is as in the map"
        return Lost(
            LostReason.UNKNOWN_PLACE, f"{words}, {100 * least:.0f} % is the least here: another "
            "place that looks alike, or much has changed"
        )  # fmt: skip

    def _least_detail(self, *, repetitive: bool, hinted: bool) -> float:
        """Share that must agree, by how well the map's own views agree."""
        o, own = self.options, self.places.own_detail
        if repetitive:
            return max(o.min_detail, own - o.repetitive_margin)
        if hinted:
            return o.hinted_detail
        return max(o.min_detail, 1.0 - o.changes * (1.0 - own) - o.own_detail_margin)

    def _suffice(self, best: list[Sighting]) -> bool:
        strong = [s for s in best if s.view.strength >= self.options.strong]
        return len(best) >= self.options.agreeing or len(strong) >= 2

    def _candidates(
        self, query: Query, best: list[Sighting], lost: list[Lost]
    ) -> Iterator[tuple[int, bool]]:
        """By similarity; once something was seen, what lies around it (True) comes first, also
        what was not matched before because it looks otherwise."""
        tried: set[int] = set()
        again: set[int] = set()
        o = self.options
        tries, blind_tries = o.tries, o.blind_tries
        if query.closer:
            tries, blind_tries = o.closer_tries, o.closer_blind_tries
        for _ in range(tries):
            if len(lost) >= blind_tries and not best:
                return
            near = self.places.near(best[0].map_from_camera, tries) if best else []
            untried = (i for i in near if i not in tried or i in query.unlike - again)
            id, around = next(untried, None), True
            if id is None:
                id = next((i for i, _ in query.nearest if i not in tried), None)
                around = False
            if id is None:
                return
            tried.add(id)
            if around:
                again.add(id)
            yield id, around

    def _sighting(
        self, query: Query, id: int, times: StageTimes, *, around: bool = False
    ) -> Sighting | Lost:
        """`around`: another keyframe there has seen this image, so this one may look otherwise, as
        from much nearer."""
        least = self._least_likeness(query, around=around)
        if id not in query.tried or (around and id in query.unlike):
            query.unlike.discard(id)
            query.tried[id] = self._looked(query, id, least, times)
        return query.tried[id]

    def _least_likeness(self, query: Query, *, around: bool) -> float:
        o = self.options
        if query.closer and around:
            return 0.0  # what the first one saw says where the others look
        less = o.around_likeness if query.closer or around else 1.0
        return less * o.gates.min_likeness

    def _looked(self, query: Query, id: int, least: float, times: StageTimes) -> Sighting | Lost:
        o = self.options
        with times.stage("compare"):
            alike = self.places.most_alike(query.cells, id)
        if alike < least:
            query.alike[id] = alike
            return _unlike(query, id, alike, least)
        with times.stage("load"):
            place = self.places.place(id)
        if query.cells is not None and place.cells is not None:
            with times.stage("compare"):
                alike = query.alike[id] = likeness(query.cells, place.cells)
            if alike < least:
                return _unlike(query, id, alike, least)
        matcher = self.places.matcher
        view = look(
            matcher, query.frame, query.features, place, o.gates, o.pose, times, closer=query.closer
        )
        return view if isinstance(view, Lost) else sighted(view, *self.places.poses[id])

    def _rival(
        self,
        query: Query,
        best: list[Sighting],
        detail: Confirmation,
        found: list[Sighting],
        times: StageTimes,
    ) -> Lost | None:
        """Another part of the map that looks as much like this image, or None."""
        place, _ = combined(best)
        known = {s.view.keyframe: s for s in found}
        others = [
            (id, similarity)
            for id, similarity in query.nearest
            if view_distance(self.places.poses[id][0][None], place)[0] > self.options.rival_m
        ]
        least = self.options.rival_similarity * best_similarity(query)
        for id, similarity in others[: 4 if self._is_repetitive() else 2]:
            if id not in known and similarity >= least:
                sighting = self._sighting(query, id, times)
                if isinstance(sighting, Sighting):
                    known[id] = sighting
        for other in known.values():
            away_m = np.linalg.norm(other.map_from_camera[:3, 3] - place[:3, 3])
            if away_m > self.options.rival_m and not self._clear(query, detail, other):
                return Lost(
                    LostReason.AMBIGUOUS,
                    f"keyframes {best[0].view.keyframe} and {other.view.keyframe}, "
                    f"{away_m:.1f} m apart in the map, look alike from here",
                )
        return None

    def _clear(self, query: Query, detail: Confirmation, other: Sighting) -> bool:
        """Whether the detail tells this place from the other one."""
        there, o = self._detail(query, [other]), self.options
        seen = min(detail.area, there.area) >= o.detail_area
        return seen and detail.share - there.share > o.clear_detail

    def _by_hint(self, query: Query, hint: Hint, times: StageTimes) -> Localized | None:
        """One view that suits the hint is enough: the hint is the second witness."""
        for id in self.places.near(hint.map_from_camera, self.options.hinted_tries):
            sighting = self._sighting(query, id, times)
            if isinstance(sighting, Lost) or not suits(sighting, hint):
                continue
            if self._contradicted(self._detail(query, [sighting]), hinted=True) is None:
                return _answer([sighting], query, times, hinted=True)
        return None


def _unlike(query: Query, id: int, alike: float, least: float) -> Lost:
    query.unlike.add(id)
    words = f"likeness {alike:.2f} to keyframe {id}, {least:g} is the least"
    return Lost(LostReason.NOT_CONFIDENT, words)


def suits(sighting: Sighting, hint: Hint) -> bool:
    """Whether a sighting lies within what the hint says."""
    d = se3.difference(sighting.map_from_camera, hint.map_from_camera)
    P = sighting.covariance + hint.covariance
    return float(d @ np.linalg.solve(P, d)) < CHI2_999_6


def _largest(found: list[Sighting], gates: ViewGates) -> list[Sighting]:
    """The largest group that agrees with one of its own, strongest first."""
    groups = [[b for b in found if b is a or agree(a, b, gates)] for a in found]
    group = max(groups, key=lambda g: (len(g), sum(s.view.strength for s in g)))
    return sorted(group, key=lambda s: -s.view.strength)


def _answer(best: list[Sighting], query: Query, times: StageTimes, *, hinted: bool) -> Localized:
    with times.stage("combine"):
        map_from_frame, covariance = combined(best)
    return Localized(
        # Turning the camera about its centre changes no axis of the map: the covariance stays.
        se3.compose(map_from_frame, se3.inverse(query.camera_from_frame)),
        covariance,
        tuple(s.view.keyframe for s in best),
        sum(s.view.inliers for s in best),
        hinted,
        dict(times.ms),
    )
