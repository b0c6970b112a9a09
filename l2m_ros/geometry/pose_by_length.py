"""A pose by two-view geometry, in metres by its length alone.

The length comes from coarse depths (a network's), from the camera's height above the floor, or from
a translation that another sensor measured.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.covariance import direction_covariance
from l2m_ros.geometry.floor import length_from_floor
from l2m_ros.geometry.fusion import fused
from l2m_ros.geometry.halves import BLOCKS, poses_of_halves, widened_by_halves
from l2m_ros.geometry.length import Length, length_from_depths
from l2m_ros.geometry.pose_problem import PoseProblem
from l2m_ros.geometry.rays import RayPairs
from l2m_ros.geometry.refine import Fit, epipolar_terms, refine
from l2m_ros.geometry.scale import Depths, Floor, TranslationPrior
from l2m_ros.geometry.triangulation import epipolar_distance, triangulated_depth
from l2m_ros.geometry.two_view import TwoView
from l2m_ros.types import FloatArray, Lost, LostReason, MetricPose, Turn

MONO_DEPTH = "mono_depth"  # matched by the tracker's matcher: most of it is right, or it is blur
# Of a dense match's pairs: a pose on which fewer agree is doubtful. Of 155 right poses of 15 scenes
# none has less than 0.56, of 19 wrong ones six have less than a half; on a hand-held recording with
# fast turns the five poses that 20 to 45 % agreed on were 3 to 16 degrees off and stated 1 to 3.
MAJORITY = 0.5
ACROSS = 3.0  # lengths: a prior on the length alone says nothing across the direction
KNOWS_NOTHING = 10.0  # relative: not a sigma that anything measured
# A direction that is known worse than this leaves the translation to the prior; twice a wrong one,
# 60 degrees off at 30 degrees claimed, was scaled to a fifth of its length.
MAX_VAGUE_RAD = 0.3
CHI2_99_3 = 11.34  # 99 % of chi-square with three degrees of freedom
# Chi-square of five degrees of freedom between the matches and odometry; up to it the covariance
# grows with their difference.
MAX_APART = 100.0


def from_coarse_depths(
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
        return from_coarse_depths(problem, pairs, depths, source)
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
        return too_unsure(problem, source, scale_sigma)
    return _of_length(problem, view, T, length, scale_sigma, source)


def from_floor(problem: PoseProblem, floor: Floor, source: str) -> MetricPose | Lost:
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
        return from_floor(problem, floor, source)
    if seen.common > problem.options.max_scale_sigma:
        return too_unsure(problem, source, seen.common)
    own = Length(seen.length_m, seen.length_m * seen.sigma, 0.0, 1.0, 0.0)
    return _of_length(problem, view, T, own, seen.common, source)


def from_prior(problem: PoseProblem, prior: TranslationPrior, source: str) -> MetricPose | Lost:
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
    seen = _directed(problem, view.fit)
    start = _start_of_length(view, seen[:3, :3], prior, source)
    if isinstance(start, Lost):
        return start
    fit = _fit_near(problem, view, start)
    if fit is None:
        return Lost(LostReason.NO_SCALE, f"{source} and the matches do not determine a pose")
    bad = problem.degenerate(fit.weights)
    if bad is not None:
        return bad
    Q = seen if fit is view.fit else _directed(problem, fit)
    search = problem.search(problem.keyframe)
    halves = poses_of_halves(problem.pairs, problem.blocks(BLOCKS), 1.0, search, fit.pose)
    Q = widened_by_halves(Q, fit.pose, halves)
    both = fused(start, fit.pose, Q, prior)
    if both.squared > MAX_APART:
        return Lost(
            LostReason.CONTRADICTED,
            f"{source} moved otherwise than the matches say (chi-square {both.squared:.0f}, "
            f"accepted are {MAX_APART:g})",
        )
    pose = problem.checked(fit, both.pose, both.covariance, source)
    if isinstance(pose, Lost):
        return pose
    return replace(pose, seen_turn=Turn(fit.pose[:3, :3], Q[3:, 3:]))


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


def _unrolled(problem: PoseProblem, T: FloatArray, length_m: float) -> bool:
    """Undoes a known rolling shutter by the depths that a two-view pose of that length shows."""
    depth_m = length_m * triangulated_depth(problem.pairs, T)
    return problem.unroll(se3.transform(T[:3, :3], length_m * T[:3, 3]), depth_m)


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


def _fit_near(problem: PoseProblem, view: TwoView, start: FloatArray) -> Fit | None:
    """The two-view fit of the motion that was chosen: a plane has two."""
    if view.other is None or not np.allclose(start[:3, :3], view.other[:3, :3]):
        return view.fit
    chosen = np.flatnonzero(view.fit.weights > 1e-3)
    some = problem.pairs.select(chosen)
    fit = refine(some, view.other, epipolar_terms(some), view.fit.noise)
    return None if fit is None else fit.over(chosen, len(problem.pairs))


def _directed(problem: PoseProblem, fit: Fit) -> FloatArray:
    """6x6 of rotation and unit direction."""
    return direction_covariance(fit, problem.pairs.query, None, problem.common(fit.pose))


def _start_of_length(
    view: TwoView, vague: FloatArray, prior: TranslationPrior, source: str
) -> FloatArray | Lost:
    """The two-view pose with the length that suits the prior; vague (3, 3): its direction's."""
    W = np.linalg.inv(prior.covariance)
    poses = [view.fit.pose] if view.other is None else [view.fit.pose, view.other]
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


def too_unsure(problem: PoseProblem, source: str, scale_sigma: float) -> Lost:
    if scale_sigma > KNOWS_NOTHING:
        words = (
            f"{source} reads no metres of such a scene or camera: it is unlike all that it knows"
        )
        return Lost(LostReason.NO_SCALE, words)
    allowed = problem.options.max_scale_sigma
    return Lost(
        LostReason.NO_SCALE,
        f"the metres of {source} are sure to {100 * scale_sigma:.0f} % only, "
        f"pose.max_scale_sigma allows {100 * allowed:.0f} %",
    )
