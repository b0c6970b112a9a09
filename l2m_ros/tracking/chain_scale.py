"""One scale for a chain whose metres a network reads: each keyframe adds what it knows on its own.

A keyframe's depths err by a factor of the place, which no other keyframe of it can tell, and by one
of its image. Matches between two keyframes show how much their image factors differ, so the chain
carries its scale to the new keyframe, which adds its own reading:

    log correction   c = w d,  d = median log(depth that the chain says / depth read here)
    variance         1 / P = 1 / (P_chain + q) + (1 - r) / ((1 + r) s^2)

s is the new image's sigma, r the correlation of neighbouring keyframes' factors (they see much the
same), q the variance of d. For n keyframes of equal s this is the variance of the mean of a process
that forgets by r from one keyframe to the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.depth_image import NO_NOISE, sample_surface
from l2m_ros.matching.mono_depth import MonoDepth
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.mono_shape import SeenDepths, seen_depths, shaped
from l2m_ros.types import Camera, Correspondences, FloatArray, MetricPose

MIN_MATCHES = 20  # with depth in both keyframes
INDEPENDENT_MATCHES = 30.0  # neighbouring cells err together: so many are worth a thousand
SOURCE = "mono_depth"


@dataclass(frozen=True)
class CarriedScale:
    """What the chain says of the log factor of a new keyframe's depths."""

    correction: float
    variance: float
    seen: SeenDepths | None = None  # in the new keyframe, by parallax at the chain's scale


def carried_scale(
    before: Keyframe, mono: MonoDepth, pairs: Correspondences, pose: MetricPose, camera: Camera
) -> CarriedScale | None:
    """From the keyframe before; None where its metres are not a network's or too few depths meet.

    pairs, pose, camera: of the new keyframe, as it was matched against the one before.
    """
    if before.mono_depth is None or pose.scale_source != SOURCE:
        return None
    inliers = pairs.select(pose.inliers)
    told = _depth_told(before, inliers, pose)
    read = sample_surface(mono.depth, inliers.query_px, NO_NOISE).z_m
    good = np.isfinite(told) & np.isfinite(read) & (told > 0) & (read > 0)
    if good.sum() < MIN_MATCHES:
        return None
    ratio = np.log(told[good] / read[good])
    middle = float(np.median(ratio))
    spread = 1.4826 * float(np.median(np.abs(ratio - middle)))
    own = spread**2 / min(INDEPENDENT_MATCHES, float(good.sum()))
    seen = seen_depths(inliers, before.frame.camera, camera, pose)
    return CarriedScale(middle, before.mono_depth.image_sigma**2 + own, seen)


def _depth_told(before: Keyframe, pairs: Correspondences, pose: MetricPose) -> FloatArray:
    """(N,) depth in the new keyframe of the old one's points."""
    assert before.mono_depth is not None
    z = sample_surface(before.mono_depth.depth, pairs.keyframe_px, NO_NOISE).z_m
    points = unproject(before.frame.camera, pairs.keyframe_px) * z[:, None]
    T = se3.inverse(pose.keyframe_from_camera)
    return np.asarray(points @ T[2, :3] + T[2, 3])


def joined(mono: MonoDepth, carried: CarriedScale | None) -> MonoDepth:
    """The keyframe's depths after the chain was heard: corrected, and surer of their factor."""
    if carried is None:
        return mono
    r = min(max(mono.image_correlation, 0.0), 0.99)
    chain = 1.0 / carried.variance
    own = (1.0 - r) / ((1.0 + r) * mono.image_sigma**2)
    correction = chain / (chain + own) * carried.correction
    depth, sigma = (mono.depth * np.exp(correction)).astype(np.float32), mono.pixel_sigma
    if carried.seen is not None:
        depth, sigma = shaped(depth, sigma, carried.seen, carried.correction - correction)
    return replace(
        mono, depth=depth, pixel_sigma=sigma, image_sigma=float(np.sqrt(1.0 / (chain + own)))
    )
