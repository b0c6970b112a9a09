"""Images of two moments: a transfer that broke off leaves rows of the image before.

A sensor's noise differs in each image, so rows that repeat bit for bit, with texture in them, are
of the moment before. That is harmless where the camera stands (and a video codec repeats rows of a
scene that rests): then the other rows lie where they lay, too.

Of two torn images in a row the second's rows may be of a moment that was never sent whole, so that
no row repeats. A seam (`seam.py`) may show where it is torn; without one, the rows that the image
before lacked are looked at (those that it had would repeat). The poses of both parts must agree,
and such an image is no keyframe and finds no older keyframe again.
"""

from __future__ import annotations

import enum
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
    FloatArray,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

Mask = npt.NDArray[np.bool_]
Pose = MetricPose | RelativePose
Posed = tuple[Pose, Correspondences]

MIN_CONTRAST = 3.0  # grey levels, standard deviation: black bars and burnt skies repeat too
MIN_ROWS = 0.05  # of the image
# Of chi-square by degrees of freedom. Parts of a whole image differ by more than 90 % admits (10.6)
# on 4 of 70 images of the office, whose depth errs by region.
CHI2_95, CHI2_99 = {6: 12.59, 3: 7.81}, {6: 16.81, 3: 11.34}
BY_DEPTH = (DEPTH, STEREO)  # scale sources whose poses have a turn of their own
MOST_IN_A_ROW = 1  # images taken for torn by their matches alone, since rows last repeated
MIN_MATCHES = 20  # in a part; fewer do not say whether it moved
LEFT = 0.5  # of the usual support of a part, that an image of one moment still has
BLOCK = 24  # pixels across, of the image at full size
# A block stands if it correlates with the one before and is shifted by less: what half a pixel does
# to a pose is harmless.
ALIKE, SHIFT_PX = 0.7, 0.5
MIN_BLOCKS = 4  # with texture; fewer do not show that the camera stands
MOST_MOVED = 0.25  # of the blocks: people walk past a camera that stands


class Sign(enum.Enum):
    """What shows that an image may be of two moments."""

    SEAM = "a seam runs across the image"
    AFTER_TORN = "the image before was torn, and the rows that it lacked may fill this one"


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


def two_moments(rgb: ByteArray, before: ByteArray, rows: Rows) -> Lost | None:
    """Why an image whose rows (H,) are those of the image before is of two moments, or None.

    The camera moved: the other rows do not lie where they lay.
    """
    moved = _moved_share(rgb, before, ~rows)
    if moved is not None and moved <= MOST_MOVED:
        return None
    share = "nothing" if moved is None else f"{100 * moved:.0f} %"
    return Lost(
        LostReason.REPEATED_IMAGE,
        f"{np.count_nonzero(rows)} of {len(rows)} rows are those of the image before, bit for bit, "
        f"and the camera moved: {share} of the rest lies elsewhere now",
    )


def _moved_share(rgb: ByteArray, before: ByteArray, rows: Rows) -> float | None:
    """Of the textured blocks of these rows (H,), the share that moved; None of too few."""
    now, then = (_blocks(_grey(image), rows) for image in (rgb, before))  # (N, BLOCK, BLOCK)
    if now is None or then is None:
        return None
    centred = [block - block.mean(axis=(1, 2), keepdims=True) for block in (now, then)]
    energy = [np.square(block).mean(axis=(1, 2)) for block in centred]
    textured = np.minimum(*energy) > MIN_CONTRAST**2
    if np.count_nonzero(textured) < MIN_BLOCKS:
        return None
    a, b = (block[textured] for block in centred)
    alike = (a * b).mean(axis=(1, 2)) / np.sqrt(energy[0] * energy[1])[textured]
    return float(((alike < ALIKE) | (_shift_px(a, b) > SHIFT_PX)).mean())


def _shift_px(a: FloatArray, b: FloatArray) -> FloatArray:
    """(N,) by how much each block a is shifted against b, to first order (Lucas and Kanade)."""
    y, x = np.gradient(0.5 * (a + b), axis=(1, 2))
    off = b - a
    xx, xy, yy, xo, yo = (
        (p * q).sum((1, 2)) for p, q in ((x, x), (x, y), (y, y), (x, off), (y, off))
    )
    slack = 1e-3 * (xx + yy) + 1e-9  # along an edge the shift is not seen
    determinant = (xx + slack) * (yy + slack) - xy * xy
    u, v = ((yy + slack) * xo - xy * yo), ((xx + slack) * yo - xy * xo)
    return np.asarray(np.hypot(u, v) / determinant)


