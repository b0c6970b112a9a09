"""What a camera's errors have in common, fitted so that poses are as far off as they claim.

    first half of a recording with truth -> constants -> NEES of the second half, before and after

The poses stay as they were tracked; each is estimated again from its own matches with other
constants. Fitted is the likelihood of the errors under the covariances,

    sum of log det (P + T) + min(e^T (P + T)^-1 e, five sigma)         T: the truth's own

one constant after the other on a logarithmic grid. A covariance that is too large costs as well as
one that is too small; no error costs more than five sigma, so that a wrong pose does not buy large
covariances for all others.

A truth is often better than it says: beside a T that explains all errors by itself every covariance
is too large. So T is shrunk first, to the share that the first half's errors make likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2, norm

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.pose import NO_EVIDENCE, estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.tracking.result import TrackResult
from l2m_ros.tracking.scale_evidence import scale_evidence
from l2m_ros.types import Correspondences, FloatArray, Frame, MetricPose
from l2m_ros.workshop.evaluation.honesty import likeliest
from l2m_ros.workshop.evaluation.tracking import WRONG_POSE_SIGMAS, TruthSigma
from l2m_ros.workshop.evaluation.trajectory import Trajectory

FACTORS = (0.35, 0.6, 1.0, 1.7, 2.9)  # a constant times each is tried
ROUNDS = 3  # at most
LEAST_POSES = 20  # of the fitted half
MOST_FITTED = 60  # evenly over the half; each takes a second or two of a core
COST_LIMIT = float(chi2.isf(2 * norm.sf(WRONG_POSE_SIGMAS), 6))
SCALES = (0.0, 0.003, 0.01, 0.03)
SHARED = (0.0, 0.5, 1.0, 1.7)


@dataclass(frozen=True, eq=False)
class Sample:
    """What a pose was made from, and the truth."""

    matches: Correspondences
    query: Frame
    keyframe: Frame
    truth: FloatArray  # keyframe_from_camera
    evidence: ScaleEvidence = NO_EVIDENCE

    @property
    def stereo(self) -> bool:
        return self.evidence.stereo_depth is not None

    def pose(self, options: PoseOptions) -> MetricPose | None:
        """With other constants."""
        found = estimate_pose(self.matches, self.query, self.keyframe, options, self.evidence)
        return found if isinstance(found, MetricPose) else None


@dataclass(frozen=True)
class Calibrated:
    """The constants, and what they do to the half that was not fitted."""

    parameters: dict[str, float]  # as the node names them
    poses: tuple[int, int]  # of either half
    fitted: tuple[float, float]  # mean NEES of the first half, before and after
    held_out: tuple[float, float]  # ... of the second half
    wrong: tuple[int, int]  # poses of the second half beyond five sigma, before and after
    truth_share: float  # of the truth's stated sigma, what its errors turned out to be


def samples(results: Iterable[TrackResult], truth: Trajectory) -> list[Sample]:
    """Those with metres from depth or stereo and a truth at both ends."""
    found = []
    for result in results:
        if result.pose is None or result.pose.scale_source not in ("depth", "stereo"):
            continue
        keyframe, matches = result.keyframe, result.correspondences
        assert keyframe is not None and matches is not None
        ends = [truth.at(f.stamp_ns) for f in (keyframe.frame, result.frame)]
        if ends[0] is not None and ends[1] is not None:
            relative = se3.compose(se3.inverse(ends[0]), ends[1])
            evidence = scale_evidence(keyframe, None)
            found.append(Sample(matches, result.frame, keyframe.frame, relative, evidence))
    return found


def calibrate(found: Sequence[Sample], options: PoseOptions, truth: TruthSigma) -> Calibrated:
    """Fits the first half of the samples, by time, and judges the second."""
    half = len(found) // 2
    first, second = found[:half], found[half:]
    if len(first) < LEAST_POSES:
        raise InvalidInput(
            f"{len(found)} poses with truth: each half takes {LEAST_POSES}; give a longer recording"
        )
    share = truth_share(first, options, truth)
    truth = TruthSigma(share * truth.m, share * truth.deg)
    fitted = fit(first, options, truth)
    nees = {
        (part, when): nees_of(those, these, truth)
        for part, those in (("first", first), ("second", second))
        for when, these in (("before", options), ("after", fitted))
    }

    def mean(part: str) -> tuple[float, float]:
        return float(nees[part, "before"].mean()), float(nees[part, "after"].mean())

    beyond = [int((nees["second", when] > COST_LIMIT).sum()) for when in ("before", "after")]
    return Calibrated(
        _parameters(fitted, options),
        (len(first), len(second)),
        mean("first"),
        mean("second"),
        (beyond[0], beyond[1]),
        share,
    )


def truth_share(found: Sequence[Sample], options: PoseOptions, truth: TruthSigma) -> float:
    """Of the truth's sigma: its likeliest share, 1 at most."""
    known = [(pose, sample) for sample in found if (pose := sample.pose(options)) is not None]
    if not truth.covariance().any() or not known:
        return 1.0
    errors = np.array([se3.difference(p.keyframe_from_camera, s.truth) for p, s in known])
    P = np.array([pose.covariance for pose, _ in known])
    T = np.broadcast_to(truth.covariance(), P.shape)
    return min(1.0, float(np.sqrt(likeliest(errors, P, T)[1])))


