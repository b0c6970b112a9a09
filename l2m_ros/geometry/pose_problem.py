"""The usable matches of two frames, and what every way to their pose asks of them.

matches -> checks -> rays -> PoseProblem: two-view geometry when asked for, inliers, degeneracy,
                             the metric pose of a fit with its covariance
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.covariance import (
    DEPTH_REGIONS,
    REGIONS,
    Common,
    direction_covariance,
    pose_covariance,
    regions,
)
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.image_motion import ImageMotion
from l2m_ros.geometry.late_depth import left_s
from l2m_ros.geometry.ransac import Search
from l2m_ros.geometry.rays import Index, RayPairs, focal_px, homogeneous
from l2m_ros.geometry.refine import Fit
from l2m_ros.geometry.scale import SCALE_SOURCES, ScaleEvidence, ScaleRequest
from l2m_ros.geometry.shutter import ImageRows, shift_by_readout, shift_by_velocity, unseen_readout
from l2m_ros.geometry.texture import TextureNoise
from l2m_ros.geometry.two_view import TwoView, relative_pose
from l2m_ros.types import (
    Camera,
    Correspondences,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    ShutterHint,
)

# Enough to check a pose by two-view geometry; all 2,000 take 7 of 25 ms more, to the same end.
COMPARED_MATCHES = 600
MIN_MATCHES = 6
MIN_SPREAD_PX = 1.0  # standard deviation of the matches across their line, in either image
MAX_SIGMA_RAD = 0.5  # a rotation less certain than this is none


@dataclass(frozen=True)
class PoseOptions:
    """Defaults live here; the node's parameters and the command line refer to them."""

    threshold_px: float = 2.0  # of PoseLib's search; the refinement estimates the noise itself
    # Error that a region's matches share (see `covariance`).
    common_px: float = 0.3
    min_parallax_px: float = 0.5  # below, a direction is not worth naming
    depth_noise: DepthNoise = field(default_factory=DepthNoise)
    texture: TextureNoise = field(default_factory=TextureNoise)
    # What calibration leaves, one standard deviation: of the scale that all depths share (makers of
    # depth sensors promise 2 % at most), of a focal length, and of the time between a depth image
    # and its colour image.
    depth_scale_sigma: float = 0.01
    focal_sigma: float = 0.001
    shutter_sigma_s: float = 0.01  # from an image's first row to its last: a rolling shutter
    depth_delay_sigma_s: float = 0.003
    # Of the depth noise's sigma, what the depths of a region have in common.
    depth_shared: float = 0.5
    stereo_noise: float = 1.0  # of the disparities' sigmas, a factor
    max_scale_sigma: float = 0.7  # relative; a source whose metres are less sure gives none
    search_matches: int = 300  # drawn for the search; the refinement takes all
    sources: tuple[str, ...] = tuple(SCALE_SOURCES)  # tried in this order
    seed: int = 0

    @classmethod
    def exactly_calibrated(cls, **others: Any) -> PoseOptions:
        """For drawn worlds: nothing errs but what is drawn for each match."""
        exact = {
            "common_px": 0.0,
            "depth_scale_sigma": 0.0,
            "focal_sigma": 0.0,
            "shutter_sigma_s": 0.0,
        }
        return cls(**{**exact, "depth_delay_sigma_s": 0.0, "depth_shared": 0.0, **others})

    def __post_init__(self) -> None:
        if not 0 < self.threshold_px < 1e4:
            raise InvalidInput(f"threshold_px must be some pixels, got {self.threshold_px:g}")
        calibration = (
            self.depth_scale_sigma,
            self.focal_sigma,
            self.depth_delay_sigma_s,
            self.shutter_sigma_s,
        )
        if not all(0.0 <= sigma <= 1.0 for sigma in calibration):
            raise InvalidInput(f"sigmas of a calibration lie in [0, 1], got {calibration}")
        if not 0.0 <= self.common_px <= 100.0:
            raise InvalidInput(f"common_px must lie in [0, 100], got {self.common_px:g}")
        if not 0.0 <= self.depth_shared <= 10.0:
            raise InvalidInput(f"depth_shared must lie in [0, 10], got {self.depth_shared:g}")
        if not self.max_scale_sigma > 0:
            raise InvalidInput(f"max_scale_sigma must be positive, got {self.max_scale_sigma:g}")
        if not 0.0 < self.stereo_noise < 1e3:
            raise InvalidInput(f"stereo_noise must be positive, got {self.stereo_noise:g}")
        unknown = [name for name in self.sources if name not in SCALE_SOURCES]
        if unknown:
            raise InvalidInput(
                f"unknown scale source {unknown[0]!r}; known: {', '.join(SCALE_SOURCES)}"
            )


