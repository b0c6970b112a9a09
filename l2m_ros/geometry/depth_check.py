"""Do depths explain what the matches show? Two-view geometry of the same matches is the witness.

It knows, without any depth, which matches belong together and how noisy they are. With depth, each
of them has one place where it must lie; without depth but with the rotation alone, another. Over
the matches that two views agree on, and at two views' noise:

    left_over      median d^2 of (u, v) with depth               over its expectation
    rotation_only  the same with a rotation and no depth: how much parallax there is
    misfit         median d^2 of (u, v, range), at twice the depth noise that is claimed

What a rolling shutter may move the matches by counts as noise: of a camera that turns quickly its
rows are pixels apart, and no pose puts them together.

Depth that belongs to the scene leaves over what its noise explains, whatever the motion. Depth of
another moment, of another camera or of nothing at all explains little more than a rotation does,
although a pose that bends to it may keep half of the matches.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from l2m_ros.geometry.depth_noise import shown_noise
from l2m_ros.geometry.rays import Noise, RayPairs, homogeneous
from l2m_ros.geometry.residuals import Rows, RowsAt, infinity_rows, keyframe_depth_rows
from l2m_ros.geometry.residuals import query_depth_rows as lifted_in_query_rows
from l2m_ros.geometry.two_view import TwoView
from l2m_ros.types import DepthCheck, DepthNoiseShown, FloatArray

MIN_CHECKED = 30  # matches; a median of fewer says little
CHI2_MEDIANS = np.array([0.0, 0.4549, 1.3863, 2.3660])  # of 0 to 3 degrees of freedom
CLAIMED, DOUBLED = Noise().depth, 4.0  # factors on the variance of the depth


def depth_check(
    pairs: RayPairs,
    view: TwoView,
    keyframe_from_camera: FloatArray,
    learnt: float = CLAIMED,
    rolled: FloatArray | None = None,
) -> DepthCheck:
    """pairs: those that `view` was estimated from, with their depths.

    learnt: factor on the variance of the depth noise, as frames before this one showed it.
    rolled (K, 2, N): by how much a rolling shutter may move the matches, beside any pose; one
    sigma of each of K causes.
    """
    none = np.zeros((0, 2, len(pairs)))
    rolled = none if rolled is None else rolled
    agreed = view.general.weights > 0.5
    in_keyframe = np.isfinite(pairs.keyframe_m)
    share = float(agreed.mean())
    lifted = agreed & (in_keyframe | np.isfinite(pairs.query_m))
    checked = int(lifted.sum())
    if checked < MIN_CHECKED:
        return DepthCheck(checked, agreed=share)
    groups = [
        (np.flatnonzero(lifted & in_keyframe), keyframe_depth_rows),
        (np.flatnonzero(lifted & ~in_keyframe), lifted_in_query_rows),
    ]
    with_depth: list[FloatArray] = []
    with_range: list[FloatArray] = []
    with_learnt: list[FloatArray] = []
    turned: list[FloatArray] = []
    shown: DepthNoiseShown | None = None
    for index, rows_at in groups:
        if not len(index):
            continue
        some, moved = pairs.select(index), rolled[..., index]

        def at_noise(factor: float, some: RayPairs = some, rows_at: RowsAt = rows_at) -> Rows:
            noise = replace(view.general.noise, depth=factor)
            first = rows_at(some, keyframe_from_camera, None, noise, 0.0)
            return rows_at(some, keyframe_from_camera, first.depth_m, noise, 0.0)

        claimed = at_noise(CLAIMED)
        with_depth.append(_relative(claimed, 2, moved))
        with_range.append(_relative(at_noise(DOUBLED), 3, moved))
        if learnt != CLAIMED:
            with_learnt.append(_relative(at_noise(learnt), 2, moved))
        if rows_at is keyframe_depth_rows:
            shown = shown_noise(claimed, some.query)
        noise = replace(view.general.noise, depth=CLAIMED)
        turned.append(_relative(infinity_rows(some, view.turned, None, noise, 0.0), 2, moved))
    left_over, rotation_only, misfit = (_median(d) for d in (with_depth, turned, with_range))
    at_learnt = _median(with_learnt) if with_learnt else None
    ranges = _ranges(pairs.select(np.flatnonzero(agreed)), keyframe_from_camera)
    return DepthCheck(checked, left_over, rotation_only, misfit, share, at_learnt, shown, ranges)


def _ranges(pairs: RayPairs, T: FloatArray) -> tuple[float, float] | None:
    """See `DepthCheck.ranges`: medians over the matches that have both depths."""
    both = np.flatnonzero(np.isfinite(pairs.keyframe_m) & np.isfinite(pairs.query_m))
    if len(both) < MIN_CHECKED:
        return None
    pairs = pairs.select(both)
    z, seen, (x, y) = pairs.keyframe_m, pairs.query_m, pairs.slope
    ahead = T[:3, 2] @ homogeneous(pairs.keyframe)
    predicted = z * ahead - float(T[:3, 2] @ T[:3, 3])
    noise, (xx, xy, yy) = pairs.depth_noise, pairs.covariance(Noise())
    variance = pairs.keyframe_variance_factor * (ahead * noise.sigma_m(z)) ** 2
    variance += pairs.query_variance_factor * noise.sigma_m(seen) ** 2
    variance += ahead**2 * (x * x * xx + 2.0 * x * y * xy + y * y * yy)  # beside the match
    off, changed = (seen - predicted) ** 2 / variance, (predicted - z) ** 2 / variance
    return float(np.median(off) / CHI2_MEDIANS[1]), float(np.median(changed) / CHI2_MEDIANS[1])


def _relative(rows: Rows, used: int, moved: FloatArray) -> FloatArray:
    """(N,) squared error of the first rows of each match over the median that noise gives it.

    moved (K, 2, N): by a rolling shutter. It counts where it is more than the noise of the matches:
    whoever turns slowly has none of this, and depth of an unrelated plane is at the bound there.
    """
    squared = (rows.error[:used] ** 2).sum(axis=0)
    of_noise = np.minimum(rows.observed, used)
    added = np.einsum("crn,kcn->krn", rows.by_match[:, :used], moved)
    more = np.maximum(1.0, (added**2).sum(axis=(0, 1)) / np.maximum(of_noise, 1))
    return np.asarray(squared / (CHI2_MEDIANS[of_noise.astype(np.intp)] * more))


def _median(parts: list[FloatArray]) -> float:
    return float(np.median(np.concatenate(parts)))
