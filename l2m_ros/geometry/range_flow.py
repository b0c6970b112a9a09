"""How a depth camera moved from one image to the next, by their ranges alone.

A pixel's depth z of a surface that stands changes as the camera moves by (V, w):

    dz = -(n V + (p x n) w)        n = (-f dz/du, -f dz/dv, z + u dz/du + v dz/dv) / z, p its point

One step from "no motion", so ways of a few centimetres and turns of a few degrees are seen, and
larger ones are seen as large. Along a flat wall nothing is seen; there the answer is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from l2m_ros.types import Camera, FloatArray

ACROSS = 160  # samples of a depth image
MIN_SAMPLES = 300
STEEP = 0.03  # of the depth from one sample to the next: more is an edge
NOISE, NOISE_PER_M = 0.005, 0.005  # metres, and metres a squared metre
SHARED = 20.0  # samples that err alike
USUAL_M, USUAL_RAD = 0.05, 0.05  # motion that is expected where nothing is seen
ROUNDS = 5
LEAST_SPREAD = 0.3  # of the noise: residuals of fewer are not weighed against each other


@dataclass(frozen=True, eq=False)
class RangeFlow:
    """Of one depth image against an earlier one."""

    moved_m: float
    turned_rad: float
    shift_px: float  # by which it moves the image, median
    changed: float  # median change of depth over its noise ...
    left: float  # ... and what the motion leaves of it


def range_flow(before: FloatArray, now: FloatArray, camera: Camera) -> RangeFlow | None:
    """before, now: (H, W) metres, NaN = unknown. None where too little is known of both."""
    step = max(1, before.shape[1] // ACROSS)
    a, b = (_thinned(depth, step) for depth in (before, now))
    z = 0.5 * (a + b)
    z_v, z_u = np.gradient(z)
    known = cv2.erode(((a > 0) & (b > 0)).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    flat = known & (np.maximum(np.abs(z_u), np.abs(z_v)) < STEEP * z)
    if np.count_nonzero(flat) < MIN_SAMPLES:
        return None
    row, column = np.nonzero(flat)
    u, v = column - camera.K[0, 2] / step, row - camera.K[1, 2] / step
    noise = NOISE + NOISE_PER_M * z[flat] ** 2
    dz, J = (b - a)[flat] / noise, _jacobian(z[flat], z_u[flat], z_v[flat], u, v, camera, step)
    motion, left = _solved(dz, J / noise[:, None])
    return RangeFlow(
        moved_m=float(np.linalg.norm(motion[:3])),
        turned_rad=float(np.linalg.norm(motion[3:])),
        shift_px=step * _shift(motion, z[flat], u, v, camera, step),
        changed=float(np.median(np.abs(dz))),
        left=float(np.median(np.abs(left))),
    )


def _shift(
    motion: FloatArray, z: FloatArray, u: FloatArray, v: FloatArray, camera: Camera, step: int
) -> float:
    """Median way of a sample across the image, in samples."""
    f = np.array([camera.K[0, 0], camera.K[1, 1]]) / step
    rays = np.column_stack([u / f[0], v / f[1], np.ones(len(z))])
    speed = -(motion[:3] / z[:, None] + np.cross(motion[3:], rays))
    across = f * (speed[:, :2] - rays[:, :2] * speed[:, 2:])
    return float(np.median(np.hypot(across[:, 0], across[:, 1])))


def _jacobian(
    z: FloatArray,
    z_u: FloatArray,
    z_v: FloatArray,
    u: FloatArray,
    v: FloatArray,
    camera: Camera,
    step: int,
) -> FloatArray:
    """(N, 6) change of depth by the camera's way and turn."""
    fx, fy = camera.K[0, 0] / step, camera.K[1, 1] / step
    p = np.column_stack([u * z / fx, v * z / fy, z])
    n = np.column_stack([-fx * z_u / z, -fy * z_v / z, 1.0 + (u * z_u + v * z_v) / z])
    return -np.column_stack([n, np.cross(p, n)])


def _solved(dz: FloatArray, J: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(6,) motion, and (N,) what it leaves; samples that do not agree have little weight."""
    prior = np.diag(1.0 / np.array([USUAL_M] * 3 + [USUAL_RAD] * 3) ** 2)
    weight = np.ones(len(dz))
    for _ in range(ROUNDS):
        weighed = J * (weight / SHARED)[:, None]
        motion = np.linalg.solve(weighed.T @ J + prior, weighed.T @ dz)
        left = dz - J @ motion
        spread = max(1.4826 * float(np.median(np.abs(left))), LEAST_SPREAD)
        weight = 1.0 / (1.0 + (left / (2.0 * spread)) ** 2) ** 2
    return np.asarray(motion), left


def _thinned(depth: FloatArray, step: int) -> FloatArray:
    """0 = unknown."""
    some = np.nan_to_num(depth[::step, ::step], posinf=0.0)
    return cv2.medianBlur(np.ascontiguousarray(some, np.float32), 5).astype(np.float64)
