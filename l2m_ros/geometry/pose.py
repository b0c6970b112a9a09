"""From matches to the camera's place in the keyframe: the one function that consumers call.

    matches -> checks -> rays -> first scale source that suffices -> pose and covariance
                                 none -> rotation and unit direction

Every expected failure is a `Lost` with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.absolute import absolute_pose
from l2m_ros.geometry.agreement import CHI2_999_5, disagreement
from l2m_ros.geometry.covariance import (
    Common,
    admit,
    direction_covariance,
    pose_covariance,
    regions,
    rotation_covariance,
)
from l2m_ros.geometry.ransac import Search
from l2m_ros.geometry.rays import Index, RayPairs, focal_px, ray_pairs
from l2m_ros.geometry.refine import Fit, epipolar_terms, refine
from l2m_ros.geometry.scale import (
    SCALE_SOURCES,
    DepthNoise,
    Depths,
    ScaleEvidence,
    ScaleRequest,
    TranslationPrior,
)
from l2m_ros.geometry.texture import TextureNoise, is_textured, texture_covariance
from l2m_ros.geometry.triangulation import triangulated_depth
from l2m_ros.geometry.two_view import TwoView, relative_pose
from l2m_ros.types import (
    Camera,
    Correspondences,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

NO_EVIDENCE = ScaleEvidence()
# Enough to check a pose by two-view geometry; all 2,000 take 7 of 25 ms more, to the same end.
COMPARED_MATCHES = 600
MIN_MATCHES = 6
MIN_SPREAD_PX = 1.0  # standard deviation of the matches across their line, in either image
MAX_SIGMA_RAD = 0.5  # a rotation less certain than this is none
CHI2_99_3 = 11.34  # 99 % of chi-square with three degrees of freedom


@dataclass(frozen=True)
class PoseOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    threshold_px: float = 2.0  # of PoseLib's search; the refinement estimates the noise itself
    # Error that a region's matches share (see `covariance`).
    common_px: float = 0.3
    min_parallax_px: float = 0.5  # below, a direction is not worth naming
    depth_noise: DepthNoise = field(default_factory=DepthNoise)
    texture: TextureNoise = field(default_factory=TextureNoise)
    depth_scale_sigma: float = 0.0  # relative, of the depth sensor's calibration
    search_matches: int = 300  # drawn for the search; the refinement takes all
    sources: tuple[str, ...] = tuple(SCALE_SOURCES)  # tried in this order
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold_px < 1e4:
            raise InvalidInput(f"threshold_px must be some pixels, got {self.threshold_px:g}")
        if not 0.0 <= self.common_px <= 100.0:
            raise InvalidInput(f"common_px must lie in [0, 100], got {self.common_px:g}")
        unknown = [name for name in self.sources if name not in SCALE_SOURCES]
        if unknown:
            raise InvalidInput(
                f"unknown scale source {unknown[0]!r}; known: {', '.join(SCALE_SOURCES)}"
            )


def estimate_pose(
    matches: Correspondences,
    query: Frame,
    keyframe: Frame,
    options: PoseOptions = PoseOptions(),
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
    problem = _Problem(matches, pairs, usable, query, keyframe, options, evidence)
    try:
        return problem.degenerate(np.ones(len(usable))) or _pose(problem)
    except np.linalg.LinAlgError as error:
        return Lost(LostReason.DEGENERATE, f"the matches determine no covariance ({error})")


def _unusable(matches: Correspondences) -> Lost | None:
    """What no pose can be asked of."""
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


class _Problem:
    """Usable matches of two frames, with what more than one path needs."""

    def __init__(
        self,
        matches: Correspondences,
        pairs: RayPairs,
        usable: Index,
        query: Frame,
        keyframe: Frame,
        options: PoseOptions,
        evidence: ScaleEvidence,
    ) -> None:
        self.pairs, self.options = pairs.select(usable), options
        self._usable, self._given = usable, len(matches)
        if len(usable) < len(matches):
            matches = matches.select(usable)
        self.query, self.keyframe = query.camera, keyframe.camera
        self.request = ScaleRequest(
            matches, query, keyframe, evidence, options.depth_noise, options.depth_scale_sigma
        )
        asked = options.texture.grey > 0 and bool(self.pairs.floor.any())
        self.hole_sigma = options.texture.hole_px / focal_px(self.keyframe) if asked else 0.0
        self._two_view: TwoView | Lost | None = None

    def search(self, camera: Camera) -> Search:
        threshold = self.options.threshold_px / focal_px(camera)
        return Search(threshold, self.options.seed, self.options.search_matches)

    def two_view(self) -> TwoView | Lost:
        """Computed when first asked for: a pose from depth does without."""
        if self._two_view is None:
            self._two_view = self._relative(self.pairs)
        return self._two_view

    def _relative(self, pairs: RayPairs) -> TwoView | Lost:
        f = focal_px(self.keyframe)
        return relative_pose(
            pairs,
            self.search(self.keyframe),
            image_size=(self.keyframe.width / f, self.keyframe.height / f),
            min_parallax=self.options.min_parallax_px / f,
        )

    def rough_two_view(self) -> tuple[TwoView | Lost, FloatArray]:
        """Two-view geometry of COMPARED_MATCHES, and its direction's covariance (6x6): a check."""
        chosen = np.linspace(0, len(self.pairs) - 1, COMPARED_MATCHES).astype(np.intp)
        some = self.pairs.select(np.unique(chosen))
        view = self._relative(some)
        if isinstance(view, Lost):
            return view, np.zeros((6, 6))
        common = self.common()
        common = replace(common, region=common.region[np.unique(chosen)])
        return view, direction_covariance(view.general, some.query, None, common)

    def common(self, scale_sigma: float = 0.0) -> Common:
        """What the matches' errors have in common."""
        region = regions(self.request.matches.query_px, self.query.size)
        return Common(region, self.options.common_px / focal_px(self.keyframe), scale_sigma)

    def inliers(self, fit: Fit) -> npt.NDArray[np.bool_]:
        """(N,) over the matches as they were given."""
        inliers = np.zeros(self._given, dtype=np.bool_)
        inliers[self._usable] = fit.weights > 0.5
        return inliers

    def degenerate(self, weights: FloatArray) -> Lost | None:
        """Too few, identical and collinear matches, in either image; weights (N,)."""
        inliers = int((weights > 0.5).sum())
        if inliers < MIN_MATCHES:  # all matches disagree a little: images of different places
            words = f"{inliers} matches agree on a pose, {MIN_MATCHES} are the least"
            return Lost(LostReason.TOO_FEW_INLIERS, words)
        counted = float(weights.sum())
        for name, xy, camera in (
            ("query", self.pairs.query, self.query),
            ("keyframe", self.pairs.keyframe, self.keyframe),
        ):
            centred = xy - (xy @ weights / counted)[:, None]
            spread = np.linalg.eigvalsh((centred * weights) @ centred.T / counted)
            across, along = np.sqrt(np.maximum(spread, 0.0)) * focal_px(camera)
            if across < MIN_SPREAD_PX:
                what = "one line" if along >= MIN_SPREAD_PX else "one point"
                return Lost(
                    LostReason.DEGENERATE, f"all {counted:.0f} matches lie on {what} of the {name}"
                )
        return None

    def metric(
        self, fit: Fit, source: str, scale_sigma: float, with_depth: npt.NDArray[np.bool_]
    ) -> MetricPose | Lost:
        bad = self.degenerate(fit.weights)
        if bad is not None:
            return bad
        if not fit.converged:
            return Lost(
                LostReason.DEGENERATE,
                "the refinement did not settle: the matches agree on no single pose",
            )
        covariance = pose_covariance(fit, self.pairs.query, self.common(scale_sigma))
        bad = _undetermined(covariance)
        return bad or MetricPose(
            fit.pose, covariance, self.inliers(fit), source, self.support(fit, with_depth)
        )

    def support(self, fit: Fit, with_depth: npt.NDArray[np.bool_]) -> float:
        """Share of the matches with depth that agree, each by the matcher's own certainty."""
        certainty = self.request.matches.confidence * with_depth
        return float(certainty[fit.weights > 0.5].sum() / max(certainty.sum(), 1e-9))


