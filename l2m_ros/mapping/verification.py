"""When a view of a keyframe is believed, when two of them agree, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.agreement import CHI2_999_6
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.mapping.options import ViewGates
from l2m_ros.mapping.places import Place
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.sampling import correspondences
from l2m_ros.matching.second_look import ROUGH, SecondLookOptions, second_look
from l2m_ros.timing import StageTimes
from l2m_ros.tracking.keyframes import coverage
from l2m_ros.types import (
    Correspondences,
    DenseMatch,
    Features,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
)

# What a view's covariance leaves out grows with the square of the way between the cameras: matches
# err together where parts of the image are hidden or foreshortened, and depth and colour cameras do
# not fit perfectly. Measured on edges of redkitchen: 5 mm at 0.3 m, 30 mm and 1 degree at 0.8 m.
FLOOR_M, FLOOR_RAD = 0.002, 0.001
FLOOR_PER_M, FLOOR_RAD_PER_M2 = 0.04, 0.025
# Turns are tried with the whole map (`roll`), and a place that is not there is asked for too.
UPRIGHT = SecondLookOptions(unsure=0.0, agreed=0.0, both_ways=False)


@dataclass(frozen=True, eq=False)
class View:
    """A query posed in one keyframe."""

    keyframe: int
    keyframe_from_camera: FloatArray
    covariance: FloatArray
    inliers: int
    share: float
    coverage: float
    confidence: float

    @property
    def strength(self) -> float:
        """Of two views, the stronger one shows more of the image."""
        return self.coverage * self.share


def unmodelled(a_from_b: FloatArray) -> FloatArray:
    """6x6 to be added to the covariance of b seen from a."""
    square = float(a_from_b[:3, 3] @ a_from_b[:3, 3])
    sigma_m, sigma_rad = FLOOR_M + FLOOR_PER_M * square, FLOOR_RAD + FLOOR_RAD_PER_M2 * square
    return np.diag([sigma_m**2] * 3 + [sigma_rad**2] * 3)


def look(
    matcher: Matcher,
    frame: Frame,
    features: Features,
    place: Place,
    gates: ViewGates,
    pose: PoseOptions,
    times: StageTimes,
    *,
    closer: bool = False,
) -> View | Lost:
    """The frame posed in one keyframe, if that can be believed.

    closer: where it cannot, both images are cut to what they share and matched once more.
    """
    with times.stage("match"):
        match = matcher.match(features, place.reference)
        pairs = correspondences(match, limit=gates.max_matches)
    dense = isinstance(match, DenseMatch)
    if dense and (sure := mean_confidence(pairs)) < gates.alike_confidence:
        words = f"matches with keyframe {place.id} have a mean confidence of {sure:.2f}"
        return Lost(LostReason.NOT_CONFIDENT, f"{words}, {gates.alike_confidence:g} is the least")
    view = believed(pairs, frame, place, gates, pose, times, dense=dense)
    if isinstance(view, View) or not closer or not isinstance(match, DenseMatch):
        return view
    with times.stage("second_look"):
        images = frame.rgb, place.frame.rgb
        limit = gates.max_matches
        both = second_look(
            matcher, match, place.reference, *images, limit, drawing=ROUGH, options=UPRIGHT
        )
    return believed(both, frame, place, gates, pose, times, dense=True)


def believed(
    pairs: Correspondences,
    frame: Frame,
    place: Place,
    gates: ViewGates,
    pose: PoseOptions,
    times: StageTimes,
    *,
    dense: bool,
) -> View | Lost:
    """The pose of these matches, if it passes the gates."""
    with times.stage("pose"):
        found = estimate_pose(pairs, frame, place.frame, pose)
    if isinstance(found, Lost):
        return found
    if not isinstance(found, MetricPose):
        return Lost(LostReason.NO_SCALE, f"keyframe {place.id} has no depth at the matches")
    inliers = pairs.select(found.inliers)
    view = View(
        place.id,
        found.keyframe_from_camera,
        found.covariance,
        len(inliers),
        len(inliers) / max(len(pairs), 1),
        coverage(inliers.query_px, frame.camera.size),
        mean_confidence(inliers),
    )
    return weak(view, gates, dense=dense) or view


def mean_confidence(pairs: Correspondences) -> float:
    return float(pairs.confidence.mean()) if len(pairs) else 0.0


def weak(view: View, gates: ViewGates, *, dense: bool = True) -> Lost | None:
    """Why this view is not believed, or None."""
    measured = (
        ("inliers", view.inliers, gates.min_inliers),
        ("share of inliers", view.share, gates.min_share),
        ("coverage", view.coverage, gates.min_coverage),
        ("confidence", view.confidence, gates.min_confidence if dense else 0.0),
    )
    for what, value, least in measured:
        if value < least:
            words = f"{what} {value:.3g} in keyframe {view.keyframe}, {least:g} is the least"
            return Lost(LostReason.TOO_FEW_INLIERS, words)
    sigma_m, sigma_rad = sigmas(view.covariance)
    if sigma_m > gates.max_sigma_m or sigma_rad > gates.max_sigma_rad:
        words = f"{sigma_m:.3f} m, {sigma_rad:.4f} rad in keyframe {view.keyframe}"
        return Lost(LostReason.UNCERTAIN, words)
    return None


def sigmas(P: FloatArray) -> tuple[float, float]:
    """Largest standard deviations of position and rotation."""
    largest = [float(np.sqrt(max(np.linalg.eigvalsh(p)[-1], 0))) for p in (P[:3, :3], P[3:, 3:])]
    return largest[0], largest[1]


@dataclass(frozen=True, eq=False)
class Sighting:
    """A view carried into the map by its keyframe's pose."""

    view: View
    map_from_camera: FloatArray
    covariance: FloatArray


