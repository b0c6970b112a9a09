"""When to take a keyframe: late enough to save work and drift, early enough to keep tracking."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.stereo import StereoDepth
from l2m_ros.matching.mask import Mask
from l2m_ros.matching.mono_depth import MonoDepth
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, FloatArray, Frame, Reference

COVERAGE_CELLS = (8, 6)  # of the image, across and down
SHARPNESS_HISTORY = 15  # frames that the usual sharpness is the median of
LIVES = 4  # keyframes whose use tells how fast the view moves on
LEAST_PATIENCE = 3  # frames


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A frame kept to be matched against, with its place in the chain."""

    id: int
    chain: int  # keyframes of one chain are connected by metric poses
    frame: Frame
    reference: Reference
    odom_from_keyframe: FloatArray  # 4x4
    odom_covariance: FloatArray  # 6x6, of odom_from_keyframe
    # (3,) of it, the position's error that all edges of the chain share: their scale's, one sigma
    odom_common_m: FloatArray = field(default_factory=lambda: np.zeros(3))
    stereo: StereoDepth | None = None  # of its right image
    mono_depth: MonoDepth | None = None  # read by a network from the image alone
    odometry: OdometrySample | None = None
    still: Mask | None = None  # (H, W) where nothing is known to move; None: everywhere
    seen_before: Mask | None = None  # (H, W) without what may move as well; None: everywhere

    @property
    def stereo_depth(self) -> FloatArray | None:
        """(H, W) metres, NaN = unknown."""
        return None if self.stereo is None else self.stereo.depth_m

    @property
    def seen_depth(self) -> FloatArray | None:
        """(H, W) metres, of a depth camera or a stereo pair."""
        return self.stereo_depth if self.frame.depth is None else self.frame.depth


@dataclass(frozen=True)
class KeyframeOptions:
    """The band that a good match stays in. Fractions are of the best since the keyframe was taken.

    A low bound wants a new keyframe; the wish ends when the measure is `hysteresis` above it
    again, so that a measure that trembles about its bound does not take one keyframe after
    another.
    """

    coverage_min: float = 0.6
    inliers_min: float = 0.4
    certain_min: float = 0.6  # dense matchers only
    parallax_max_rad: float = 0.26
    # Of the distances between matches, about their size: forward motion shows little parallax.
    # A car at 12 m/s and 10 Hz has 0.08 to 0.11 a frame; at 0.2 its poses err by half as much more,
    # and at 0.1 a hand-held depth camera's do (docs/benchmarks.md).
    zoom_max: float = 0.14
    hysteresis: float = 0.1
    sharpness_min: float = 0.6  # of the median of recent frames: never a blurred keyframe
    texture_min: float = 2.0  # grey levels: below it the image shows nothing to match

    def __post_init__(self) -> None:
        for name in ("coverage_min", "inliers_min", "certain_min", "sharpness_min"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} must lie in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class Quality:
    """How well a frame matches its keyframe."""

    coverage: float  # fraction of the image's cells that hold an inlier
    inliers: int
    certain: float | None  # fraction of the dense grid that is certain
    parallax_rad: float  # median angle between the rays of a match after the rotation is undone
    zoom: float = 0.0  # |log| of the matches' spread in the frame over that in the keyframe


def sharpness(rgb: ByteArray) -> float:
    """Mean absolute Laplacian of the image at about 320 px, in grey levels."""
    step = max(1, rgb.shape[1] // 320)
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[::step, ::step]), cv2.COLOR_RGB2GRAY)
    return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())


def coverage(pixels: FloatArray, size: tuple[int, int]) -> float:
    """The fraction of the image's cells that hold at least one of these pixels."""
    if not len(pixels):
        return 0.0
    cells = np.floor((pixels + 0.5) / size * COVERAGE_CELLS).astype(int)
    cells = np.clip(cells, 0, np.array(COVERAGE_CELLS) - 1)
    seen = np.unique(cells[:, 0] * COVERAGE_CELLS[1] + cells[:, 1])
    return len(seen) / (COVERAGE_CELLS[0] * COVERAGE_CELLS[1])