class PoseProblem:
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
            matches,
            query,
            keyframe,
            evidence,
            options.depth_noise,
            options.depth_scale_sigma,
            options.stereo_noise,
            options.depth_shared,
        )
        asked = options.texture.grey > 0 and bool(self.pairs.floor.any())
        self.hole_sigma = options.texture.hole_px / focal_px(self.keyframe) if asked else 0.0
        self._two_view: TwoView | Lost | None = None
        self._undone_s = 0.0  # of a rolling shutter, in `pairs`

    def search(self, camera: Camera) -> Search:
        threshold = self.options.threshold_px / focal_px(camera)
        return Search(threshold, self.options.seed, self.options.search_matches)

    def two_view(self) -> TwoView | Lost:
        """Computed when first asked for: a pose from depth does without."""
        if self._two_view is None:
            self._two_view = self._relative(self.pairs, rivals=True)
        return self._two_view

    def _relative(self, pairs: RayPairs, *, rivals: bool) -> TwoView | Lost:
        f = focal_px(self.keyframe)
        return relative_pose(
            pairs,
            self.search(self.keyframe),
            image_size=(self.keyframe.width / f, self.keyframe.height / f),
            min_parallax=self.options.min_parallax_px / f,
            rivals=rivals,
        )

    @property
    def compared(self) -> Index:
        """The matches that two-view geometry checks a pose by."""
        chosen = np.linspace(0, len(self.pairs) - 1, COMPARED_MATCHES).astype(np.intp)
        return np.asarray(np.unique(chosen))

    def rough_two_view(self) -> tuple[TwoView | Lost, FloatArray]:
        """Two-view geometry of COMPARED_MATCHES, and its direction's covariance (6x6): a check."""
        some = self.pairs.select(self.compared)
        view = self._relative(some, rivals=False)
        if isinstance(view, Lost):
            return view, np.zeros((6, 6))
        common = self.common(view.general.pose).select(self.compared)
        return view, direction_covariance(view.general, some.query, None, common)

    def blocks(self, grid: tuple[int, int]) -> Index:
        """(N,) which of the query's blocks holds each match."""
        return regions(self.request.matches.query_px, self.query.size, grid)

    def common(
        self,
        T: FloatArray,
        depth_m: FloatArray | None = None,
        scale_sigma: float = 0.0,
        depth_shapes_m: FloatArray | None = None,
    ) -> Common:
        """What the matches' errors have in common, at a pose; depth_m (N,) in the keyframe."""
        pixels = self.request.matches.query_px
        region, depth_region = (
            regions(pixels, self.query.size, g) for g in (REGIONS, DEPTH_REGIONS)
        )
        sigma = self.options.common_px / focal_px(self.keyframe)
        away = np.full(len(self.pairs), np.inf) if depth_m is None else depth_m
        focal = self.options.focal_sigma * focal_shift(self.pairs, T, away)
        shift = np.concatenate([focal[None], self.rolled(T, depth_m)])
        return Common(region, depth_region, sigma, scale_sigma, shift, depth_shapes_m)

    def rolled(self, T: FloatArray, depth_m: FloatArray | None) -> FloatArray:
        """(K, 2, N) by how much a shutter moves the matches that nobody knows: one sigma of each
        of K causes. depth_m (N,) in the keyframe."""
        motion = self.request.evidence.motion
        if motion is None or depth_m is None:
            return self.options.shutter_sigma_s * self._flow_by_row()[None]
        readout_s = float(np.hypot(motion.readout_s, motion.readout_sigma_s))
        left_s = float(np.hypot(motion.readout_s - self._undone_s, motion.readout_sigma_s))
        by_readout = left_s * self.by_readout(T, depth_m, motion)
        by_velocity = shift_by_velocity(self.pairs, depth_m, self._rows, motion)
        return np.concatenate([by_readout[None], readout_s * by_velocity])

    def by_readout(self, T: FloatArray, depth_m: FloatArray, motion: ImageMotion) -> FloatArray:
        """(2, N) by how much the matches in the keyframe are off, for each second of read-out."""
        return shift_by_readout(self.pairs, T, depth_m, self._rows, motion)

    @property
    def _rows(self) -> ImageRows:
        matches = self.request.matches
        return ImageRows(
            (matches.keyframe_px[:, 1] + 0.5) / self.keyframe.height - 0.5,
            (matches.query_px[:, 1] + 0.5) / self.query.height - 0.5,
        )

    def unroll(self, T: FloatArray, depth_m: FloatArray) -> bool:
        """Undoes a rolling shutter that is known, in `pairs`, once; whether there was one."""
        motion = self.request.evidence.motion
        if motion is None or motion.readout_s == self._undone_s:
            return False
        off = motion.readout_s * self.by_readout(T, depth_m, motion)
        self.pairs = replace(self.pairs, keyframe=self.pairs.keyframe - off)
        self._two_view, self._undone_s = None, motion.readout_s
        return True

    def _shutter_hint(self, fit: Fit, depth_m: FloatArray) -> ShutterHint | None:
        """What read-out time the residuals show, with what was undone."""
        motion = self.request.evidence.motion
        if motion is None:
            return None
        hint = unseen_readout(fit, self.pairs.query, self.by_readout(fit.pose, depth_m, motion))
        return hint and replace(hint, readout_s=hint.readout_s + self._undone_s)

    def _flow_by_row(self) -> FloatArray:
        """(2, N) by how much the matches are off for each second that an image's rows take.

        How fast the image moves is the mean since the keyframe; a hand's is another each moment, so
        that what both images err does not cancel.
        """
        seconds = abs(self.request.query.stamp_ns - self.request.keyframe.stamp_ns) * 1e-9
        if seconds == 0.0:
            return np.zeros_like(self.pairs.query)
        rows = (self.request.matches.query_px[:, 1] + 0.5) / self.query.height - 0.5
        return np.asarray((self.pairs.keyframe - self.pairs.query) * rows / seconds)

    def late_depth_m(self, slope: FloatArray) -> FloatArray:
        """(N,) what the keyframe's depth is off by if it was taken depth_delay_sigma_s late.

        slope (2, N) of the depth by normalised units. How fast the image moves there is the mean
        since the keyframe. Where it is not known how the camera turned, all of a delay is left.
        """
        seconds = abs(self.request.query.stamp_ns - self.request.keyframe.stamp_ns) * 1e-9
        if seconds == 0.0:
            return np.zeros(len(self.pairs))
        turned_rad_s = self.request.evidence.moments.keyframe_rad_s
        left = left_s(self.request.keyframe, turned_rad_s)
        sigma_s = float(np.hypot(self.options.depth_delay_sigma_s, left))
        moved = self.pairs.keyframe - self.pairs.query
        return np.asarray((slope * moved).sum(axis=0) * sigma_s / seconds)

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
        self,
        fit: Fit,
        source: str,
        scale_sigma: float,
        depth_m: FloatArray,
        with_depth: npt.NDArray[np.bool_],
        depth_shapes_m: FloatArray | None = None,
        *,
        measured: bool = False,
    ) -> MetricPose | Lost:
        """measured: depth_m is a sensor's. Only then do residuals show a rolling shutter: two views
        bend to it, and what agrees with the bent ones says that there is none."""
        bad = self.degenerate(fit.weights)
        if bad is not None:
            return bad
        if not fit.converged:
            return Lost(
                LostReason.DEGENERATE,
                "the refinement did not settle: the matches agree on no single pose",
            )
        common = self.common(fit.pose, depth_m, scale_sigma, depth_shapes_m)
        covariance = pose_covariance(fit, self.pairs.query, common)
        bad = _undetermined(covariance)
        support = self.support(fit, with_depth)
        return bad or MetricPose(
            fit.pose,
            covariance,
            self.inliers(fit),
            source,
            support,
            scale_sigma=scale_sigma,
            shutter=self._shutter_hint(fit, depth_m) if measured else None,
        )

    def checked(
        self, fit: Fit, pose: FloatArray, covariance: FloatArray, source: str
    ) -> MetricPose | Lost:
        """A pose and its covariance that were found from a two-view fit."""
        everything = np.ones(len(self.pairs), dtype=np.bool_)
        return _undetermined(covariance) or MetricPose(
            pose, covariance, self.inliers(fit), source, self.support(fit, everything)
        )

    def support(self, fit: Fit, with_depth: npt.NDArray[np.bool_]) -> float:
        """Share of the matches with depth that agree, each by the matcher's own certainty."""
        certainty = self.request.matches.confidence * with_depth
        return float(certainty[fit.weights > 0.5].sum() / max(certainty.sum(), 1e-9))


