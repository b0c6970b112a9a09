"""Images of two moments: a transfer that broke off leaves rows of the image before.

A sensor's noise differs in each image, so rows that repeat bit for bit, with texture in them, are
of the moment before. That is harmless where the camera stands (and a video codec repeats rows of a
scene that rests): then the matches of both parts agree on one pose. Where they do not, it moved.

Of two torn images in a row the second's rows may be of a moment that was never sent whole. There a
seam (`seam.py`) shows where it is torn, and the poses of both parts must agree.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.tracking.depth_trust import DEPTH, STEREO
from l2m_ros.tracking.seam import Rows
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Mask = npt.NDArray[np.bool_]
Pose = MetricPose | RelativePose

MIN_CONTRAST = 3.0  # grey levels, standard deviation: black bars and burnt skies repeat too
MIN_ROWS = 0.05  # of the image
# Of chi-square by degrees of freedom. Parts of a whole image differ by more than 90 % admits (10.6)
# on 4 of 70 images of the office, whose depth errs by region.
CHI2_95, CHI2_99 = {6: 12.59, 3: 7.81}, {6: 16.81, 3: 11.34}
BY_DEPTH = (DEPTH, STEREO)  # scale sources whose poses have a turn of their own
MIN_MATCHES = 20  # in a part; fewer do not say whether it moved


def repeated_rows(rgb: ByteArray, before: ByteArray) -> Rows | None:
    """(H,) which rows are those of the image before; None where these are few, or all."""
    if rgb.shape != before.shape:
        return None
    few = slice(None, None, 16)  # columns that tell nearly all rows apart
    same = _rows_equal(rgb[:, few], before[:, few])
    same[same] = _rows_equal(rgb[same], before[same])
    if np.count_nonzero(same) < MIN_ROWS * len(rgb):
        return None
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[same]), cv2.COLOR_RGB2GRAY)
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
    metric = all(isinstance(pose, MetricPose) for pose in poses)
    if not metric and not any(_by_depth(pose) for pose in poses):
        return None  # turns by matches alone differ by a degree on whole images
    # Where one part has no metres (of a sky), its turn says whether it is of another moment.
    free = slice(None) if metric else slice(3, None)
    apart = se3.difference(a.keyframe_from_camera, b.keyframe_from_camera)[free]
    P = (a.covariance + b.covariance)[free, free]
    limit = (CHI2_95 if repeated else CHI2_99)[len(apart)]
    if float(apart @ np.linalg.solve(P, apart)) < limit:
        return None
    far = float(np.linalg.norm(apart[:3]))
    words = f"{far:.3f} m" if metric else f"{np.degrees(far):.2f} degrees"
    return _two_moments(rows, repeated, f"the two parts differ by {words}")


def _by_depth(pose: Pose) -> bool:
    return isinstance(pose, MetricPose) and pose.scale_source in BY_DEPTH


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