def parallax_rad(query_rays: FloatArray, keyframe_rays: FloatArray, R: FloatArray) -> float:
    """Median angle left between the two rays of a match after R (keyframe from query)."""
    a = query_rays @ R.T
    sine = np.linalg.norm(np.cross(a, keyframe_rays), axis=1)
    cosine = (a * keyframe_rays).sum(axis=1)
    angles = np.arctan2(sine, cosine)
    return float(np.nanmedian(angles)) if np.isfinite(angles).any() else 0.0


def zoom(query_rays: FloatArray, keyframe_rays: FloatArray, R: FloatArray) -> float:
    """|log| of how much larger the matches' pattern is in the query, R (keyframe from query)."""
    spread = []
    for rays in (query_rays @ R.T, keyframe_rays):
        ahead = rays[(rays[:, 2] > 0) & np.isfinite(rays).all(axis=1)]
        if len(ahead) < 2:
            return 0.0
        xy = ahead[:, :2] / ahead[:, 2:]
        spread.append(float(np.abs(xy - np.median(xy, axis=0)).mean()))
    return abs(float(np.log(spread[0] / spread[1]))) if min(spread) > 0 else 0.0


def certain_fraction(match: DenseMatch | Correspondences | None) -> float | None:
    return float((match.certainty > 0.5).mean()) if isinstance(match, DenseMatch) else None


class KeyframePolicy:
    """Remembers the best quality since the keyframe, and whether a new one is wanted."""

    def __init__(self, options: KeyframeOptions) -> None:
        self._options = options
        self._sharpness: deque[float] = deque(maxlen=SHARPNESS_HISTORY)
        self._lives: deque[int] = deque(maxlen=LIVES)  # frames that each of the last ones served
        self.restart()

    def restart(self) -> None:
        """A keyframe was just taken."""
        self._best_coverage = self._best_inliers = self._best_certain = 0.0
        self._wanted, self._served = False, 0

    def patience(self, most: int) -> int:
        """Frames lost before a new chain begins: a lost camera has left a view behind after
        thrice the time for which keyframes serve it; `most` where that is not known."""
        if len(self._lives) < LIVES:
            return most
        return min(most, max(LEAST_PATIENCE, round(3 * statistics.median(self._lives))))

    def forget(self) -> None:
        """Another camera, another time: the usual sharpness is unknown too."""
        self._sharpness.clear()
        self._lives.clear()
        self.restart()

    def rejection(self, rgb: ByteArray) -> str | None:
        """Why this image may not become a keyframe, or None. Call it once per frame."""
        value = sharpness(rgb)
        self._sharpness.append(value)
        if value < self._options.texture_min:
            return "the image shows no texture: is the lens covered, or the exposure wrong?"
        usual = statistics.median(self._sharpness)
        if value < self._options.sharpness_min * usual:
            return f"the image is blurred (sharpness {value:.1f}, usually {usual:.1f})"
        return None

    def leaves(self, certain: float | None) -> bool:
        """Whether a frame sees little of the keyframe that frames before it saw."""
        o = self._options
        return certain is None or certain < (o.certain_min + o.hysteresis) * self._best_certain

    def wants_keyframe(self, quality: Quality) -> bool:
        o = self._options
        self._best_coverage = max(self._best_coverage, quality.coverage)
        self._best_inliers = max(self._best_inliers, quality.inliers)
        self._best_certain = max(self._best_certain, quality.certain or 0.0)
        before, slack = self._wanted, o.hysteresis if self._wanted else 0.0
        self._served += 1
        self._wanted = (
            quality.coverage < (o.coverage_min + slack) * self._best_coverage
            or quality.inliers < (o.inliers_min + slack) * self._best_inliers
            or (quality.certain or 0.0) < (o.certain_min + slack) * self._best_certain
            or quality.parallax_rad > o.parallax_max_rad * (1 - slack)
            or quality.zoom > o.zoom_max * (1 - slack)
        )
        if self._wanted and not before:
            self._lives.append(self._served)
        return self._wanted