def focal_shift(pairs: RayPairs, T: FloatArray, depth_m: FloatArray) -> FloatArray:
    """(2, N) by how much the matches in the keyframe are off, by the focal length's relative error.

    It lengthens both rays of a match; the query's is carried into the keyframe at its depth there
    (depth_m (N,); at infinity where that is unknown).
    """
    R, t = T[:3, :3], T[:3, 3:4]
    inverse_m = np.where(np.isfinite(depth_m) & (depth_m > 0), 1.0 / depth_m, 0.0)
    ray = homogeneous(pairs.keyframe) - t * inverse_m  # of the query's camera, at unit depth
    ahead = (R.T @ ray)[2]
    longer = R[:, :2] @ pairs.query * ahead
    return np.asarray(pairs.keyframe - (longer[:2] - pairs.keyframe * longer[2]))


def _undetermined(covariance: FloatArray) -> Lost | None:
    if np.isfinite(covariance).all() and _semidefinite(covariance):
        sigma_rad = float(np.sqrt(max(np.linalg.eigvalsh(covariance[3:, 3:])[-1], 0.0)))
        if sigma_rad < MAX_SIGMA_RAD:
            return None
    return Lost(LostReason.DEGENERATE, "the matches leave the rotation open")


def _semidefinite(covariance: FloatArray) -> bool:
    least = float(np.linalg.eigvalsh(covariance)[0])
    return least >= -1e-10 * float(np.abs(covariance).max())
