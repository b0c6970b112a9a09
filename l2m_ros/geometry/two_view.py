"""Relative pose from matches alone: essential matrix, homography of a plane, or pure rotation.

Torr's GRIC chooses among three models: the squared residuals in units of the noise, plus a
penalty for each model's parameters.

    general   essential matrix   residuals of 1 dimension, manifold of 3, 5 parameters
    planar    homography                      2                       2, 8
    rotation  rotation                        2                       2, 3
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import poselib

from l2m_ros.geometry import se3
from l2m_ros.geometry.absolute import CHI2_MEDIAN, CHI2_MEDIAN_2, WIDE, accepted_radius
from l2m_ros.geometry.covariance import independent_fraction
from l2m_ros.geometry.ransac import (
    RAYS_SAMPLE,
    Search,
    accidental,
    find_homography,
    find_relative,
)
from l2m_ros.geometry.rays import Index, Noise, RayPairs, homogeneous
from l2m_ros.geometry.refine import (
    Fit,
    epipolar_terms,
    refine,
    rotation_terms,
    settle,
)
from l2m_ros.geometry.residuals import epipolar_rows, infinity_rows
from l2m_ros.geometry.rival_motions import (
    SAME_COST,
    ahead,
    apart,
    motion_costs,
    motions,
    told_apart,
)
from l2m_ros.geometry.triangulation import epipolar_distance, plausible_depth
from l2m_ros.types import FloatArray, Lost, LostReason

PLANE_MATCHES = 200  # drawn among the inliers: plenty for 8 parameters
# A plane is named only where nearly all inliers lie on it: 100 samples of four find it if 40 % do,
# and a scene without one is not searched for long (2 ms in place of 20).
PLANE_TRIALS = 100
SHARP, MIN_SHARP = 6.0, 30  # variance, times the best tenth's; fewer matches name no case
SAME_MOTION = 0.02  # radians, or of the unit translation: nearer ones are one motion


@dataclass(frozen=True, eq=False)
class TwoView:
    """Rotation and unit direction, which case it is, and the other motion if there are two."""

    kind: str  # general | planar | rotation
    fit: Fit
    parallax: float  # RMS displacement that no rotation explains, normalised units
    general: Fit  # of the essential matrix, whatever the case
    turned: FloatArray  # 4x4 the rotation that explains the matches best, without a translation
    other: FloatArray | None = None  # 4x4: a plane's second motion, as likely as the first


def relative_pose(
    pairs: RayPairs,
    search: Search,
    *,
    image_size: tuple[float, float],
    min_parallax: float,
    rivals: bool = True,
) -> TwoView | Lost:
    """image_size and min_parallax in normalised units; rivals: see `rival_motions`."""
    first = _settled(pairs, find_relative(pairs, search), search)
    if isinstance(first, Lost):
        return first
    # Which matches are plausible is clearer after the first refinement.
    found = _fitted(pairs, first, search)
    if isinstance(found, Lost):
        return found
    inliers = int((found.fit.weights > 0.5).sum())
    # A random match is an inlier within a band along a line, at most the image's diagonal long.
    band = 2.0 * max(search.threshold, accepted_radius(found.pairs, found.fit, dof=1))
    probability = band * np.hypot(*image_size) / (image_size[0] * image_size[1])
    if accidental(inliers, len(pairs), sample=RAYS_SAMPLE, probability=probability):
        return _too_few(inliers, len(pairs))
    found, other = _likeliest(pairs, found, search) if rivals else (found, None)
    view = _classified(found, search, min_parallax)
    if other is not None and view.kind != "rotation" and view.other is None:
        new = apart(other, view.fit.pose) > SAME_MOTION
        view = replace(view, other=other) if new else view
    near, n = found.index, len(pairs)
    return replace(view, fit=view.fit.over(near, n), general=view.general.over(near, n))


@dataclass(frozen=True, eq=False)
class _Found:
    """A motion and the matches near it."""

    fit: Fit
    index: Index  # of the matches near it
    pairs: RayPairs  # these matches

    @cached_property
    def located(self) -> RayPairs:
        """Those that are located well, whether they agree with the motion or not."""
        return self.pairs.select(_sharp(self.pairs, self.fit, np.arange(len(self.pairs))))

    @cached_property
    def sharp(self) -> RayPairs:
        """The inliers that are located well."""
        inliers = np.flatnonzero(self.fit.weights > 0.5)
        return self.pairs.select(_sharp(self.pairs, self.fit, inliers))

    @cached_property
    def turned(self) -> FloatArray:
        """4x4 the rotation that explains them best, without a translation."""
        return rotation_fit(self.sharp, self.fit.noise)


def _likeliest(pairs: RayPairs, found: _Found, search: Search) -> tuple[_Found, FloatArray | None]:
    """The likeliest motion, and another that is about as likely.

    Asked are the matches near the motion that was found, and of these the ones that are located
    well: of views far apart, vague matches err alike and would outvote the few that know. Even
    these err together, so that a difference in cost tells less than it says.
    """
    minima = motions(found.located, found.fit.pose, found.turned, found.fit.noise)
    if not minima:
        return found, None
    best, *others = minima
    if not best.found:
        better = _fitted(pairs, best.pose, search)
        if not isinstance(better, Lost) and (better.fit.weights > 0.5).sum() > RAYS_SAMPLE:
            found = better
    told = independent_fraction(found.fit, found.pairs.query)
    as_likely = (m.pose for m in others if told * (m.cost - best.cost) < SAME_COST)
    return found, next(as_likely, None)


def _settled(pairs: RayPairs, T: FloatArray, search: Search) -> FloatArray | Lost:
    """The pose on which the matches near it agree."""
    near = _near(pairs, T, search)
    if isinstance(near, Lost):
        return near
    chosen = pairs.select(near)
    found = settle(chosen, T, epipolar_terms(chosen), _first_noise(chosen, T))
    return _open() if found is None else ahead(chosen, found.pose, found.weights)


def _fitted(pairs: RayPairs, T: FloatArray, search: Search) -> _Found | Lost:
    """The pose refined over the matches near it."""
    near = _near(pairs, T, search)
    if isinstance(near, Lost):
        return near
    chosen = pairs.select(near)
    fit = refine(chosen, T, epipolar_terms(chosen), _first_noise(chosen, T))
    return _open() if fit is None else _Found(_forward(chosen, fit), near, chosen)


def _near(pairs: RayPairs, T: FloatArray, search: Search) -> Index | Lost:
    """The matches that may belong to a pose."""
    distance = epipolar_distance(pairs, T)
    plausible = plausible_depth(pairs, T, distance < search.threshold, search.threshold)
    near = np.flatnonzero((distance < WIDE * search.threshold) & plausible)
    return near if len(near) > RAYS_SAMPLE else _too_few(len(near), len(pairs))


def _open() -> Lost:
    return Lost(LostReason.DEGENERATE, "the matches do not determine a relative pose")


def _classified(found: _Found, search: Search, min_parallax: float) -> TwoView:
    """The case that explains the essential matrix's inliers best."""
    pairs, fit, kept, turned = found.pairs, found.fit, found.sharp, found.turned
    plane_search = replace(search, matches=PLANE_MATCHES, max_iterations=PLANE_TRIALS)
    H = find_homography(kept, plane_search)
    squared = {
        "general": epipolar_rows(kept, fit.pose, None, fit.noise, 0.0).squared,
        "planar": _transfer_squared(kept, H, fit.noise),
        "rotation": infinity_rows(kept, turned, None, fit.noise, 0.0).squared,
    }
    costs = {kind: gric(d2, kind) for kind, d2 in squared.items()}
    kind = min(costs, key=lambda name: costs[name])
    parallax = _parallax(kept, turned, fit.noise)
    if kind == "rotation" or parallax < min_parallax:
        rotation = refine(pairs, turned, rotation_terms(pairs), fit.noise) or fit
        return TwoView("rotation", rotation, parallax, fit, turned)
    view = TwoView(kind, _forward(pairs, fit), parallax, fit, turned)
    return _planar(pairs, view, H) if kind == "planar" else view


