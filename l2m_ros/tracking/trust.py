"""Independent evidence that a pose must agree with before it is believed.

    support       of the matches that have depth, the share that agrees, each by its certainty:
                  depth of another camera, frozen or late leaves a minority
    same content  matches that say "nothing moved" must lie on equal content: optical flow between
                  distant views finds no motion, and an identity warp is a perfect camera motion

    the rest      without depth: where matches say "nothing moved", the image must stand where none
                  lie, too: after a turn those on a gripper, or on a dark rim, are all there are

    depth fit     `depth_trust`: depth must explain the parallax of the matches

    strip         the matches that agree must not all lie on a narrow strip of either image: there a
                  smooth error of the matches passes for a turn, and nothing beside it objects

    two depths    `two_depths`: the matches must agree with both frames' depth as with either's

    two views     rotation and direction against the same matches without depth: a small difference
                  has widened the covariance (`geometry.agreement`), a large one refuses the pose,
                  unless depth explains the matches to within their noise: two views of a wall have
                  several motions, and the one that was found need not be the camera's

What fails is `Lost` with CONTRADICTED (a strip: DEGENERATE); the words name the test and the
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.tracking.thinned import CHANGED, has_detail, thinned
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    DepthCheck,
    FloatArray,
    Frame,
    Lost,
    LostReason,
    MetricPose,
    RelativePose,
)

STILL = 0.02  # of the width: a warp that moves less is compared patch by patch
PATCH = 11  # pixels across
PATCHES = 300
MIN_PATCHES = 20
MIN_CONTRAST = 3.0  # grey levels, standard deviation; a blank patch compares with nothing
EXPLAINED = 1.0  # what depth leaves over of where the matches lie, where that is all noise
# Of the image's diagonal: the standard deviation, across, of the matches that agree. On recordings
# 6 of 7 poses below it were over 3 sigma off, by up to half a metre; evenly filled, a strip of a
# sixth of a 4 to 3 image's height is at it.
MIN_SPREAD = 0.03
STANDS = 0.005  # of the width: matches on what stands in the image move less
BESIDE = 4  # samples about a match are left to it
# Of the samples with detail, that changed and lie beside no match: 0.06 at most where a camera
# stood or crept, 0.5 and more where it had turned away and only the robot's own part was matched.
MOST_CHANGED = 0.3
SAME = 0.3  # median correlation of equal content is above 0.7, of different content below 0.1


@dataclass(frozen=True)
class TrustOptions:
    """Bounds of the evidence."""

    # Share of the matches with depth that agree. Real rooms have 0.48 and more (median 0.80),
    # depth of an unrelated plane 0.5 in the median.
    min_support: float = 0.45
    # Chi-square of five degrees of freedom between the pose and two-view geometry. Beyond 20 the
    # covariance grows with it; in real rooms 2 % of the poses with right depth lie beyond 250.
    max_disagreement: float = 250.0
    # Of the matches that two views agree on, see `depth_trust`: the median squared distance from
    # where depth puts them, at twice the claimed depth noise, over what noise explains. Right depth
    # of real cameras is at 3.2 and less, wrong depth that was believed at 3.9 and more.
    max_depth_misfit: float = 3.5
    # Share of the squared parallax that depth may leave unexplained.
    max_depth_unexplained: float = 0.33
    # Matches of another motion over those of the pose, each by its certainty: things that move in
    # view, and a part of the robot. Without such things offices, kitchens and streets have less.
    max_second_motion: float = 0.2
    # Frames contradicted among the last ten that could be checked, before depth is distrusted.
    depth_distrusted_after: int = 3


def contradicted_scale(pose: MetricPose, options: TrustOptions) -> Lost | None:
    """Why the matches speak against the metres of this pose, or None."""
    words = _against_scale(pose, options)
    return Lost(LostReason.CONTRADICTED, words) if words else None


def contradicted_content(
    outcome: MetricPose | RelativePose, pairs: Correspondences, query: Frame, keyframe: Frame
) -> Lost | None:
    """Why the images speak against the matches of this pose, or None."""
    words = _against_content(pairs.select(outcome.inliers), query, keyframe)
    return Lost(LostReason.CONTRADICTED, words) if words else None


def contradicted_rest(
    outcome: MetricPose | RelativePose, pairs: Correspondences, query: Frame, keyframe: Frame
) -> Lost | None:
    """Why what no match lies on speaks against a pose that did not move, or None."""
    changed = changed_elsewhere(pairs.select(outcome.inliers), query.rgb, keyframe.rgb)
    if changed is None or changed <= MOST_CHANGED:
        return None
    return Lost(
        LostReason.CONTRADICTED,
        f"the rest: the matches say that nothing moved, but {100 * changed:.0f} % of what is seen "
        f"has changed where none lie, {100 * MOST_CHANGED:g} % are admitted: do they lie on a part "
        "of the robot, or on a dark rim of the lens? tracking.mask leaves it out",
    )


def on_a_strip(
    outcome: MetricPose | RelativePose, pairs: Correspondences, query: Frame, keyframe: Frame
) -> Lost | None:
    """Why the matches of this pose cover too little of an image, or None."""
    inliers = pairs.select(outcome.inliers)
    if len(inliers) < 2:
        return None
    for name, px, frame in (
        ("image", inliers.query_px, query),
        ("keyframe", inliers.keyframe_px, keyframe),
    ):
        across_px = float(np.sqrt(max(np.linalg.eigvalsh(np.cov(px.T))[0], 0.0)))
        share = across_px / float(np.hypot(*frame.camera.size))
        if share < MIN_SPREAD:
            return Lost(
                LostReason.DEGENERATE,
                f"strip: the matches that agree lie on a strip of the {name}: their deviation "
                f"across is {100 * share:.1f} % of its diagonal, {100 * MIN_SPREAD:g} % are the "
                "least",
            )
    return None


def _against_scale(pose: MetricPose, options: TrustOptions) -> str | None:
    if pose.support < options.min_support:
        return (
            f"support: {100 * pose.support:.0f} % of the matches with {pose.scale_source} agree "
            f"on the pose, tracking.min_support asks for {100 * options.min_support:.0f} %"
        )
    if pose.disagreement > options.max_disagreement and not _explains(pose.depth_check):
        return (
            f"two views: rotation and direction differ from what the matches say without "
            f"{pose.scale_source} (chi-square {pose.disagreement:.0f}, "
            f"tracking.max_disagreement is {options.max_disagreement:g})"
        )
    return None


def _explains(check: DepthCheck | None) -> bool:
    """Whether depth puts the matches where they lie.

    Of poses that differ so from two views, those with right depth of real cameras leave over 0.5 at
    most, those with wrong depth 1.3 at least.
    """
    return check is not None and check.rotation_only > 0.0 and check.left_over <= EXPLAINED


def _against_content(inliers: Correspondences, query: Frame, keyframe: Frame) -> str | None:
    alike = likeness(inliers, query.rgb, keyframe.rgb)
    if alike is None or alike >= SAME:
        return None
    return (
        f"same content: the matches say that nothing moved, but the two images differ there "
        f"(median correlation {alike:.2f}, {SAME:g} is the least)"
    )


def likeness(pairs: Correspondences, query: ByteArray, keyframe: ByteArray) -> float | None:
    """Median correlation of the patches that are matched; None where the warp moves them."""
    if len(pairs) < MIN_PATCHES or query.shape != keyframe.shape:
        return None
    moved_px = np.linalg.norm(pairs.query_px - pairs.keyframe_px, axis=1)
    if float(np.median(moved_px)) > STILL * query.shape[1]:
        return None
    chosen = np.linspace(0, len(pairs) - 1, min(PATCHES, len(pairs))).astype(np.intp)
    a = _patches(query, pairs.query_px[chosen])
    b = _patches(keyframe, pairs.keyframe_px[chosen])
    deviation_a, deviation_b = a.std(axis=1), b.std(axis=1)
    seen = (deviation_a > MIN_CONTRAST) | (deviation_b > MIN_CONTRAST)
    if seen.sum() < MIN_PATCHES:
        return None
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    noise = 1.0  # grey level: a blank patch is like no other
    scale = np.maximum(deviation_a, noise) * np.maximum(deviation_b, noise)
    return float(np.median(((a * b).mean(axis=1) / scale)[seen]))


def changed_elsewhere(
    pairs: Correspondences, query: ByteArray, keyframe: ByteArray
) -> float | None:
    """Share of the samples with detail that changed beside no match; None where the warp moves."""
    if len(pairs) < MIN_PATCHES or query.shape != keyframe.shape:
        return None
    moved_px = np.linalg.norm(pairs.query_px - pairs.keyframe_px, axis=1)
    if float(np.median(moved_px)) > STANDS * query.shape[1]:
        return None
    a, b = thinned(query), thinned(keyframe)
    b = (b - b.mean()) * (a.std() / max(float(b.std()), 1.0)) + a.mean()  # of another exposure
    matched = np.zeros(a.shape, np.uint8)
    last = np.array(a.shape[::-1]) - 1
    x, y = np.clip((pairs.query_px * (a.shape[1] / query.shape[1])).astype(int), 0, last).T
    matched[y, x] = 1
    around = np.ones((2 * BESIDE + 1, 2 * BESIDE + 1), np.uint8)
    detail = has_detail(a) | has_detail(b)
    changed = detail & (np.abs(a - b) > CHANGED) & (cv2.dilate(matched, around) == 0)
    return float(changed.sum()) / max(int(detail.sum()), 1)


def _patches(rgb: ByteArray, pixels: FloatArray) -> npt.NDArray[np.float32]:
    """(N, PATCH^2) grey levels around the pixels; the image's border is repeated."""
    half = PATCH // 2
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    grey = cv2.copyMakeBorder(grey, half, half, half, half, cv2.BORDER_REPLICATE)
    limits = np.array([rgb.shape[1], rgb.shape[0]]) - 1
    u, v = np.clip(np.rint(pixels), 0, limits).astype(np.intp).T
    offset = np.arange(PATCH)
    rows = v[:, None, None] + offset[None, :, None]
    columns = u[:, None, None] + offset[None, None, :]
    return np.asarray(grey[rows, columns].reshape(len(u), -1), np.float32)
