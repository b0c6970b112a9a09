"""Images of two moments: a transfer that broke off leaves rows of the image before.

A sensor's noise differs in each image, so rows that repeat bit for bit, with texture in them, are
of the moment before. That is harmless where the camera stands (and a video codec repeats rows of a
scene that rests): then the matches of both parts agree on one pose. Where they do not, it moved.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Rows = npt.NDArray[np.bool_]

MIN_CONTRAST = 3.0  # grey levels, standard deviation: black bars and burnt skies repeat too
MIN_ROWS = 0.05  # of the image
CHI2_95_6 = 12.59  # 95 % of chi-square with six degrees of freedom
MIN_MATCHES = 20  # in a part; fewer do not say whether it moved


def repeated_rows(rgb: ByteArray, before: ByteArray) -> Rows | None:
    """(H,) which rows are those of the image before; None where these are few."""
    if rgb.shape != before.shape:
        return None
    few = slice(None, None, 16)  # columns that tell nearly all rows apart
    same = _rows_equal(rgb[:, few], before[:, few])
    same[same] = _rows_equal(rgb[same], before[same])
    if np.count_nonzero(same) < MIN_ROWS * len(rgb):
        return None
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[same]), cv2.COLOR_RGB2GRAY)
    same[same] = grey.std(axis=1) > MIN_CONTRAST
    return same if np.count_nonzero(same) >= MIN_ROWS * len(rgb) else None


def _rows_equal(rgb: ByteArray, before: ByteArray) -> Rows:
    return np.asarray((rgb == before).all(axis=(1, 2)))


def torn(
    outcome: MetricPose | RelativePose,
    pairs: Correspondences,
    rows: Rows,
    min_support: float,
    posed: Callable[[Correspondences], MetricPose | RelativePose | Lost],
) -> Lost | None:
    """Why the image is of two moments, or None.

    The matches of one part do not support the pose, or the poses of the two parts (by `posed`)
    differ by more than chance.
    """
    row = np.clip(np.rint(pairs.query_px[:, 1]), 0, len(rows) - 1).astype(np.intp)
    parts = [rows[row], ~rows[row]]
    shares = [_support(outcome, pairs, part) for part in parts]
    if any(share is not None and share < min_support for share in shares):
        old, new = ("-" if share is None else f"{100 * share:.0f} %" for share in shares)
        return _two_moments(rows, f"{old} of the matches there agree on the pose, {new} elsewhere")
    if None in shares:
        return None
    a, b = (posed(pairs.select(np.flatnonzero(part))) for part in parts)
    if not isinstance(a, MetricPose) or not isinstance(b, MetricPose):
        return None
    apart = se3.difference(a.keyframe_from_camera, b.keyframe_from_camera)
    squared = float(apart @ np.linalg.solve(a.covariance + b.covariance, apart))
    if squared < CHI2_95_6:
        return None
    return _two_moments(rows, f"the two parts differ by {np.linalg.norm(apart[:3]):.3f} m")


def _two_moments(rows: Rows, words: str) -> Lost:
    return Lost(
        LostReason.REPEATED_IMAGE,
        f"{np.count_nonzero(rows)} of {len(rows)} rows are those of the image before, bit for bit, "
        f"and the camera moved: {words}",
    )


def _support(
    outcome: MetricPose | RelativePose, pairs: Correspondences, part: Rows
) -> float | None:
    """Share of a part's matches that agree, each by its confidence."""
    if np.count_nonzero(part) < MIN_MATCHES:
        return None
    confidence = pairs.confidence[part]
    return float(confidence[outcome.inliers[part]].sum() / max(confidence.sum(), 1e-9))
