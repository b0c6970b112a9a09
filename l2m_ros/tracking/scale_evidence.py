"""Where the metres come from besides a depth image: a right image, odometry, the floor, a network;
and the depth of two views whose poses are known.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from l2m_ros.geometry.camera import project, unproject
from l2m_ros.geometry.pose import NO_EVIDENCE
from l2m_ros.geometry.scale import Floor, ScaleEvidence
from l2m_ros.matching.matcher import Match
from l2m_ros.matching.mono_depth import MonoDepth
from l2m_ros.tracking.keyframes import Keyframe
from l2m_ros.tracking.odometry import OdometryStep
from l2m_ros.tracking.options import LEAST_HEIGHT_M, TrackerOptions
from l2m_ros.types import Camera, DenseMatch, FloatArray

MIN_CERTAINTY = 0.5
MAX_EPIPOLAR_PX = 1.5  # a match off the epipolar line by more is wrong
MIN_DISPARITY_PX = 0.5  # nearer to infinity than this, depth is noise
MAX_DEPTH_STEP = 1.1  # ratio between neighbouring cells beyond which an edge lies between them
SPLAT_PX = 5  # a sparse match tells the depth of this many pixels across


def scale_evidence(keyframe: Keyframe, step: OdometryStep | None) -> ScaleEvidence:
    """All that is known of the scale between a frame and its keyframe; step: the camera's."""
    evidence = ScaleEvidence()
    if keyframe.stereo is not None:
        found = keyframe.stereo
        evidence = ScaleEvidence(stereo_depth=found.depth_m, stereo_sigma_px=found.sigma_px)
    if step is not None:
        evidence = replace(evidence, odometry=step.a_from_b, odometry_covariance=step.covariance)
    return evidence if keyframe.mono_depth is None else read_off(keyframe.mono_depth, evidence)


def read_off(mono: MonoDepth, evidence: ScaleEvidence = NO_EVIDENCE) -> ScaleEvidence:
    """The evidence, and what a network reads off the keyframe."""
    return replace(
        evidence,
        mono_depth=mono.depth,
        mono_sigma=mono.pixel_sigma,
        mono_scale_sigma=mono.scale_sigma,
        mono_shift_sigma_m=mono.shift_sigma_m,
    )


def floor_below(options: TrackerOptions) -> Floor | None:
    """What a camera on wheels knows of the floor; None where it is carried otherwise."""
    base = options.base_from_camera
    if base is None or options.floor_below_base_m is None:
        return None
    height_m = float(base[2, 3]) + options.floor_below_base_m
    return Floor(np.asarray(base[2, :3]), height_m) if height_m > LEAST_HEIGHT_M else None


def depth_of_match(
    match: Match, left: Camera, right: Camera, right_from_left: FloatArray
) -> FloatArray:
    """(H, W) metres in the left image, NaN = unknown, of two views whose poses are known."""
    if not isinstance(match, DenseMatch):
        z = triangulate(match.query_px, match.keyframe_px, left, right, right_from_left)
        return _splat(match.query_px, z, left)
    warp = match.warp_px.reshape(-1, 2)
    z = triangulate(match.grid_px().reshape(-1, 2), warp, left, right, right_from_left)
    z = z.reshape(match.certainty.shape)
    z[match.certainty < MIN_CERTAINTY] = np.nan
    return _resized(_without_edges(z), left.size)


def triangulate(
    left_px: FloatArray,
    right_px: FloatArray,
    left: Camera,
    right: Camera,
    right_from_left: FloatArray,
) -> FloatArray:
    """Depth z of each left pixel: (z R a + t) x b = 0 in the least squares, a and b its rays."""
    a, b = unproject(left, left_px), unproject(right, right_px)
    R, t = right_from_left[:3, :3], right_from_left[:3, 3]
    turned, offset = np.cross(a @ R.T, b), np.cross(t, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = -(turned * offset).sum(axis=1) / (turned**2).sum(axis=1)
        seen = project(right, z[:, None] * a @ R.T + t)
        at_infinity = project(right, a @ R.T)
        off_px = np.linalg.norm(seen - right_px, axis=1)
        disparity_px = np.linalg.norm(at_infinity - right_px, axis=1)
        good = (z > 0) & (off_px < MAX_EPIPOLAR_PX) & (disparity_px > MIN_DISPARITY_PX)
    return np.where(good, z, np.nan)


def _without_edges(z: FloatArray) -> FloatArray:
    """Cells beside a depth step are forgotten: resizing would invent depths between."""
    known = np.isfinite(z)
    kernel = np.ones((3, 3), np.uint8)
    far = cv2.dilate(np.where(known, z, 0).astype(np.float32), kernel)
    near = cv2.erode(np.where(known, z, np.inf).astype(np.float32), kernel)
    return np.where(known & (far / MAX_DEPTH_STEP < near), z, np.nan)


def _resized(z: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Inverse depth is linear on planes, so that is what gets interpolated."""
    if z.shape == (size[1], size[0]):
        return z.astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = cv2.resize((1 / z).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(1 / inverse, dtype=np.float32)


def _splat(pixels: FloatArray, z: FloatArray, camera: Camera) -> FloatArray:
    depth = np.full((camera.height, camera.width), np.nan, np.float32)
    half = SPLAT_PX // 2
    known = np.isfinite(z)
    for (u, v), value in zip(np.rint(pixels[known]).astype(int), z[known], strict=True):
        depth[max(v - half, 0) : v + half + 1, max(u - half, 0) : u + half + 1] = value
    return depth