def fit(found: Sequence[Sample], options: PoseOptions, truth: TruthSigma) -> PoseOptions:
    """The constants under which the errors are likeliest."""
    found = found[:: -(-len(found) // MOST_FITTED)]
    trials_of_depth = _stereo_noise if found[0].stereo else _depth_noise
    best, cost = options, _cost(found, options, truth)
    for _ in range(ROUNDS):
        start = best
        for trials in (_common_px, trials_of_depth, _depth_shared, _scale_sigma):
            for trial in trials(best):
                if trial == best:
                    continue
                value = _cost(found, trial, truth)
                if value < cost:
                    best, cost = trial, value
        if best == start:
            break
    return best


def _common_px(o: PoseOptions) -> list[PoseOptions]:
    return [replace(o, common_px=float(f * max(o.common_px, 0.05))) for f in FACTORS]


def _stereo_noise(o: PoseOptions) -> list[PoseOptions]:
    return [replace(o, stereo_noise=float(f * o.stereo_noise)) for f in FACTORS]


def _depth_noise(o: PoseOptions) -> list[PoseOptions]:
    n = o.depth_noise
    return [
        replace(
            o,
            depth_noise=replace(
                n, constant_m=f * n.constant_m, quadratic_per_m=f * n.quadratic_per_m
            ),
        )
        for f in FACTORS
    ]


def _depth_shared(o: PoseOptions) -> list[PoseOptions]:
    return [replace(o, depth_shared=value) for value in SHARED]


def _scale_sigma(o: PoseOptions) -> list[PoseOptions]:
    return [replace(o, depth_scale_sigma=value) for value in SCALES]


def _cost(found: Sequence[Sample], options: PoseOptions, truth: TruthSigma) -> float:
    """Mean of -2 log likelihood, bounded by sample."""

    def cost(error: FloatArray, P: FloatArray) -> float:
        squared = float(error @ np.linalg.solve(P, error))
        return float(np.linalg.slogdet(P)[1]) + min(squared, COST_LIMIT)

    return float(np.mean(_judged(found, options, truth, cost)))


def nees_of(found: Sequence[Sample], options: PoseOptions, truth: TruthSigma) -> FloatArray:
    """e^T (P + T)^-1 e of each sample that has a pose under these constants."""
    return np.array(_judged(found, options, truth, lambda e, P: float(e @ np.linalg.solve(P, e))))


def _judged(
    found: Sequence[Sample],
    options: PoseOptions,
    truth: TruthSigma,
    judge: Callable[[FloatArray, FloatArray], float],
) -> list[float]:
    values = []
    for sample in found:
        pose = sample.pose(options)
        if pose is not None:
            error = se3.difference(pose.keyframe_from_camera, sample.truth)
            values.append(judge(error, pose.covariance + truth.covariance()))
    if not values:
        raise InvalidInput("no pose is left under these constants")
    return values


def _parameters(fitted: PoseOptions, options: PoseOptions) -> dict[str, float]:
    """Those that changed, rounded to what a fit of some dozen poses knows."""
    both = {
        "pose.common_px": (fitted.common_px, options.common_px),
        "pose.depth_noise_m": (fitted.depth_noise.constant_m, options.depth_noise.constant_m),
        "pose.depth_noise_per_m": (
            fitted.depth_noise.quadratic_per_m,
            options.depth_noise.quadratic_per_m,
        ),
        "pose.stereo_noise": (fitted.stereo_noise, options.stereo_noise),
        "pose.depth_shared": (fitted.depth_shared, options.depth_shared),
        "pose.depth_scale_sigma": (fitted.depth_scale_sigma, options.depth_scale_sigma),
    }
    return {name: float(f"{new:.3g}") for name, (new, old) in both.items() if new != old}
