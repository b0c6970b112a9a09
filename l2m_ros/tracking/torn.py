"""Images of two moments: a transfer that broke off leaves rows of the image before.

A sensor's noise differs in each image, so rows that repeat bit for bit, with texture in them, are
of the moment before. That is harmless where the camera stands (and a video codec repeats rows of a
scene that rests): then the matches of both parts agree on one pose. Where they do not, it moved.

Of two torn images in a row the second's rows may be of a moment that was never sent whole. There
the image itself shows where it is torn: between two rows grey levels step in a good part of the
columns, and beside them they do not. An edge of the scene is blurred by the lens over more rows,
or runs across fewer columns. Lines that lie so by accident (ceilings, shelves) are found as well:
that both parts agree on one pose clears them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Tear:
    """Which rows are of another moment than the others, perhaps."""

    rows: Rows  # (H,)
    repeated: bool  # bit for bit those of the image before, else below a seam


MIN_CONTRAST = 3.0  # grey levels, standard deviation: black bars and burnt skies repeat too
MIN_ROWS = 0.05  # of the image
CHI2_95_6 = 12.59  # 95 % of chi-square with six degrees of freedom
CHI2_99_6 = 16.81  # 99 %
STEP, STEP_GREY = 2, 3  # a step is twice as high as those of the rows beside it, and 3 grey levels
# Of the columns, that step, and how many more than at any other row. Whole images of an office, a
# kitchen and a car pass in 11, 0 and 0 %, torn ones in 66, 93 and 100 % (the office's move least).
MIN_SEAM, STANDS_OUT = 0.15, 1.5
BESIDE = 3  # rows that belong to the same seam
MIN_MATCHES = 20  # in a part; fewer do not say whether it moved


def tear(rgb: ByteArray, before: ByteArray) -> Tear | None:
    """Where an image may be torn, or None."""
    rows = repeated_rows(rgb, before)
    if rows is not None:
        return None if rows.all() else Tear(rows, repeated=True)
    rows = rows_below_seam(rgb)
    return None if rows is None else Tear(rows, repeated=False)


def rows_below_seam(rgb: ByteArray) -> Rows | None:
    """(H,) the rows below the one seam that stands out, or None."""
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    height = len(grey)
    if height < 10 * BESIDE:
        return None
    step = cv2.absdiff(grey[1:], grey[:-1])
    beside = cv2.max(step[:-2], step[2:]).astype(np.int16)
    share = (step[1:-1] > STEP * beside + STEP_GREY).mean(axis=1)
    share[: height // 10] = share[-(height // 10) :] = 0.0
    row = int(share.argmax())
    most = share[row]
    share[max(0, row - BESIDE) : row + BESIDE + 1] = 0.0
    if most < MIN_SEAM or most < STANDS_OUT * share.max():
        return None
    return np.asarray(np.arange(height) >= row + 2)


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
    at: Tear,
    min_support: float,
    posed: Callable[[Correspondences], MetricPose | RelativePose | Lost],
) -> Lost | None:
    """Why the image is of two moments, or None.

    The matches of one part do not support the pose, or the poses of the two parts (by `posed`)
    differ by more than chance.
    """
    rows = at.rows
    row = np.clip(np.rint(pairs.query_px[:, 1]), 0, len(rows) - 1).astype(np.intp)
    parts = [rows[row], ~rows[row]]
    shares = [_support(outcome, pairs, part) for part in parts]
    # Below a seam a part that does not agree may be badly matched: it must agree with itself.
    if at.repeated and any(share is not None and share < min_support for share in shares):
        old, new = ("-" if share is None else f"{100 * share:.0f} %" for share in shares)
        return _two_moments(at, f"{old} of the matches there agree on the pose, {new} elsewhere")
    if None in shares:
        return None
    poses: list[MetricPose] = []
    for part in parts:
        pose = posed(pairs.select(np.flatnonzero(part)))
        if not isinstance(pose, MetricPose):
            return None
        if not at.repeated and pose.support < min_support:
            return None
        poses.append(pose)
    a, b = poses
    apart = se3.difference(a.keyframe_from_camera, b.keyframe_from_camera)
    squared = float(apart @ np.linalg.solve(a.covariance + b.covariance, apart))
    if squared < (CHI2_95_6 if at.repeated else CHI2_99_6):
        return None
    return _two_moments(at, f"the two parts differ by {np.linalg.norm(apart[:3]):.3f} m")


def _two_moments(at: Tear, words: str) -> Lost:
    count, height = np.count_nonzero(at.rows), len(at.rows)
    if at.repeated:
        where = f"{count} of {height} rows are those of the image before, bit for bit"
    else:
        where = f"a seam runs across the image at row {height - count}: it is of two moments"
    return Lost(LostReason.REPEATED_IMAGE, f"{where}, and the camera moved: {words}")


def _support(
    outcome: MetricPose | RelativePose, pairs: Correspondences, part: Rows
) -> float | None:
    """Share of a part's matches that agree, each by its confidence."""
    if np.count_nonzero(part) < MIN_MATCHES:
        return None
    confidence = pairs.confidence[part]
    return float(confidence[outcome.inliers[part]].sum() / max(confidence.sum(), 1e-9))
