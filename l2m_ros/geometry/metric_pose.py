"""A pose in metres: from the first scale source that suffices.

depths (any source)     search and refinement, compared with two-view geometry
known scene             the same; most matches must agree, also those without depth
coarse depths           two-view geometry, its length from the depths; as above without parallax
floor                   two-view geometry, its length from the camera's height above the floor
translation prior       two-view geometry, its length from the prior
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.absolute import absolute_pose
from l2m_ros.geometry.agreement import CHI2_999_5, disagreement
from l2m_ros.geometry.covariance import admit, direction_covariance, independent_fraction
from l2m_ros.geometry.depth_check import depth_check
from l2m_ros.geometry.floor import length_from_floor
from l2m_ros.geometry.fusion import fused
from l2m_ros.geometry.halves import BLOCKS, poses_of_halves, widened_by_halves
from l2m_ros.geometry.length import Length, length_from_depths
from l2m_ros.geometry.pose_problem import MIN_MATCHES, PoseProblem
from l2m_ros.geometry.rays import RayPairs, focal_px, homogeneous
from l2m_ros.geometry.refine import Fit, epipolar_terms, refine, settle
from l2m_ros.geometry.rival_motions import SAME_COST, ahead, motion_cost
from l2m_ros.geometry.scale import SCALE_SOURCES, Depths, Floor, TranslationPrior
from l2m_ros.geometry.triangulation import epipolar_distance, triangulated_depth
from l2m_ros.geometry.two_view import TwoView
from l2m_ros.types import FloatArray, Lost, LostReason, MetricPose

FRAME_DEPTH = "depth"  # of `SCALE_SOURCES`: another sensor than the camera
MEASURED = (FRAME_DEPTH, "stereo")
MONO_DEPTH = "mono_depth"  # matched by the tracker's matcher: most of it is right, or it is blur
# Of the matches, that agree within the search's threshold. On a hand-held recording with fast turns
# the five poses that 20 to 45 % agreed on were 3 to 16 degrees off and stated 1 to 3.
MAJORITY = 0.5
# Of the matches, that agree with a known scene; those without depth join by their epipolar lines.
# Where they did (0.46 and more) poses were up to 0.9 degrees off, else (0.17 and less) up to 4.
LEAST_AGREED = 0.3
ACROSS = 3.0  # lengths: a prior on the length alone says nothing across the direction
# A direction that is known worse than this leaves the translation to the prior; twice a wrong one,
# 60 degrees off at 30 degrees claimed, was scaled to a fifth of its length.
MAX_VAGUE_RAD = 0.3
CHI2_99_3 = 11.34  # 99 % of chi-square with three degrees of freedom
# Chi-square of five degrees of freedom between the matches and odometry; up to it the covariance
# grows with their difference.
MAX_APART = 100.0
# A known scene's pose explains the matches if they cost so much in the mean (noise alone: 1; of
# another place: 2 and more), and so many times more than those of equally likely motions.
MOST_COST, WITH_DEPTH = 1.5, 2.0


def metric_pose(problem: PoseProblem) -> MetricPose | Lost | None:
    """From the first source that gives a pose; None where none has anything to say.

    A degenerate answer is final, a failed one leaves it to the next source.
    """
    first: Lost | None = None
    for name in problem.options.sources:
        term = SCALE_SOURCES[name](problem.request)
        if term is None:
            continue
        if isinstance(term, TranslationPrior):
            outcome = _from_prior(problem, term, name)
        elif isinstance(term, Floor):
            outcome = _from_floor(problem, term, name)
        else:
            outcome = _from_depths(problem, term, name)
            if isinstance(outcome, Lost) and (term.coarse or term.sparse) and is_final(outcome):
                # Such depths may fail where the matches alone still show a rotation.
                outcome = Lost(LostReason.NO_SCALE, f"{name}: {outcome.detail}")
        if isinstance(outcome, MetricPose) or is_final(outcome):
            return outcome
        first = first or outcome
    return first


def is_final(lost: Lost) -> bool:
    return lost.reason is LostReason.DEGENERATE


def _from_depths(problem: PoseProblem, depths: Depths, source: str) -> MetricPose | Lost:
    if depths.known < MIN_MATCHES:
        return Lost(LostReason.NO_DEPTH, f"{depths.known} matches have a known depth ({source})")
    if depths.scale_sigma > problem.options.max_scale_sigma:
        return _too_unsure(problem, source, depths.scale_sigma)
    pairs = problem.pairs.with_depths(depths, problem.keyframe)
    if source == FRAME_DEPTH:  # a stereo pair is taken at once
        pairs = replace(pairs, bias_m=pairs.bias_m + problem.late_depth_m(pairs.slope))
    if depths.coarse:
        seen = _from_coarse_depths(problem, pairs, depths, source)
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


def _from_coarse_depths(
    problem: PoseProblem, pairs: RayPairs, depths: Depths, source: str
) -> MetricPose | Lost | None:
    """Rotation and direction from the matches, length from the depths; None without parallax."""
    view = problem.two_view()
    if isinstance(view, Lost) or view.kind == "rotation":
        return None
    found = [
        (T, length)
        for T in ([view.fit.pose] if view.other is None else [view.fit.pose, view.other])
        if (length := _length(problem, pairs, depths, view.fit, T)) is not None
    ]
    if not found:
        return None
    T, length = min(found, key=lambda it: it[1].misfit)
    if _unrolled(problem, T, length.length_m):
        pairs = replace(pairs, keyframe=problem.pairs.keyframe)
        return _from_coarse_depths(problem, pairs, depths, source)
    threshold = problem.search(problem.keyframe).threshold
    agree = float((epipolar_distance(problem.pairs, T) < threshold).mean())
    if source == MONO_DEPTH and agree < MAJORITY:
        return Lost(
            LostReason.UNCERTAIN,
            f"{100 * agree:.0f} % of the matches agree on a motion, metres of {source} take half: "
            "the images are blurred, or matches mislead",
        )
    # A network that is wrong about the shape of what parallax shows is no surer of its size.
    scale_sigma = float(np.hypot(depths.scale_sigma, length.spread))
    if scale_sigma > problem.options.max_scale_sigma:
        return _too_unsure(problem, source, scale_sigma)
    return _of_length(problem, view, T, length, scale_sigma, source)


def _from_floor(problem: PoseProblem, floor: Floor, source: str) -> MetricPose | Lost:
    """Rotation and direction from the matches, length from the height above the floor."""
    view = problem.two_view()
    if isinstance(view, Lost):
        return view
    if view.kind == "rotation":
        return Lost(LostReason.NO_SCALE, f"no parallax: the {source} cannot be told from the rest")
    sigma = float(np.sqrt(np.median(problem.pairs.covariance(view.fit.noise)[0])))
    inlier = view.fit.weights > 0.5
    motions = [view.fit.pose] if view.other is None else [view.fit.pose, view.other]
    lengths = (
        length_from_floor(problem.pairs, T, inlier, floor, match_sigma=sigma) for T in motions
    )
    found = [(T, seen) for T, seen in zip(motions, lengths, strict=True) if seen is not None]
    if not found:
        return Lost(LostReason.NO_SCALE, f"no {source} is seen {floor.height_m:.2f} m below")
    T, seen = max(found, key=lambda it: it[1].points)
    if _unrolled(problem, T, seen.length_m):
        return _from_floor(problem, floor, source)
    if seen.common > problem.options.max_scale_sigma:
        return _too_unsure(problem, source, seen.common)
    own = Length(seen.length_m, seen.length_m * seen.sigma, 0.0, 1.0, 0.0)
    return _of_length(problem, view, T, own, seen.common, source)


def _unrolled(problem: PoseProblem, T: FloatArray, length_m: float) -> bool:
    """Undoes a known rolling shutter by the depths that a two-view pose of that length shows."""
    depth_m = length_m * triangulated_depth(problem.pairs, T)
    return problem.unroll(se3.transform(T[:3, :3], length_m * T[:3, 3]), depth_m)


def _of_length(
    problem: PoseProblem,
    view: TwoView,
    T: FloatArray,
    length: Length,
    scale_sigma: float,
    source: str,
) -> MetricPose | Lost:
    """The two-view pose T, refined, as long as that; scale_sigma: of the length, as a whole."""
    search = problem.search(problem.keyframe)
    t = length.length_m * T[:3, 3]
    along = np.outer(T[:3, 3], T[:3, 3])
    vague_m = ACROSS * length.length_m
    prior = TranslationPrior(t, length.sigma_m**2 * along + vague_m**2 * (np.eye(3) - along))
    chosen = np.flatnonzero(view.fit.weights > 1e-3)
    some = problem.pairs.select(chosen)
    start = se3.transform(T[:3, :3], t)
    fit = refine(some, start, epipolar_terms(some, prior), view.fit.noise)
    if fit is None:
        return Lost(LostReason.NO_SCALE, f"{source} and the matches do not determine a pose")
    everything = np.ones(len(problem.pairs), dtype=np.bool_)
    whole = fit.over(chosen, len(problem.pairs))
    depth_m = triangulated_depth(problem.pairs, fit.pose)
    pose = problem.metric(whole, source, scale_sigma, depth_m, everything)
    if isinstance(pose, Lost):
        return pose
    halves = poses_of_halves(problem.pairs, problem.blocks(BLOCKS), length.length_m, search)
    P = widened_by_halves(pose.covariance, pose.keyframe_from_camera, halves)
    return replace(pose, covariance=P)


def _too_unsure(problem: PoseProblem, source: str, scale_sigma: float) -> Lost:
    allowed = problem.options.max_scale_sigma
    return Lost(
        LostReason.NO_SCALE,
        f"the metres of {source} are sure to {100 * scale_sigma:.0f} % only, "
        f"pose.max_scale_sigma allows {100 * allowed:.0f} %",
    )


def _length(
    problem: PoseProblem, pairs: RayPairs, depths: Depths, fit: Fit, T: FloatArray
) -> Length | None:
    own = float(np.sqrt(np.median(problem.pairs.covariance(fit.noise)[0])))
    return length_from_depths(
        pairs,
        T,
        fit.weights > 0.5,
        match_sigma=own,
        depth_sigma=depths.noise.proportional * np.sqrt(depths.keyframe_variance_factor),
        shift_sigma_m=depths.shift_sigma_m,
    )


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
    compared = pairs.select(problem.compared)
    checked = depth_check(compared, view, pose.keyframe_from_camera, learnt)
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


def _from_prior(problem: PoseProblem, prior: TranslationPrior, source: str) -> MetricPose | Lost:
    """Rotation and direction from the matches, length from elsewhere."""
    view = problem.two_view()
    if isinstance(view, Lost):
        return view
    if view.kind == "rotation":
        # The translation would be the prior's alone; whoever fuses both would count it twice.
        return Lost(
            LostReason.NO_SCALE,
            f"no parallax: {source}'s translation cannot be seen; it takes motion across the view",
        )
    start = _start_of_length(problem, view, prior, source)
    if isinstance(start, Lost):
        return start
    fit = _fit_near(problem, view, start)
    if fit is None:
        return Lost(LostReason.NO_SCALE, f"{source} and the matches do not determine a pose")
    bad = problem.degenerate(fit.weights)
    if bad is not None:
        return bad
    Q = direction_covariance(fit, problem.pairs.query, None, problem.common(fit.pose))
    both = fused(start, fit.pose, Q, prior)
    if both.squared > MAX_APART:
        return Lost(
            LostReason.CONTRADICTED,
            f"{source} moved otherwise than the matches say (chi-square {both.squared:.0f}, "
            f"accepted are {MAX_APART:g})",
        )
    return problem.checked(fit, both.pose, both.covariance, source)


def _fit_near(problem: PoseProblem, view: TwoView, start: FloatArray) -> Fit | None:
    """The two-view fit of the motion that was chosen: a plane has two."""
    if view.other is None or not np.allclose(start[:3, :3], view.other[:3, :3]):
        return view.fit
    chosen = np.flatnonzero(view.fit.weights > 1e-3)
    some = problem.pairs.select(chosen)
    fit = refine(some, view.other, epipolar_terms(some), view.fit.noise)
    return None if fit is None else fit.over(chosen, len(problem.pairs))


def _start_of_length(
    problem: PoseProblem, view: TwoView, prior: TranslationPrior, source: str
) -> FloatArray | Lost:
    """The two-view pose with the length that suits the prior."""
    W = np.linalg.inv(prior.covariance)
    poses = [view.fit.pose] if view.other is None else [view.fit.pose, view.other]
    common = problem.common(view.fit.pose)
    vague = direction_covariance(view.fit, problem.pairs.query, None, common)[:3, :3]
    sigma_rad = float(np.sqrt(np.linalg.eigvalsh(vague)[-1]))
    if sigma_rad > MAX_VAGUE_RAD:
        return Lost(
            LostReason.NO_SCALE,
            f"too little parallax: the matches show the direction to {np.degrees(sigma_rad):.0f} "
            f"degrees only, {source}'s translation would be its own; it takes motion across the "
            "view",
        )
    scaled = (_scaled_direction(T, prior, vague) for T in poses)
    T, length, misfit = min(scaled, key=lambda x: x[2])
    direction = T[:3, 3]
    sigma = 1.0 / np.sqrt(float(direction @ W @ direction))
    if misfit > CHI2_99_3 or length < 2.0 * sigma:
        contradicts = misfit > CHI2_99_3 or length < 0
        return Lost(
            LostReason.CONTRADICTED if contradicts else LostReason.NO_SCALE,
            f"{source} says {np.round(prior.translation_m, 4).tolist()} m, the matches say the "
            f"direction {np.round(direction, 3).tolist()}: no length fits both",
        )
    return se3.transform(T[:3, :3], length * direction)


def _scaled_direction(
    T: FloatArray, prior: TranslationPrior, vague: FloatArray
) -> tuple[FloatArray, float, float]:
    """(pose, the length along its direction that suits the prior, what misfit is left).

    vague (3, 3): covariance of the unit direction, which a small motion shows badly.
    """
    d = T[:3, 3]
    far = float(prior.translation_m @ prior.translation_m)
    W = np.linalg.inv(prior.covariance + far * vague)
    length = float(d @ W @ prior.translation_m) / float(d @ W @ d)
    off = prior.translation_m - length * d
    return T, length, float(off @ W @ off)
