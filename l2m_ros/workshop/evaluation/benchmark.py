"""A matcher over the pairs of a scene: match, solve, compare with the truth.

encode(a), encode(b) -> reference(b) -> match(a, b) -> correspondences -> solver -> errors
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.matcher import Match, Matcher
from l2m_ros.matching.pairs import Drawing, pairs_of
from l2m_ros.matching.sampling import METHODS
from l2m_ros.matching.second_look import WHEN, second_look
from l2m_ros.types import (
    Correspondences,
    DenseMatch,
    Features,
    FloatArray,
    Lost,
    LostReason,
    Reference,
    RelativePose,
)
from l2m_ros.workshop.evaluation import metrics
from l2m_ros.workshop.evaluation.scenes import Pair, Scene, Size, View, shrunk_pair
from l2m_ros.workshop.evaluation.solvers import SOLVERS, Outcome, homography, pose

T = TypeVar("T")

KEPT_IMAGES = 12  # encoded images kept: a large network's features take 0.1 GB each
WARP_PIXELS = 4096  # of a dense warp compared with the truth, spread over the image


@dataclass(frozen=True)
class BenchmarkOptions:
    """Defaults are those of the published figures: one solver and one size for all matchers."""

    size_px: int | None = 640  # longest side; smaller images stay as they are; None = full size
    solver: str = "essential"
    max_matches: int = 4096  # as many as the classical matchers have points
    sampling: str = "cells"  # of dense matches
    limit: int | None = None  # pairs per scene, spread over the list
    seed: int = 0
    subpixel: bool = True  # refine the chosen pairs of a dense match at full resolution
    second_look: str = "auto"  # of dense matchers; never: one look, as the node has it

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InvalidInput(f"unknown solver {self.solver!r}: use {', '.join(SOLVERS)}")
        if self.sampling not in METHODS:
            raise InvalidInput(f"unknown sampling {self.sampling!r}: use {', '.join(METHODS)}")
        if self.second_look not in WHEN:
            raise InvalidInput(f"second_look is {self.second_look!r}: use {', '.join(WHEN)}")
        if self.size_px is not None and self.size_px < 32:
            raise InvalidInput(f"images of {self.size_px} px are too small; at least 32")
        for name, number in (("max-matches", self.max_matches), ("limit", self.limit)):
            if number is not None and number < 1:
                raise InvalidInput(f"--{name} is {number}: it must be at least 1")


@dataclass(frozen=True)
class MetricError:
    """Of a pose in metres by this package's estimate_pose, against the truth."""

    translation_m: float
    baseline_m: float
    rotation_deg: float
    nees: float


@dataclass(frozen=True, eq=False)
class PairResult:
    """One pair. Errors are infinite where there is no pose."""

    pair: Pair
    matches: Correspondences
    match_errors_px: FloatArray | None  # (N,) NaN = truth unknown; None = nowhere known
    warp_errors_px: FloatArray | None  # at pixels that both images see; dense matchers only
    estimate: FloatArray | None  # 4x4 b_from_a (unit translation unless metric), or 3x3
    inliers: int
    rotation_deg: float = float("inf")
    direction_deg: float = float("inf")
    corner_px: float = float("inf")
    lost: str = ""  # why there is no pose
    metric: MetricError | None = None
    metric_lost: str = ""  # why there is no metric pose although depth is there
    ms: dict[str, float] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """What the AUC is taken over: degrees, or pixels for a homography."""
        if self.pair.homography is not None:
            return self.corner_px
        return max(self.rotation_deg, self.direction_deg)