def _blocks(grey: FloatArray, rows: Rows) -> FloatArray | None:
    """(N, BLOCK, BLOCK) those that lie in these rows whole, or None."""
    kept = [
        grey[top : top + BLOCK]
        for top in range(0, len(grey) - BLOCK + 1, BLOCK)
        if rows[top : top + BLOCK].all()
    ]
    across = grey.shape[1] // BLOCK
    if not kept or not across:
        return None
    bands = np.stack(kept)[:, :, : across * BLOCK].reshape(len(kept), BLOCK, across, BLOCK)
    return np.asarray(bands.transpose(0, 2, 1, 3).reshape(-1, BLOCK, BLOCK))


def _grey(rgb: ByteArray) -> FloatArray:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), np.float64)


class TornStream:
    """Which rows the image before lacked: they may fill the one at hand, and do not repeat then."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._in_a_row = 0

    def next_image(self, repeated: Rows | None, doubt: Lost | None) -> Rows | None:
        """(H,) the rows that the image before lacked, or None.

        repeated (H,): rows that this one has from it; doubt: why this one is not looked at.
        """
        unsent = self._rows
        if repeated is None and doubt is not None:
            return unsent  # the same image once more
        self._rows = repeated
        if repeated is not None:
            self._in_a_row = 0
        return unsent

    def found(self, rows: Rows | None) -> None:
        """rows (H,): of the image at hand, which its matches show to be of another moment."""
        if rows is not None and self._in_a_row < MOST_IN_A_ROW:
            self._rows, self._in_a_row = rows, self._in_a_row + 1


def unsupported_part(
    outcome: Pose, pairs: Correspondences, rows: Rows, min_support: float, whole: Posed | None
) -> Lost | None:
    """Why the image is of two moments: the matches of one part do not support the pose.

    rows (H,): that the image before lacked. Below a seam a part that does not agree may be badly
    matched. whole: an image of one moment, lately; where its matches in that part hardly agreed
    either (what lies there is matched badly, or its depth is wrong), that says nothing now.
    """
    shares = [_support(outcome, pairs, part) for part in _parts(pairs, rows)]
    usual: list[float | None] = [None, None]
    if whole is not None:
        usual = [_support(*whole, part) for part in _parts(whole[1], rows)]
    if all(
        share is None or share >= (min_support if then is None else min(min_support, LEFT * then))
        for share, then in zip(shares, usual, strict=True)
    ):
        return None
    old, new = ("-" if share is None else f"{100 * share:.0f} %" for share in shares)
    words = f"{old} of the matches there agree on the pose, {new} elsewhere"
    return after_torn(rows, words)


def two_poses(
    pairs: Correspondences,
    rows: Rows,
    sign: Sign,
    *,
    min_support: float,
    posed: Callable[[Correspondences], Pose | Lost],
) -> Lost | None:
    """Why the image is of two moments: the poses of its parts (by `posed`) differ, not by chance.

    rows (H,): of `seam`, or that the image before lacked.
    """
    poses: list[Pose] = []
    for part in _parts(pairs, rows):
        some = pairs.select(np.flatnonzero(part))
        pose = posed(some) if len(some) >= MIN_MATCHES else None
        if pose is None or isinstance(pose, Lost) or pose.covariance is None:
            return None
        support = _support(pose, some, np.ones(len(some), dtype=np.bool_))
        if sign is Sign.SEAM and (support or 0.0) < min_support:
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
    limit = (CHI2_95 if sign is Sign.AFTER_TORN else CHI2_99)[len(apart)]
    if float(apart @ np.linalg.solve(P, apart)) < limit:
        return None
    far = float(np.linalg.norm(apart[:3]))
    words = f"{far:.3f} m" if metric else f"{np.degrees(far):.2f} degrees"
    apart_words = f"the two parts differ by {words}"
    if sign is Sign.AFTER_TORN:
        return after_torn(rows, apart_words)
    row = len(rows) - np.count_nonzero(rows)
    return Lost(
        LostReason.REPEATED_IMAGE,
        f"{sign.value} at row {row}: it is of two moments, and the camera moved: {apart_words}",
    )


def _by_depth(pose: Pose) -> bool:
    return isinstance(pose, MetricPose) and pose.scale_source in BY_DEPTH


def _parts(pairs: Correspondences, rows: Rows) -> list[Mask]:
    """(N,) twice: the matches in these rows, and the others."""
    row = np.clip(np.rint(pairs.query_px[:, 1]), 0, len(rows) - 1).astype(np.intp)
    return [rows[row], ~rows[row]]


def after_torn(rows: Rows, words: str) -> Lost:
    count = np.count_nonzero(rows)
    words = f"{Sign.AFTER_TORN.value} ({count} of {len(rows)}): {words}"
    return Lost(LostReason.REPEATED_IMAGE, words)


def _support(outcome: Pose, pairs: Correspondences, part: Mask) -> float | None:
    """Share of a part's matches that agree, each by its confidence."""
    if np.count_nonzero(part) < MIN_MATCHES:
        return None
    confidence = pairs.confidence[part]
    return float(confidence[outcome.inliers[part]].sum() / max(confidence.sum(), 1e-9))