def _pose(problem: _Problem) -> MetricPose | RelativePose | Lost:
    metric = _metric(problem)
    if isinstance(metric, MetricPose) or (metric is not None and _final(metric)):
        return metric
    relative = _relative(problem)
    if metric is None:
        return relative
    if isinstance(relative, RelativePose):
        return replace(relative, why_not_metric=metric.detail)
    return metric  # where neither works, the reason why there are no metres says more


def _metric(problem: _Problem) -> MetricPose | Lost | None:
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
        else:
            outcome = _from_depths(problem, term, name)
        if isinstance(outcome, MetricPose) or _final(outcome):
            return outcome
        first = first or outcome
    return first


def _final(lost: Lost) -> bool:
    return lost.reason is LostReason.DEGENERATE


def _from_depths(problem: _Problem, depths: Depths, source: str) -> MetricPose | Lost:
    if depths.known < MIN_MATCHES:
        return Lost(LostReason.NO_DEPTH, f"{depths.known} matches have a known depth ({source})")
    pairs = problem.pairs.with_depths(depths, problem.keyframe)
    side = problem.query if np.isfinite(depths.keyframe_m).any() else problem.keyframe
    f = focal_px(side)
    initial = _scaled(problem, pairs) if depths.shift_sigma_m > 0 else None
    fit = absolute_pose(
        pairs,
        problem.search(side),
        image_area=side.width * side.height / f**2,
        shift_sigma_m=depths.shift_sigma_m,
        initial=depths.initial if initial is None else initial,
        hole_sigma=problem.hole_sigma,
    )
    if isinstance(fit, Lost):
        return fit
    with_depth = np.isfinite(pairs.keyframe_m) | np.isfinite(pairs.query_m)
    pose = problem.metric(fit, source, depths.scale_sigma, with_depth)
    return pose if isinstance(pose, Lost) else _compared(problem, pose)


