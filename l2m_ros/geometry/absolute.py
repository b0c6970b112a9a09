"""Pose from matches with depth: PoseLib's P3P in LO-RANSAC, then the refinement over all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry.ransac import POINTS_SAMPLE, Search, accidental, find_absolute
from l2m_ros.geometry.rays import Noise, RayPairs
from l2m_ros.geometry.refine import Fit, depth_terms, refine
from l2m_ros.geometry.robust import HALF_WEIGHT
from l2m_ros.geometry.triangulation import epipolar_distance, plausible_depth
from l2m_ros.types import FloatArray, Lost, LostReason

WIDE = 4.0  # thresholds within which a match may still turn out to be an inlier
ONE_DEPTH = 1e-5  # relative spread: no scene is that flat, and float32 resolves 1e-7
LEAST_EQUAL = 6  # depths: fewer are equal by chance, in whole millimetres
MIN_FRACTION_WITHOUT_DEPTH = 0.05  # fewer matches without depth are not worth a second refinement
MIN_T_SIGMAS = 10.0  # of |t|, before an epipolar line has a direction worth using
# Medians of chi-square with one and two degrees of freedom.
CHI2_MEDIAN, CHI2_MEDIAN_2 = 0.4549, 1.3863


def absolute_pose(
    pairs: RayPairs,
    search: Search,
    *,
    image_area: float,
    shift_sigma_m: float = 0.0,
    initial: FloatArray | None = None,
    hole_sigma: float = 0.0,
    patient: bool = False,
) -> Fit | Lost:
    """The pose that the matches with depth agree on, then all matches.

    image_area in normalised units; `initial` replaces the search, and all matches may belong to it.
    hole_sigma: what a match without depth errs on top, normalised units. patient: see `with_rays`.
    """
    flat = one_depth(pairs)
    if flat is not None:
        return flat
    T = find_absolute(pairs, search) if initial is None else initial
    off = reprojection_distance(pairs, T)
    near = np.flatnonzero(off < (WIDE * search.threshold if initial is None else np.inf))
    if len(near) <= POINTS_SAMPLE:
        return _too_few(len(near), len(pairs))
    chosen = pairs.select(near)
    terms = depth_terms(chosen, shift_sigma_m=shift_sigma_m)
    # Among all matches more than half may be outliers.
    share = 0.5 if initial is None else 0.25
    fit = refine(chosen, T, terms, first_noise(chosen, off[near], share))
    if fit is None:
        return Lost(LostReason.DEGENERATE, "the matches with depth do not determine a pose")
    radius = max(search.threshold, accepted_radius(chosen, fit, dof=2))
    fit = fit.over(near, len(pairs))
    inliers = int((fit.weights > 0.5).sum())
    probability = np.pi * radius**2 / image_area
    if accidental(inliers, len(pairs), sample=POINTS_SAMPLE, probability=probability):
        return _too_few(inliers, len(pairs))
    return with_rays(pairs, fit, search, shift_sigma_m, hole_sigma, patient)


def accepted_radius(pairs: RayPairs, fit: Fit, *, dof: int) -> float:
    """How far off a match may lie and still weigh more than half, normalised units."""
    xx, xy, yy = pairs.covariance(fit.noise)
    variance = float(np.median(np.sqrt(np.maximum(xx * yy - xy * xy, 0.0))))
    return float(np.sqrt(HALF_WEIGHT[dof] * variance))


def one_depth(pairs: RayPairs) -> Lost | None:
    """Refuses depths that are all equal: a stuck sensor or a default value."""
    for depth_m in (pairs.keyframe_m, pairs.query_m):
        known = depth_m[np.isfinite(depth_m)]
        if known.size >= LEAST_EQUAL and np.ptp(known) <= ONE_DEPTH * known[0]:
            return Lost(
                LostReason.DEGENERATE,
                f"all {known.size} depths equal {known[0]:.4g} m: a depth image without relief "
                "comes from a stuck sensor or a default value; check the depth topic",
            )
    return None


def with_rays(
    pairs: RayPairs,
    fit: Fit,
    search: Search,
    shift_sigma_m: float,
    hole_sigma: float,
    patient: bool = False,
) -> Fit:
    """Matches without depth join in by their epipolar lines, once t has a direction.

    A depth camera fails on gloss, on dark things and beside edges, and there the matches are worse
    too: hole_sigma. patient: goes on once more where the refinement has not settled.
    """
    without = ~(np.isfinite(pairs.keyframe_m) | np.isfinite(pairs.query_m))
    if without.sum() < MIN_FRACTION_WITHOUT_DEPTH * len(pairs):
        return fit
    P, t = np.linalg.inv(fit.information[:6, :6]), fit.pose[:3, 3]
    if np.sqrt(np.linalg.eigvalsh(P[:3, :3])[-1]) * MIN_T_SIGMAS > np.linalg.norm(t):
        return fit
    inlier = fit.weights > 0.5
    rays = without & plausible_depth(pairs, fit.pose, inlier, search.threshold)
    rays &= epipolar_distance(pairs, fit.pose) < WIDE * search.threshold
    chosen = np.flatnonzero(rays | (~without & (fit.weights > 1e-3)))
    joint = pairs.select(chosen).blurred(np.where(without[chosen], hole_sigma**2, 0.0))
    terms = depth_terms(joint, shift_sigma_m=shift_sigma_m, epipolar=True)
    both = refine(joint, fit.pose, terms, fit.noise)
    if patient and both is not None and not both.converged:
        both = refine(joint, both.pose, terms, both.noise)
    return fit if both is None else replace(both.over(chosen, len(pairs)), fewer=fit)


def reprojection_distance(pairs: RayPairs, T: FloatArray) -> FloatArray:
    """(N,) how far off each match reprojects, units of the optical axis; NaN without depth."""
    Rt, t = T[:3, :3].T, T[:3, 3:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        X = pairs.keyframe_m * np.stack([*pairs.keyframe, np.ones(len(pairs))])
        Y = Rt @ (X - t)
        off = _distance(Y, pairs.query) / pairs.stretch[0]
        missing = np.flatnonzero(np.isnan(pairs.keyframe_m) & np.isfinite(pairs.query_m))
        if len(missing):
            q = pairs.query[:, missing]
            Y = pairs.query_m[missing] * np.stack([*q, np.ones(len(missing))])
            away = _distance(Rt.T @ Y + t, pairs.keyframe[:, missing])
            off[missing] = away / pairs.stretch[1, missing]
    return np.asarray(off)


def _distance(Y: FloatArray, seen: FloatArray) -> FloatArray:
    d = Y[:2] / Y[2] - seen
    return np.where(Y[2] > 0, np.sqrt(d[0] * d[0] + d[1] * d[1]), np.nan)


def first_noise(pairs: RayPairs, off: FloatArray, share: float) -> Noise:
    """The match noise at a first pose, from how far off the nearest share of points reproject.

    Outliers and depth noise raise it: a start that is too wide narrows by itself, unless most of
    the nearest are outliers.
    """
    claimed = 0.5 * (pairs.noise[0] + pairs.noise[2]) / pairs.stretch[1] ** 2
    nearest = float(np.quantile(off * off / claimed, share))
    return Noise(match=max(nearest / (-2.0 * np.log(1.0 - share)), 1e-4))  # of chi-square with two


def _too_few(inliers: int, matches: int) -> Lost:
    return Lost(
        LostReason.TOO_FEW_INLIERS,
        f"{inliers} of {matches} matches agree on a pose: no more than random ones would",
    )