def _sharp(pairs: RayPairs, fit: Fit, index: Index) -> Index:
    """Those of `index` that are located well in both directions: corners, not edges, blank walls.

    GRIC counts each match once: many that could lie anywhere would outvote the few that know.
    """
    xx, _, yy = pairs.covariance(fit.noise)[:, index]
    sharp = index[xx + yy <= SHARP * np.quantile(xx + yy, 0.1)]
    return sharp if len(sharp) >= MIN_SHARP else index


MODELS = {"general": (1, 3, 5), "planar": (2, 2, 8), "rotation": (2, 2, 3)}


def gric(squared: FloatArray, kind: str) -> float:
    """Residual dimensions, manifold's dimension and parameters: see the head of this file."""
    dimensions, manifold, parameters = MODELS[kind]
    n = len(squared)
    fit = float(np.minimum(squared, 2.0 * dimensions).sum())
    return fit + manifold * n * float(np.log(4.0)) + parameters * float(np.log(4.0 * n))


def rotation_fit(pairs: RayPairs, noise: Noise) -> FloatArray:
    """The rotation that turns the query's rays into the keyframe's, by Kabsch and refinement."""
    a, b = homogeneous(pairs.query), homogeneous(pairs.keyframe)
    a, b = a / np.linalg.norm(a, axis=0), b / np.linalg.norm(b, axis=0)
    U, _, Vt = np.linalg.svd(b @ a.T)
    R = U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt
    T = se3.transform(R, np.zeros(3))
    median = float(np.median(infinity_rows(pairs, T, None, Noise(), 0.0).squared))
    start = Noise(match=max(median / CHI2_MEDIAN_2, noise.match))
    found = settle(pairs, T, rotation_terms(pairs), start)
    return T if found is None else found.pose