def _compared(problem: _Problem, pose: MetricPose) -> MetricPose:
    """The pose, as uncertain as its difference from the two-view geometry asks for.

    Not where a rotation explains the matches: the direction of so small a motion is anybody's.
    """
    view, Q = problem.rough_two_view()
    if isinstance(view, Lost) or view.kind == "rotation":
        return pose
    motions = [view.general.pose] if view.other is None else [view.general.pose, view.other]
    found = min(
        (disagreement(pose.keyframe_from_camera, pose.covariance, T, Q) for T in motions),
        key=lambda it: it.squared,
    )
    P = admit(pose.covariance, found.apart, found.squared, CHI2_999_5)
    return replace(pose, covariance=P, disagreement=found.squared)


def _scaled(problem: _Problem, pairs: RayPairs) -> FloatArray | None:
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


def _from_prior(problem: _Problem, prior: TranslationPrior, source: str) -> MetricPose | Lost:
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
    W = np.linalg.inv(prior.covariance)
    poses = [view.fit.pose] if view.other is None else [view.fit.pose, view.other]
    common = problem.common()
    vague = direction_covariance(view.fit, problem.pairs.query, None, common)[:3, :3]
    scaled = (_scaled_direction(T, prior, vague) for T in poses)
    T, length, misfit = min(scaled, key=lambda x: x[2])
    direction = T[:3, 3]
    sigma = 1.0 / np.sqrt(float(direction @ W @ direction))
    if misfit > CHI2_99_3 or length < 2.0 * sigma:
        return Lost(
            LostReason.NO_SCALE,
            f"{source} says {np.round(prior.translation_m, 4).tolist()} m, the matches say the "
            f"direction {np.round(direction, 3).tolist()}: no length fits both",
        )
    chosen = np.flatnonzero(view.fit.weights > 1e-3)
    pairs = problem.pairs.select(chosen)
    fit = refine(
        pairs,
        se3.transform(T[:3, :3], length * direction),
        epipolar_terms(pairs, prior),
        view.fit.noise,
    )
    if fit is None:
        return Lost(LostReason.NO_SCALE, f"{source} and the matches do not determine a pose")
    everything = np.ones(len(problem.pairs), dtype=np.bool_)
    return problem.metric(fit.over(chosen, len(problem.pairs)), source, 0.0, everything)


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


def _undetectable_parallax(problem: _Problem, view: TwoView) -> float:
    """Parallax that passes for none, normalised: half a standard deviation, or the threshold."""
    own = float(np.sqrt(np.median(problem.pairs.covariance(view.fit.noise.match)[0])))
    return max(view.parallax, 0.5 * own)


def _relative(problem: _Problem) -> RelativePose | Lost:
    """No metres: rotation and direction, and which case it is."""
    view = problem.two_view()
    if isinstance(view, Lost):
        return view
    inliers = problem.inliers(view.fit)
    bad = problem.degenerate(view.fit.weights)
    if bad is not None:
        return bad
    P: FloatArray = np.zeros((6, 6))
    if view.kind == "rotation":
        P[3:, 3:] = rotation_covariance(
            view.fit, problem.pairs.query, _undetectable_parallax(problem, view), problem.common()
        )
        return RelativePose(view.fit.pose, inliers, "rotation", P)
    P = direction_covariance(view.fit, problem.pairs.query, view.other, problem.common())
    return RelativePose(view.fit.pose, inliers, view.kind, P)


def _undetermined(covariance: FloatArray) -> Lost | None:
    if np.isfinite(covariance).all() and _semidefinite(covariance):
        sigma_rad = float(np.sqrt(max(np.linalg.eigvalsh(covariance[3:, 3:])[-1], 0.0)))
        if sigma_rad < MAX_SIGMA_RAD:
            return None
    return Lost(LostReason.DEGENERATE, "the matches leave the rotation open")


def _semidefinite(covariance: FloatArray) -> bool:
    least = float(np.linalg.eigvalsh(covariance)[0])
    return least >= -1e-10 * float(np.abs(covariance).max())
