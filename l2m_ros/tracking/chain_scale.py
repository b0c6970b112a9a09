"""One scale for a chain whose metres a network reads: each keyframe adds what it knows on its own.

A keyframe's depths err by a factor of the place, which no other keyframe of it can tell, and by one
of its image. Matches between two keyframes show how much their image factors differ, so the chain
carries its scale to the new keyframe, which adds its own reading. The chain settles on the middle
of all readings y_i, the logs of depth read over the depth that it had settled on before:

    m = mean of y by C^-1,  variance 1 / sum(C^-1)
    C_ij = r^|i-j| s_i s_j / sqrt(w_i w_j) + q of the links after the later of both
    w_i = 1 / (1 + (y_i - m)^2 / (CAUCHY s_i)^2)

s_i is an image's sigma, r the correlation of neighbouring keyframes' factors (they see much the
same), q the variance of a link, the median of log (depth that the chain says / depth read here). An
image that is misread by far weighs little once others tell, also when it began the chain. Where
readings differ by more than they state, the sigma grows: of two that do, nobody knows which is
wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.depth_image import NO_NOISE, sample_surface
from l2m_ros.matching.mono_depth import MonoDepth, ScaleReadings
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.mono_shape import SeenDepths, seen_depths, shaped
from l2m_ros.types import Camera, Correspondences, FloatArray, MetricPose

MIN_MATCHES = 20  # with depth in both keyframes
INDEPENDENT_MATCHES = 30.0  # neighbouring cells err together: so many are worth a thousand
SOURCE = "mono_depth"
CAUCHY = 3.0  # sigmas at which a reading counts half
ROUNDS = 5
MOST_READINGS = 16  # links forget what is older


@dataclass(frozen=True)
class CarriedScale:
    """What the chain says of the log factor of a new keyframe's depths."""

    correction: float
    readings: ScaleReadings  # of the keyframes before
    link: float  # variance of `correction`
    place_sigma: float  # of the keyframe before
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
    place = before.mono_depth.place_sigma
    return CarriedScale(middle, readings_of(before.mono_depth), own, place, seen)


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
    before = carried.readings
    readings = ScaleReadings(
        np.append(before.off, -carried.correction),
        np.append(before.sigma, mono.image_sigma),
        np.append(before.link, carried.link),
    ).newest(MOST_READINGS)
    middle, variance = settled(readings, mono.image_correlation)
    correction = carried.correction + middle
    depth, sigma = (mono.depth * np.exp(correction)).astype(np.float32), mono.pixel_sigma
    if carried.seen is not None:
        depth, sigma = shaped(depth, sigma, carried.seen, -middle)
    return replace(
        mono, depth=depth, pixel_sigma=sigma, image_sigma=float(np.sqrt(variance)),
        # A view too far to be read has the chain's scale all the same.
        place_sigma=min(mono.place_sigma, carried.place_sigma),
        readings=replace(readings, off=readings.off - middle),
    )  # fmt: skip


def readings_of(mono: MonoDepth) -> ScaleReadings:
    """A keyframe that begins a chain has read its scale alone."""
    if mono.readings is not None:
        return mono.readings
    return ScaleReadings(np.zeros(1), np.array([mono.image_sigma]), np.zeros(1))


def settled(readings: ScaleReadings, correlation: float) -> tuple[float, float]:
    """(m, variance) of the log of the chain's scale, as above."""
    off, sigma = readings.off, readings.sigma
    since = np.cumsum(readings.link[::-1])[::-1] - readings.link  # of the links after each
    number = np.arange(len(off))
    later = np.maximum.outer(number, number)
    alike = min(max(correlation, 0.0), 0.99) ** np.abs(np.subtract.outer(number, number))
    middle, variance = float(np.median(off)), 0.0
    for _ in range(ROUNDS):
        wide = np.hypot(sigma, (off - middle) / CAUCHY)  # sigma / sqrt(w)
        C = alike * np.outer(wide, wide) + since[later]
        weights = np.linalg.solve(C, np.ones(len(off)))
        variance = 1.0 / float(weights.sum())
        middle = variance * float(weights @ off)
    apart = off - middle
    misfit = float(apart @ np.linalg.solve(C, apart)) / max(len(off) - 1, 1)
    return middle, variance * max(misfit, 1.0)