def _planar(pairs: RayPairs, view: TwoView, H: FloatArray) -> TwoView:
    """A plane's homography has two motions; take the likelier, keep the other if it is close."""
    candidates = [view.fit]
    for pose in poselib.motion_from_homography(H)[0]:
        t = np.asarray(pose.t)
        length = float(np.linalg.norm(t))
        if length == 0:
            continue
        T = se3.transform(np.asarray(pose.R), t / length)
        found = refine(pairs, T, epipolar_terms(pairs), view.fit.noise)
        if found is not None:
            candidates.append(_forward(pairs, found))
    costed = [(motion_costs(pairs, fit.pose, view.fit.noise), fit) for fit in candidates]
    (least, best), *others = sorted(costed, key=lambda it: float(it[0].sum()))
    told = independent_fraction(best, pairs.query)
    for costs, fit in others:
        if apart(fit.pose, best.pose) > SAME_MOTION and not told_apart(least, costs, told):
            return replace(view, fit=best, general=best, other=fit.pose)
    return replace(view, fit=best, general=best)


def _forward(pairs: RayPairs, fit: Fit) -> Fit:
    pose = ahead(pairs, fit.pose, fit.weights)
    return fit if pose is fit.pose else replace(fit, pose=pose)


def _parallax(pairs: RayPairs, turned: FloatArray, noise: Noise) -> float:
    """RMS over the matches, the noise's own part taken out."""
    ray = turned[:3, :3] @ homogeneous(pairs.query)
    off = ((pairs.keyframe - ray[:2] / ray[2]) ** 2).sum(axis=0)
    xx, _, yy = pairs.covariance(noise)
    return float(np.sqrt(max(np.median(off) - np.median(xx + yy), 0.0)))


def _transfer_squared(pairs: RayPairs, H: FloatArray, noise: Noise) -> FloatArray:
    moved = H @ homogeneous(pairs.query)
    du, dv = pairs.keyframe - moved[:2] / moved[2]
    xx, xy, yy = pairs.covariance(noise)
    return np.asarray((yy * du * du - 2 * xy * du * dv + xx * dv * dv) / (xx * yy - xy * xy))


def _first_noise(pairs: RayPairs, T: FloatArray) -> Noise:
    median = float(np.median(epipolar_rows(pairs, T, None, Noise(), 0.0).squared))
    return Noise(match=max(median / CHI2_MEDIAN, 1e-4))


def _too_few(inliers: int, matches: int) -> Lost:
    return Lost(
        LostReason.TOO_FEW_INLIERS,
        f"{inliers} of {matches} matches agree on an essential matrix: no more than random "
        "ones would",
    )
