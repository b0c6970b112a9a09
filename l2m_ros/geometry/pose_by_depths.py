"""A pose by the depths of matches: searched, refined, and compared with two-view geometry.

Depths that few matches have (a known scene) must agree with most of them, also those without.
Coarse ones (a network's) give no more than a length where there is parallax.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.absolute import absolute_pose
from l2m_ros.geometry.agreement import CHI2_999_5, disagreement
from l2m_ros.geometry.covariance import admit, independent_fraction
from l2m_ros.geometry.depth_check import depth_check
from l2m_ros.geometry.pose_by_length import from_coarse_depths, too_unsure
from l2m_ros.geometry.pose_problem import MIN_MATCHES, PoseProblem
from l2m_ros.geometry.rays import RayPairs, focal_px, homogeneous
from l2m_ros.geometry.refine import Fit, epipolar_terms, settle
from l2m_ros.geometry.rival_motions import SAME_COST, ahead, motion_cost
from l2m_ros.geometry.scale import Depths
from l2m_ros.geometry.shutter import beside_pose
from l2m_ros.geometry.triangulation import triangulated_depth
from l2m_ros.geometry.two_view import TwoView
from l2m_ros.types import FloatArray, Lost, LostReason, MetricPose

FRAME_DEPTH = "depth"  # of `SCALE_SOURCES`: another sensor than the camera
MEASURED = (FRAME_DEPTH, "stereo")
# Of the matches, that agree with a known scene; those without depth join by their epipolar lines.
# Where they did (0.46 and more) poses were up to 0.9 degrees off, else (0.17 and less) up to 4.
LEAST_AGREED = 0.3
# As if all were so far away: how fast the camera moves is known by the depth that is on trial, how
# fast it turns is not.
FAR_M = 1e6
# A known scene's pose explains the matches if they cost so much in the mean (noise alone: 1; of
# another place: 2 and more), and so many times more than those of equally likely motions.
MOST_COST, WITH_DEPTH = 1.5, 2.0


def from_depths(problem: PoseProblem, depths: Depths, source: str) -> MetricPose | Lost:
    if depths.known < MIN_MATCHES:
        return Lost(LostReason.NO_DEPTH, f"{depths.known} matches have a known depth ({source})")
    if depths.scale_sigma > problem.options.max_scale_sigma:
        return too_unsure(problem, source, depths.scale_sigma)
    pairs = problem.pairs.with_depths(depths, problem.keyframe)
    if source == FRAME_DEPTH:  # a stereo pair is taken at once
        pairs = replace(pairs, bias_m=pairs.bias_m + problem.late_depth_m(pairs.slope))
    if depths.coarse:
        seen = from_coarse_depths(problem, pairs, depths, source)
        if seen is not None:
            return seen
        pairs = replace(pairs, keyframe=problem.pairs.keyframe)
    side = problem.query if np.isfinite(depths.keyframe_m).any() else problem.keyframe
    f = focal_px(side)
    initial = _scaled(problem, pairs) if depths.shift_sigma_m > 0 else None

    def posed(pairs: RayPairs, initial: FloatArray | None) -> Fit | Lost:
        return absolute_pose(
            pairs,
            problem.search(side),
            image_area=side.width * side.height / f**2,
            shift_sigma_m=depths.shift_sigma_m,
            initial=initial,
            hole_sigma=problem.hole_sigma,
            patient=depths.sparse,  # few depths say little of the noise of the many matches
        )

    fit = posed(pairs, depths.initial if initial is None else initial)
    if (
        isinstance(fit, Fit)
        and not depths.coarse
        and problem.unroll(fit.pose, _in_keyframe_m(pairs, fit.pose))
    ):
        pairs = replace(pairs, keyframe=problem.pairs.keyframe)
        fit = posed(pairs, fit.pose)
    if isinstance(fit, Lost):
        return fit
    agreed = float((fit.weights > 0.5).mean())
    if depths.sparse and agreed < LEAST_AGREED:
        return Lost(
            LostReason.NO_SCALE,
            f"{100 * agreed:.0f} % of the matches agree with the known {source}, "
            f"{100 * LEAST_AGREED:.0f} are the least: little of it is seen",
        )
    with_depth = np.isfinite(pairs.keyframe_m) | np.isfinite(pairs.query_m)
    pose = problem.metric(
        fit,
        source,
        depths.scale_sigma,
        _in_keyframe_m(pairs, fit.pose),
        with_depth,
        depths.keyframe_shapes_m,
        measured=source in MEASURED,
    )
    return pose if isinstance(pose, Lost) else _compared(problem, pairs, pose, depths.sparse)


def _in_keyframe_m(pairs: RayPairs, T: FloatArray) -> FloatArray:
    """(N,) depth in the keyframe; of a match that has it in the query alone, by the pose T."""
    by_query_m = pairs.query_m * (T[2, :3] @ homogeneous(pairs.query)) + T[2, 3]
    return np.where(np.isfinite(pairs.keyframe_m), pairs.keyframe_m, by_query_m)


def _scaled(problem: PoseProblem, pairs: RayPairs) -> FloatArray | None:
    """The two-view pose with its length from the depths; None below the parallax threshold.

    A network's depth is too coarse to search with where there is parallax; where there is none,
    the translation comes from it.
    """
    view = problem.two_view()
    if isinstance(view, Lost) or view.kind == "rotation":
        return None
    z = triangulated_depth(pairs, view.fit.pose)
    good = (view.fit.weights > 0.5) & (z > 0) & np.isfinite(pairs.keyframe_m)
    if good.sum() < MIN_MATCHES:
        return None
    length = float(np.exp(np.median(np.log(pairs.keyframe_m[good] / z[good]))))
    return se3.transform(view.fit.pose[:3, :3], length * view.fit.pose[:3, 3])


def _compared(problem: PoseProblem, pairs: RayPairs, pose: MetricPose, sparse: bool) -> MetricPose:
    """The pose, as uncertain as its difference from the two-view geometry asks for.

    Skipped where a rotation explains the matches: the direction of so small a motion is unknown.
    sparse: its depths came of matches too, that saw the scene from elsewhere. Two views of a wall
    have several motions; the pose need not agree with the one that was found, if it explains the
    matches as well.
    """
    view, Q = problem.rough_two_view()
    if isinstance(view, Lost):
        return pose
    learnt = problem.request.evidence.depth_noise if pose.scale_source == FRAME_DEPTH else 1.0
    chosen, T = problem.compared, pose.keyframe_from_camera
    compared, depth_m = pairs.select(chosen), _in_keyframe_m(pairs, T)
    rolled = problem.rolled(T, np.full(len(pairs), FAR_M))[..., chosen]
    rolled = beside_pose(rolled, compared, depth_m[chosen])
    checked = depth_check(compared, view, T, learnt, rolled)
    pose = replace(pose, depth_check=checked)
    if view.kind == "rotation":
        return pose
    motions = [view.general.pose] if view.other is None else [view.general.pose, view.other]
    found = min(
        (disagreement(pose.keyframe_from_camera, pose.covariance, T, Q) for T in motions),
        key=lambda it: it.squared,
    )
    if sparse and found.squared > CHI2_999_5:
        near = _as_likely(problem, view, pose.keyframe_from_camera)
        if near is not None:
            found = disagreement(pose.keyframe_from_camera, pose.covariance, near, Q)
    P = admit(pose.covariance, found.apart, found.squared, CHI2_999_5)
    return replace(pose, covariance=P, disagreement=found.squared)


def _as_likely(problem: PoseProblem, view: TwoView, T: FloatArray) -> FloatArray | None:
    """The two-view motion (4x4) next to T, if it explains the matches as the one found does."""
    some = problem.pairs.select(problem.compared)
    start = se3.transform(T[:3, :3], T[:3, 3] / max(float(np.linalg.norm(T[:3, 3])), 1e-9))
    near = settle(some, start, epipolar_terms(some), view.general.noise)
    if near is None:
        return None
    motion = ahead(some, near.pose, near.weights)
    found, cost = (motion_cost(some, m, view.general.noise) for m in (view.general.pose, motion))
    if cost > MOST_COST * len(some):
        return None
    told = independent_fraction(view.general, some.query)
    return motion if told * (cost - found) < WITH_DEPTH * SAME_COST else None
