"""From matches to the camera's place in the keyframe: the one function that consumers call.

    matches -> checks -> rays -> first scale source that suffices -> pose and covariance
                                 none -> rotation and unit direction

Every expected failure is a `Lost` with its reason.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.covariance import direction_covariance, rotation_covariance
from l2m_ros.geometry.metric_pose import is_final, metric_pose
from l2m_ros.geometry.pose_problem import MIN_MATCHES, PoseOptions, PoseProblem
from l2m_ros.geometry.rays import Index, RayPairs, ray_pairs
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.texture import is_textured, texture_covariance
from l2m_ros.geometry.two_view import TwoView
from l2m_ros.types import (
    Correspondences,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

NO_EVIDENCE, DEFAULTS = ScaleEvidence(), PoseOptions()


def estimate_pose(
    matches: Correspondences,
    query: Frame,
    keyframe: Frame,
    options: PoseOptions = DEFAULTS,
    evidence: ScaleEvidence = NO_EVIDENCE,
) -> MetricPose | RelativePose | Lost:
    """The query's camera in the keyframe's optical frame; deterministic for a given seed."""
    bad = _unusable(matches)
    if bad is not None:
        return bad
    floor_px = texture_covariance(keyframe, matches.keyframe_px, options.texture)
    pairs = ray_pairs(matches, query.camera, keyframe.camera, floor_px)
    usable = _usable(matches, pairs, is_textured(floor_px))
    if isinstance(usable, Lost):
        return usable
    problem = PoseProblem(matches, pairs, usable, query, keyframe, options, evidence)
    try:
        return problem.degenerate(np.ones(len(usable))) or _pose(problem)
    except np.linalg.LinAlgError as error:
        return Lost(LostReason.DEGENERATE, f"the matches determine no covariance ({error})")


def _unusable(matches: Correspondences) -> Lost | None:
    """Why these matches cannot give a pose, or None."""
    finite = np.isfinite(matches.query_px).all(axis=1) & np.isfinite(matches.keyframe_px).all(
        axis=1
    )
    if not finite.all():
        return Lost(
            LostReason.INVALID_INPUT,
            f"{int((~finite).sum())} of {len(matches)} matches hold NaN or infinity",
        )
    if len(matches) and not matches.confidence.any():
        return Lost(LostReason.NOT_CONFIDENT, f"all {len(matches)} matches have zero confidence")
    return None


def _usable(
    matches: Correspondences, pairs: RayPairs, textured: npt.NDArray[np.bool_]
) -> Index | Lost:
    """Indices of the matches that count, if there are enough."""
    confident = matches.confidence > 0
    known = np.isfinite(pairs.query).all(axis=0) & np.isfinite(pairs.keyframe).all(axis=0)
    usable = confident & known & np.isfinite(pairs.noise).all(axis=0)
    on_texture = np.flatnonzero(usable & textured)
    if len(on_texture) < MIN_MATCHES:
        blank = int((usable & ~textured).sum())
        return Lost(
            LostReason.TOO_FEW_MATCHES,
            f"{len(on_texture)} usable matches of {len(matches)}, a pose takes {MIN_MATCHES}"
            + (f"; {blank} lie where the keyframe's image shows no texture" if blank else ""),
        )
    return on_texture


def _pose(problem: PoseProblem) -> MetricPose | RelativePose | Lost:
    metric = metric_pose(problem)
    if isinstance(metric, MetricPose) or (metric is not None and is_final(metric)):
        return metric
    relative = _relative(problem)
    if metric is None:
        return relative
    if isinstance(relative, RelativePose):
        against = metric.reason is LostReason.CONTRADICTED
        return replace(relative, why_not_metric=metric.detail, contradicted=against)
    return metric  # where neither works, the reason why there are no metres says more


def _undetectable_parallax(problem: PoseProblem, view: TwoView) -> float:
    """Parallax that passes for none, normalised: half a standard deviation, or the threshold."""
    own = float(np.sqrt(np.median(problem.pairs.covariance(view.fit.noise)[0])))
    return max(view.parallax, 0.5 * own)


def _relative(problem: PoseProblem) -> RelativePose | Lost:
    """No metres: rotation and direction, and which case it is."""
    view = problem.two_view()
    if isinstance(view, Lost):
        return view
    inliers = problem.inliers(view.fit)
    bad = problem.degenerate(view.fit.weights)
    if bad is not None:
        return bad
    P: FloatArray = np.zeros((6, 6))
    common = problem.common(view.fit.pose)
    if view.kind == "rotation":
        unseen = _undetectable_parallax(problem, view)
        P[3:, 3:] = rotation_covariance(view.fit, problem.pairs.query, unseen, common)
        return RelativePose(view.fit.pose, inliers, "rotation", P)
    P = direction_covariance(view.fit, problem.pairs.query, view.other, common)
    return RelativePose(view.fit.pose, inliers, view.kind, P)
