"""Images of two moments: a transfer that broke off leaves rows of the image before.

A sensor's noise differs in each image, so rows that repeat bit for bit, with texture in them, are
of the moment before. That is harmless where the camera stands (and a video codec repeats rows of a
scene that rests): then the matches of both parts agree on one pose. Where they do not, it moved.

Of two torn images in a row the second's rows may be of a moment that was never sent whole. There
the image itself shows where it is torn: between two rows grey levels step in a good part of the
columns, and beside them they do not. An edge of the scene is blurred by the lens over more rows,
or runs across fewer columns. Lines of the scene that lie so (ceilings, shelves) are found as well.
The keyframe shows them too, at the place where matches say, which clears them at no cost; else the
poses of both parts must agree.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.rays import Index
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    FloatArray,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Rows = npt.NDArray[np.bool_]
Mask = npt.NDArray[np.bool_]
Pose = MetricPose | RelativePose

MIN_CONTRAST = 3.0  # grey levels, standard deviation: black bars and burnt skies repeat too
MIN_ROWS = 0.05  # of the image
# Of chi-square by degrees of freedom. Parts of a whole image differ by more than 90 % admits (10.6)
# on 4 of 70 images of the office, whose depth errs by region.
CHI2_95, CHI2_99 = {6: 12.59, 3: 7.81}, {6: 16.81, 3: 11.34}
STEP, STEP_GREY = 2, 3  # a step is twice as high as those of the rows beside it, and 3 grey levels
# Of the columns, that step, and how many more than at any other row. Whole images of an office, a
# kitchen and a car pass in 11, 0 and 0 %, torn ones in 66, 93 and 100 % (the office's move least).
MIN_SEAM, STANDS_OUT = 0.15, 1.5
BESIDE = 3  # rows that belong to the same seam
# Of the image's upright strips, in which a seam steps: 14 to 16 in 23 torn images; 8 to 13, and in
# three of 18 more, along lines of whole images that the keyframe does not show.
STRIPS, MIN_STRIPS = 16, 14
MIN_MATCHES = 20  # in a part; fewer do not say whether it moved
# A column's step is in the keyframe too if grey levels rise or fall by half as much near its place.
NEAR_PX, NEAR_ROWS, HALF = 32, 3, 0.5
# Of the seam's columns. Of lines in whole images of the office and two yards 70 of 78 have it; of
# torn ones none of 22 (0.87 at most).
MIN_IN_KEYFRAME = 0.9
MIN_PLACED = 0.3  # of the seam's columns that must have a place in the keyframe
MAX_LINES = 8  # that are looked for in the keyframe


def seam(rgb: ByteArray, keyframe_rgb: ByteArray, pairs: Correspondences) -> Rows | None:
    """(H,) the rows below the one seam that stands out, or None.

    Lines that the keyframe shows too, at the place where the matches say, are the scene's.
    """
    height = len(rgb)
    if height < 10 * BESIDE:
        return None
    grey = _grey(rgb)
    steps = _steps(grey)
    share = steps.mean(axis=1)
    share[: height // 10] = share[-(height // 10) :] = 0.0
    least, found = MIN_SEAM, None
    if share.max() < least:
        return None
    keyframe = _grey(keyframe_rgb).astype(np.int16)
    for _ in range(MAX_LINES):
        row = int(share.argmax())
        most = share[row]
        if most < least:
            break
        share[max(0, row - BESIDE) : row + BESIDE + 1] = 0.0
        columns = np.flatnonzero(steps[row])
        if len(np.unique(columns * STRIPS // rgb.shape[1])) < MIN_STRIPS:
            continue  # a seam runs from edge to edge
        step = grey[row + 2, columns].astype(np.int16) - grey[row + 1, columns]
        if _shown(keyframe, _places(columns, row + 1.5, pairs), step):
            continue
        if found is not None:
            return None  # two that are alike
        least, found = most / STANDS_OUT, row
    return None if found is None else np.asarray(np.arange(height) >= found + 2)


def _places(columns: Index, y: float, pairs: Correspondences) -> FloatArray:
    """(n, 2) pixels of the keyframe by the nearest match each, NaN where none is near."""
    at = np.column_stack([columns, np.full(len(columns), y)])
    near = np.abs(pairs.query_px[:, 1] - y) < NEAR_PX
    if not near.any():
        return np.full_like(at, np.nan)
    query, moved = pairs.query_px[near], (pairs.keyframe_px - pairs.query_px)[near]
    squared = (columns[:, None] - query[:, 0]) ** 2 + (query[:, 1] - y) ** 2
    place = at + moved[squared.argmin(axis=1)]
    place[squared.min(axis=1) >= NEAR_PX**2] = np.nan
    return np.asarray(place)


def _shown(keyframe: npt.NDArray[np.int16], place: FloatArray, step: Index) -> bool:
    """Whether a line is in the keyframe, too.

    place (N, 2): where its columns lie there, between two rows, NaN where that is not known;
    step (N,): by how much the line's lower row is brighter.
    """
    known = np.isfinite(place).all(axis=1)
    x, y = np.rint(place[known] + (0.0, 0.5)).astype(np.intp).T
    step = step[known]
    height, width = keyframe.shape
    reach = NEAR_ROWS + 2
    placed = (x >= 0) & (x < width) & (y >= reach) & (y < height - reach)
    if np.count_nonzero(placed) < MIN_PLACED * len(place):
        return False
    x, y, step = x[placed], y[placed], step[placed]
    moved = np.arange(-NEAR_ROWS, NEAR_ROWS + 1)[:, None]
    over_three_rows = keyframe[y + moved + 1, x] - keyframe[y + moved - 2, x]  # zoom blurs
    same = (np.sign(step) * over_three_rows).max(axis=0) > HALF * np.abs(step)
    return bool(same.mean() >= MIN_IN_KEYFRAME)


def _steps(grey: ByteArray) -> Mask:
    """(H - 3, W) where grey levels step between row i + 1 and row i + 2 and not beside."""
    step = cv2.absdiff(grey[1:], grey[:-1])
    beside = cv2.max(step[:-2], step[2:]).astype(np.int16)
    return np.asarray(step[1:-1] > STEP * beside + STEP_GREY)


def _grey(rgb: ByteArray) -> ByteArray:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))


def repeated_rows(rgb: ByteArray, before: ByteArray) -> Rows | None:
    """(H,) which rows are those of the image before; None where these are few, or all."""
    if rgb.shape != before.shape:
        return None
    few = slice(None, None, 16)  # columns that tell nearly all rows apart
    same = _rows_equal(rgb[:, few], before[:, few])
    same[same] = _rows_equal(rgb[same], before[same])
    if np.count_nonzero(same) < MIN_ROWS * len(rgb):
        return None
    grey = _grey(rgb[same])
    same[same] = grey.std(axis=1) > MIN_CONTRAST
    enough = MIN_ROWS * len(rgb) <= np.count_nonzero(same) < len(rgb)
    return same if enough else None


def _rows_equal(rgb: ByteArray, before: ByteArray) -> Rows:
    return np.asarray((rgb == before).all(axis=(1, 2)))


def unsupported_part(
    outcome: Pose, pairs: Correspondences, rows: Rows, min_support: float
) -> Lost | None:
    """Why the image is of two moments: the matches of one part do not support the pose.

    rows (H,): of `repeated_rows`. Below a seam a part that does not agree may be badly matched.
    """
    shares = [_support(outcome, pairs, part) for part in _parts(pairs, rows)]
    if all(share is None or share >= min_support for share in shares):
        return None
    old, new = ("-" if share is None else f"{100 * share:.0f} %" for share in shares)
    words = f"{old} of the matches there agree on the pose, {new} elsewhere"
    return _two_moments(rows, True, words)


def two_poses(
    pairs: Correspondences,
    rows: Rows,
    *,
    repeated: bool,
    min_support: float,
    posed: Callable[[Correspondences], Pose | Lost],
) -> Lost | None:
    """Why the image is of two moments: the poses of its parts (by `posed`) differ, not by chance.

    rows (H,): of `repeated_rows`, or of `seam`.
    """
    poses: list[Pose] = []
    for part in _parts(pairs, rows):
        some = pairs.select(np.flatnonzero(part))
        pose = posed(some) if len(some) >= MIN_MATCHES else None
        if pose is None or isinstance(pose, Lost) or pose.covariance is None:
            return None
        support = _support(pose, some, np.ones(len(some), dtype=np.bool_))
        if not repeated and (support or 0.0) < min_support:
            return None
        poses.append(pose)
    a, b = poses
    assert a.covariance is not None and b.covariance is not None
    # Where a part has no metres (of a sky), its turn says whether it is of another moment.
    metric = isinstance(a, MetricPose) and isinstance(b, MetricPose)
    free = slice(None) if metric else slice(3, None)
    apart = se3.difference(a.keyframe_from_camera, b.keyframe_from_camera)[free]
    P = (a.covariance + b.covariance)[free, free]
    limit = (CHI2_95 if repeated else CHI2_99)[len(apart)]
    if float(apart @ np.linalg.solve(P, apart)) < limit:
        return None
    far = float(np.linalg.norm(apart[:3]))
    words = f"{far:.3f} m" if metric else f"{np.degrees(far):.2f} degrees"
    return _two_moments(rows, repeated, f"the two parts differ by {words}")


def _parts(pairs: Correspondences, rows: Rows) -> list[Mask]:
    """(N,) twice: the matches in these rows, and the others."""
    row = np.clip(np.rint(pairs.query_px[:, 1]), 0, len(rows) - 1).astype(np.intp)
    return [rows[row], ~rows[row]]


def _two_moments(rows: Rows, repeated: bool, words: str) -> Lost:
    count, height = np.count_nonzero(rows), len(rows)
    if repeated:
        where = f"{count} of {height} rows are those of the image before, bit for bit"
    else:
        where = f"a seam runs across the image at row {height - count}: it is of two moments"
    return Lost(LostReason.REPEATED_IMAGE, f"{where}, and the camera moved: {words}")


def _support(outcome: Pose, pairs: Correspondences, part: Mask) -> float | None:
    """Share of a part's matches that agree, each by its confidence."""
    if np.count_nonzero(part) < MIN_MATCHES:
        return None
    confidence = pairs.confidence[part]
    return float(confidence[outcome.inliers[part]].sum() / max(confidence.sum(), 1e-9))
