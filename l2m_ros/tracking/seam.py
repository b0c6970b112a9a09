"""Where an image is torn, as the image itself shows it: a seam across its whole width.

Between two rows grey levels step in many columns, and beside them they do not. An edge of the scene
is blurred by the lens over more rows, or runs across fewer columns. Lines of the scene that lie so
(ceilings, shelves) are in the keyframe too, at the place where the matches say.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.rays import Index
from l2m_ros.types import ByteArray, Correspondences, FloatArray

Rows = npt.NDArray[np.bool_]

STEP, STEP_GREY = 2, 3  # a step is twice as high as those of the rows beside it, and 3 grey levels
# Of the columns, that step, and how many more than at any other row. Whole images of an office, a
# kitchen and a car have such a row in 11, 0 and 0 %, torn ones in 66, 93 and 100 % (the office's
# camera moves least).
MIN_SEAM, STANDS_OUT = 0.15, 1.5
BESIDE = 3  # rows that belong to the same seam
LEAST_PART = 6  # of the height: a pose of less says little of another moment
# Of the image's upright strips, in which a seam steps: 14 to 16 in 23 torn images; 8 to 13, and in
# three of 18 more, along lines of whole images that the keyframe does not show.
STRIPS, MIN_STRIPS = 16, 14
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
    share[: height // LEAST_PART] = share[-(height // LEAST_PART) :] = 0.0
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


def _steps(grey: ByteArray) -> npt.NDArray[np.bool_]:
    """(H - 3, W) where grey levels step between row i + 1 and row i + 2 and not beside."""
    step = cv2.absdiff(grey[1:], grey[:-1])
    beside = cv2.max(step[:-2], step[2:]).astype(np.int16)
    return np.asarray(step[1:-1] > STEP * beside + STEP_GREY)


def _grey(rgb: ByteArray) -> ByteArray:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY))
