"""Where in the map is this image? Two or more keyframes must agree, or the answer is Lost.

image -> encode -> nearest descriptors -> match -> pose by the keyframe's depth -> gates
      -> keyframes around the first answer -> agreement -> no second place -> pose in `map`
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from l2m_ros.errors import MapError
from l2m_ros.geometry import se3
from l2m_ros.mapping.options import RELOCALIZER, Hint, RelocalizerOptions, ViewGates
from l2m_ros.mapping.places import Places, view_distance
from l2m_ros.mapping.verification import (
    CHI2_999_6,
    Sighting,
    agree,
    combined,
    look,
    sighted,
)
from l2m_ros.matching import portable
from l2m_ros.timing import StageTimes
from l2m_ros.types import Features, FloatArray, Frame, Lost, LostReason


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

    def localize(self, frame: Frame, hint: Hint | None = None) -> Localized | Lost:
        times = StageTimes()
        with times.stage("encode"):
            features = self.places.matcher.encode(frame.rgb)
        if hint is not None:
            found = self._by_hint(frame, features, hint, times)
            if found is not None:
                return found
        return self._anywhere(frame, features, times)

    def _anywhere(self, frame: Frame, features: Features, times: StageTimes) -> Localized | Lost:
        with times.stage("retrieve"):
            nearest = self._nearest(features)
        if not nearest:
            return Lost(LostReason.UNKNOWN_PLACE, "the map has no placed keyframes")
        found: list[Sighting] = []
        best: list[Sighting] = []
        why = Lost(LostReason.UNKNOWN_PLACE, "nothing was tried")
        for id in self._candidates(nearest, best):
            sighting = self._sighting(frame, features, id, times)
            if isinstance(sighting, Lost):
                why = sighting
                continue
            found.append(sighting)
            best[:] = _largest(found, self.options.gates)
            if len(best) >= self.options.agreeing:
                break
        if len(best) < 2:
            words = f"{len(found)} keyframes see this place, two must agree"
            return Lost(LostReason.UNKNOWN_PLACE, f"{words} ({why.detail})")
        rival = self._rival(frame, features, nearest, best, found, times)
        return rival or _answer(best, times, hinted=False)

    def _nearest(self, features: Features) -> list[tuple[int, float]]:
        places = self.places
        if not places.fits or places.vocabulary is None:
            raise MapError(
                f"{places.store.address} was made with another matcher or other weights: "
                f"`l2m map check --repair --model {places.matcher.name}` describes it anew"
            )
        local = portable.local_descriptors(portable.to_arrays(places.matcher, features))
        descriptor = places.vocabulary.describe(local)
        found = places.index.nearest(descriptor, 2 * self.options.candidates)
        return [pair for pair in found if pair[0] in places.poses][: self.options.candidates]

    def _candidates(self, nearest: list[tuple[int, float]], best: list[Sighting]) -> Iterator[int]:
        """By similarity; once something was seen, what lies around it comes first."""
        tried: set[int] = set()
        queue = [id for id, _ in nearest]
        while len(tried) < self.options.tries:
            around = []
            if best:
                around = self.places.near(best[0].map_from_camera, self.options.tries)
            id = next((id for id in [*around, *queue] if id not in tried), None)
            if id is None:
                return
            tried.add(id)
            yield id

    def _sighting(
        self, frame: Frame, features: Features, id: int, times: StageTimes
    ) -> Sighting | Lost:
        with times.stage("load"):
            place = self.places.place(id)
        view = look(
            self.places.matcher,
            frame,
            features,
            place,
            self.options.gates,
            self.options.pose,
            times,
        )
        return view if isinstance(view, Lost) else sighted(view, *self.places.poses[id])

    def _rival(
        self,
        frame: Frame,
        features: Features,
        nearest: list[tuple[int, float]],
        best: list[Sighting],
        found: list[Sighting],
        times: StageTimes,
    ) -> Lost | None:
        """Another part of the map that looks as much like this image, or None."""
        place, _ = combined(best)
        known = {s.view.keyframe: s for s in found}
        others = [
            (id, similarity)
            for id, similarity in nearest
            if view_distance(self.places.poses[id][0][None], place)[0] > self.options.rival_m
        ]
        least = self.options.rival_similarity * nearest[0][1]
        for id, similarity in others[:2]:
            if id not in known and similarity >= least:
                sighting = self._sighting(frame, features, id, times)
                if isinstance(sighting, Sighting):
                    known[id] = sighting
        for other in known.values():
            away_m = np.linalg.norm(other.map_from_camera[:3, 3] - place[:3, 3])
            if away_m > self.options.rival_m:
                return Lost(
                    LostReason.AMBIGUOUS,
                    f"keyframes {best[0].view.keyframe} and {other.view.keyframe}, "
                    f"{away_m:.1f} m apart in the map, look alike from here",
                )
        return None

    def _by_hint(
        self, frame: Frame, features: Features, hint: Hint, times: StageTimes
    ) -> Localized | None:
        """One view that suits the hint is enough: the hint is the second witness."""
        for id in self.places.near(hint.map_from_camera, self.options.hinted_tries):
            sighting = self._sighting(frame, features, id, times)
            if isinstance(sighting, Sighting) and suits(sighting, hint):
                return _answer([sighting], times, hinted=True)
        return None


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


def _answer(best: list[Sighting], times: StageTimes, *, hinted: bool) -> Localized:
    with times.stage("combine"):
        pose, covariance = combined(best)
    return Localized(
        pose,
        covariance,
        tuple(s.view.keyframe for s in best),
        sum(s.view.inliers for s in best),
        hinted,
        dict(times.ms),
    )