def sighted(view: View, pose: FloatArray, P: FloatArray) -> Sighting:
    """View and the keyframe's place in the map together."""
    seen = view.keyframe_from_camera
    own = view.covariance + unmodelled(seen)
    covariance = se3.compose_covariance(pose, P, seen, own)
    return Sighting(view, se3.compose(pose, seen), covariance)


def misfit(a: Sighting, b: Sighting, gates: ViewGates) -> float:
    """Chi-square of the difference with six degrees of freedom; infinite beyond the bounds."""
    d = se3.difference(a.map_from_camera, b.map_from_camera)
    too_far = np.linalg.norm(d[:3]) > gates.agree_most_m
    if too_far or np.linalg.norm(d[3:]) > gates.agree_most_rad:
        return np.inf
    floor = np.diag([gates.agree_m**2] * 3 + [gates.agree_rad**2] * 3)
    return float(d @ np.linalg.solve(a.covariance + b.covariance + floor, d))


def agree(a: Sighting, b: Sighting, gates: ViewGates) -> bool:
    return misfit(a, b, gates) < CHI2_999_6


def combined(sightings: Sequence[Sighting]) -> tuple[FloatArray, FloatArray]:
    """(map_from_camera, covariance) of sightings that agree.

    Covariance intersection with equal weights: the keyframes share errors of the map and of the
    query's image, so their covariances do not shrink as independent ones would. Where they differ
    by more than they claim, the covariance grows with the difference.
    """
    first = max(sightings, key=lambda s: s.view.strength)
    weight = 1.0 / len(sightings)
    informations = [np.linalg.inv(_regular(s.covariance)) * weight for s in sightings]
    P = np.linalg.inv(sum(informations))
    deltas = [se3.difference(s.map_from_camera, first.map_from_camera) for s in sightings]
    mean = P @ sum(W @ d for W, d in zip(informations, deltas, strict=True))
    misfit = sum(
        float((d - mean) @ W @ (d - mean)) for W, d in zip(informations, deltas, strict=True)
    )
    growth = max(1.0, misfit * len(sightings) / (6.0 * max(len(sightings) - 1, 1)))
    P = 0.5 * (P + P.T) * growth
    return se3.perturb(first.map_from_camera, mean), P


def _regular(P: FloatArray) -> FloatArray:
    return P + 1e-10 * np.eye(6)
