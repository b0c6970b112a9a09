"""How true a tracker's poses are: errors, honesty of the covariance, and wrong poses published."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import chi2, norm

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray
from l2m_ros.workshop.evaluation.trajectory import Trajectory

LEAST_WAY_M = 0.1  # a shorter way says little of the scale
WRONG_POSE_SIGMAS = 5.0  # further from the truth than this, a pose was not merely unlucky


@dataclass(frozen=True)
class TruthSigma:
    """Error of the truth itself: one standard deviation per axis of a relative pose."""

    m: float = 0.0
    deg: float = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.m < np.inf and 0.0 <= self.deg < np.inf):
            raise InvalidInput(f"the truth's sigma must not be negative, got {self.m}, {self.deg}")

    @classmethod
    def parse(cls, text: str) -> TruthSigma:
        """Of `M,DEG`, for example 0.003,0.2."""
        try:
            m, deg = (float(part) for part in text.split(","))
        except ValueError as error:
            raise InvalidInput(f"the truth's sigma is M,DEG (0.003,0.2), got {text!r}") from error
        return cls(m, deg)

    def covariance(self) -> FloatArray:
        return np.diag([self.m**2] * 3 + [np.radians(self.deg) ** 2] * 3)


EXACT = TruthSigma()


@dataclass(frozen=True)
class Margin:
    """An error below both is harmless, however small a covariance was claimed."""

    m: float = 0.02
    deg: float = 0.5


@dataclass(frozen=True, eq=False)
class PosedFrame:
    """One published pose: the camera in the frame of an earlier view."""

    stamp_ns: int
    keyframe_stamp_ns: int
    keyframe_from_camera: FloatArray  # 4x4
    covariance: FloatArray  # 6x6


@dataclass(frozen=True, eq=False)
class PoseErrors:
    """One entry per posed frame."""

    stamps_ns: np.ndarray
    translation_m: FloatArray
    rotation_deg: FloatArray
    nees: FloatArray  # 6 degrees of freedom: 6 on average where the covariance is honest
    sigma_m: FloatArray  # root of the trace of the position's covariance
    length_ratio: FloatArray  # way over true way; NaN where that is below LEAST_WAY_M


@dataclass(frozen=True)
class TrackingSummary:
    """What goes into the table."""

    frames: int
    posed: int
    posed_percent: float
    translation_median_mm: float
    translation_p95_mm: float
    rotation_median_deg: float
    rotation_p95_deg: float
    nees_mean: float
    nees_low: float  # 95 % interval of the mean, were the errors independent
    nees_high: float
    scale_median_percent: float  # of |way over true way - 1|
    wrong_poses: int  # over WRONG_POSE_SIGMAS from the truth
    harmful_poses: int  # wrong poses that are also off by more than the margin

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def pose_errors(
    posed: list[PosedFrame], truth: Trajectory, sigma: TruthSigma = EXACT
) -> PoseErrors:
    """Errors against world_from_camera of the truth at both stamps.

    sigma: the truth's own error, which is added to each pose's covariance.
    """
    rows, own = [], sigma.covariance()
    for record in posed:
        expected = se3.inverse(_at(truth, record.keyframe_stamp_ns)) @ _at(truth, record.stamp_ns)
        turn = record.keyframe_from_camera[:3, :3] @ expected[:3, :3].T
        error = np.concatenate(
            [
                record.keyframe_from_camera[:3, 3] - expected[:3, 3],
                se3.rotation_log(turn),
            ]
        )
        rows.append(
            (
                record.stamp_ns,
                np.linalg.norm(error[:3]),
                np.degrees(np.linalg.norm(error[3:])),
                error @ np.linalg.solve(record.covariance + own, error),
                np.sqrt(np.trace(record.covariance[:3, :3])),
                _length_ratio(record.keyframe_from_camera, expected),
            )
        )
    stamps, *columns = zip(*rows, strict=True) if rows else ([] for _ in range(6))
    return PoseErrors(np.array(stamps, dtype=np.int64), *(np.array(c, float) for c in columns))


def with_truth(posed: list[PosedFrame], truth: Trajectory) -> list[PosedFrame]:
    """Those whose own view and keyframe the truth knows: it may begin later or have gaps."""
    return [
        record
        for record in posed
        if truth.at(record.stamp_ns) is not None and truth.at(record.keyframe_stamp_ns) is not None
    ]


def summarize(errors: PoseErrors, frames: int, margin: Margin = Margin()) -> TrackingSummary:
    n = len(errors.nees)
    low, high = (chi2.ppf([0.025, 0.975], 6 * n) / n) if n else (np.nan, np.nan)
    # A pose is wrong where its error is as unlikely as 5 sigma of one normal variable.
    limit = chi2.isf(2 * norm.sf(WRONG_POSE_SIGMAS), 6)
    wrong = errors.nees > limit
    off = (errors.translation_m > margin.m) | (errors.rotation_deg > margin.deg)
    return TrackingSummary(
        frames=frames,
        posed=n,
        posed_percent=100.0 * n / frames if frames else 0.0,
        translation_median_mm=1e3 * _quantile(errors.translation_m, 0.5),
        translation_p95_mm=1e3 * _quantile(errors.translation_m, 0.95),
        rotation_median_deg=_quantile(errors.rotation_deg, 0.5),
        rotation_p95_deg=_quantile(errors.rotation_deg, 0.95),
        nees_mean=float(np.mean(errors.nees)) if n else float("nan"),
        nees_low=float(low),
        nees_high=float(high),
        scale_median_percent=100 * _quantile(np.abs(_known(errors.length_ratio) - 1), 0.5),
        wrong_poses=int(np.count_nonzero(wrong)),
        harmful_poses=int(np.count_nonzero(wrong & off)),
    )


def _at(truth: Trajectory, stamp_ns: int) -> FloatArray:
    pose = truth.at(stamp_ns)
    if pose is None:
        raise InvalidInput(f"the truth has no pose at stamp {stamp_ns}")
    return pose


def _length_ratio(pose: FloatArray, expected: FloatArray) -> float:
    way_m = float(np.linalg.norm(expected[:3, 3]))
    return float(np.linalg.norm(pose[:3, 3])) / way_m if way_m >= LEAST_WAY_M else np.nan


def _known(values: FloatArray) -> FloatArray:
    return values[np.isfinite(values)]


def _quantile(values: FloatArray, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else float("nan")