class Bench:
    """One matcher on one scene."""

    def __init__(self, scene: Scene, matcher: Matcher, options: BenchmarkOptions) -> None:
        self.scene, self._matcher, self._options = scene.limited(options.limit), matcher, options
        self._encoded: OrderedDict[str, tuple[View, Features]] = OrderedDict()
        self._references: OrderedDict[str, Reference] = OrderedDict()
        self._full_sizes: dict[str, Size] = {}
        self._ms: dict[str, float] = {}

    def results(self) -> Iterator[PairResult]:
        for index in range(len(self.scene.pairs)):
            yield self.result(index)

    def result(self, index: int) -> PairResult:
        self._ms = {}
        pair = self.scene.pairs[index]
        (b, keyframe), (a, query) = self._encode(pair.b), self._encode(pair.a)
        reference = self._reference(pair.b)
        with self._timed("match"):
            match = self._matcher.match(query, reference)
        images, limit = (a.rgb, b.rgb), self._options.max_matches
        drawing = Drawing(self._options.subpixel, self._options.seed, self._options.sampling)
        dense = match if isinstance(match, DenseMatch) else None
        if dense is not None and self._options.second_look != "never":
            with self._timed("second_look"):
                pairs = second_look(
                    self._matcher, dense, reference, *images, limit,
                    when=self._options.second_look, encoded=(query, keyframe), drawing=drawing,
                )  # fmt: skip
        else:
            refines = dense is not None and drawing.subpixel
            with self._timed("subpixel" if refines else "match"):
                pairs = pairs_of(match, *images, limit, drawing)
        pair = self._shrunk(pair, a, b)
        result = replace(
            self._solved(pair, pairs, a, b, self._options.seed + index),
            match_errors_px=match_errors(pairs, pair, a, b),
            warp_errors_px=warp_errors(match, pair, a, b),
        )
        return replace(result, ms=self._ms)

    def _encode(self, name: str) -> tuple[View, Features]:
        if name not in self._encoded:
            full = self.scene.view(name)
            view = full.shrunk(self._options.size_px)
            self._full_sizes[name] = full.size
            with self._timed("encode"):
                features = self._matcher.encode(view.rgb)
            self._encoded[name] = (view, features)
        return _recent(self._encoded, name)

    def _reference(self, name: str) -> Reference:
        if name not in self._references:
            with self._timed("reference"):
                self._references[name] = self._matcher.reference(self._encoded[name][1])
        return _recent(self._references, name)

    def _shrunk(self, pair: Pair, a: View, b: View) -> Pair:
        """The pair between the views as they were matched."""
        full_a, full_b = self._full_sizes[pair.a], self._full_sizes[pair.b]
        return shrunk_pair(pair, full_a, a.size, full_b, b.size)

    def _solved(
        self, pair: Pair, pairs: Correspondences, a: View, b: View, seed: int
    ) -> PairResult:
        if pair.homography is not None:
            return self._solved_homography(pair, pairs, a, seed)
        with self._timed("pose"):
            outcome = SOLVERS[self._options.solver](pairs, a.frame(), b.frame(), seed)
        result = judged(pair, pairs, outcome)
        if not pair.metric or (a.depth is None and b.depth is None):
            return result
        if self._options.solver != "pose":
            with self._timed("metric_pose"):
                outcome = pose(pairs, a.frame(), b.frame(), seed)
        return with_metric(result, outcome)

    def _solved_homography(
        self, pair: Pair, pairs: Correspondences, a: View, seed: int
    ) -> PairResult:
        with self._timed("pose"):
            H, inliers = homography(pairs, seed)
        if H is None or pair.homography is None:
            reason = LostReason.TOO_FEW_INLIERS.value
            return PairResult(pair, pairs, None, None, None, inliers, lost=reason)
        corner_px = metrics.corner_error_px(H, pair.homography, a.size)
        return PairResult(pair, pairs, None, None, H, inliers, corner_px=corner_px)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._ms[stage] = self._ms.get(stage, 0.0) + 1e3 * (time.perf_counter() - start)


def judged(pair: Pair, pairs: Correspondences, outcome: Outcome) -> PairResult:
    """The angular errors of a solver's answer."""
    if isinstance(outcome, Lost) or pair.b_from_a is None:
        reason = outcome.reason.value if isinstance(outcome, Lost) else ""
        return PairResult(pair, pairs, None, None, None, 0, lost=reason)
    T = outcome.keyframe_from_camera
    return PairResult(
        pair, pairs, None, None, T,
        inliers=int(outcome.inliers.sum()),
        rotation_deg=metrics.rotation_error_deg(T, pair.b_from_a),
        direction_deg=metrics.direction_error_deg(T, pair.b_from_a),
    )  # fmt: skip


def with_metric(result: PairResult, outcome: Outcome) -> PairResult:
    """The errors in metres, where the scene has depth."""
    truth = result.pair.b_from_a
    if isinstance(outcome, Lost):
        return replace(result, metric_lost=outcome.reason.value)
    if truth is None or isinstance(outcome, RelativePose):
        return replace(result, metric_lost=LostReason.NO_SCALE.value)
    T = outcome.keyframe_from_camera
    error = MetricError(
        translation_m=float(np.linalg.norm(T[:3, 3] - truth[:3, 3])),
        baseline_m=float(np.linalg.norm(truth[:3, 3])),
        rotation_deg=metrics.rotation_error_deg(T, truth),
        nees=metrics.nees(T, outcome.covariance, truth),
    )
    return replace(result, metric=error, estimate=T)


def match_errors(pairs: Correspondences, pair: Pair, a: View, b: View) -> FloatArray | None:
    truth = metrics.true_keyframe_px(pairs.query_px, pair, a, b)
    return None if truth is None else metrics.match_errors_px(pairs.keyframe_px, truth)


def warp_errors(match: Match, pair: Pair, a: View, b: View) -> FloatArray | None:
    """Of a dense warp, certain or not, at pixels that both images are known to see."""
    if not isinstance(match, DenseMatch):
        return None
    cells = match.certainty.size
    chosen = np.linspace(0, cells - 1, min(cells, WARP_PIXELS)).astype(int)
    truth = metrics.true_keyframe_px(
        match.grid_px().reshape(-1, 2)[chosen].astype(np.float64), pair, a, b
    )
    if truth is None:
        return None
    seen = np.isfinite(truth).all(axis=1)
    error = np.linalg.norm(match.warp_px.reshape(-1, 2)[chosen][seen] - truth[seen], axis=1)
    return np.where(np.isfinite(error), error, np.inf)


def _recent(kept: OrderedDict[str, T], name: str) -> T:
    """The value, remembered as the latest used; the one unused for longest is dropped."""
    kept.move_to_end(name)
    while len(kept) > KEPT_IMAGES:
        kept.popitem(last=False)
    return kept[name]
