"""What real cameras do to a picture; everything is off by default and switched one by one.

exposure   the brightness drifts by up to exposure_drift_ev stops (auto exposure)
blur       the shutter is open for exposure_s: the picture is averaged along the motion
noise      shot and read noise of the sensor
lens       radial and tangential distortion (the picture is rendered through it exactly)
depth      holes at edges and at grazing or dark surfaces, sigma_z = a + b z^2, disparity steps
drops      frames that never arrive
movers     objects that move through the scene
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project
from l2m_ros.spelling import nearest
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.simulation.canvas import GAMMA
from l2m_ros.workshop.simulation.optics import pixel_rays
from l2m_ros.workshop.simulation.render import Rendering

BLUR_SAMPLES = 9
MAX_BLUR_PX = 60.0
DISPARITY_FB_PX_M = 525.0 * 0.075  # focal length times baseline of a common depth camera


@dataclass(frozen=True)
class Faults:
    """Sizes of the faults; 0 or "none" switches one off."""

    exposure_drift_ev: float = 0.0
    exposure_s: float = 0.0
    read_noise: float = 0.0  # in values of an 8-bit image
    shot_noise: float = 0.0  # variance per value
    distortion: str = "none"
    D: tuple[float, ...] = ()
    depth_noise_a_m: float = 0.0
    depth_noise_b_per_m: float = 0.0
    depth_step_px: float = 0.0  # of disparity
    depth_holes: float = 0.0  # share of the picture lost in patches; edges are lost besides
    depth_range_m: float = np.inf
    drop_share: float = 0.0
    moving_objects: bool = False

    def __post_init__(self) -> None:
        for name in ("drop_share", "depth_holes"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InvalidInput(f"{name} must lie in [0, 1), got {getattr(self, name):g}")
        sizes = (
            "exposure_drift_ev",
            "exposure_s",
            "read_noise",
            "shot_noise",
            "depth_noise_a_m",
            "depth_noise_b_per_m",
            "depth_step_px",
        )
        for name in sizes:
            if not 0.0 <= getattr(self, name) < np.inf:
                raise InvalidInput(f"{name} must not be negative, got {getattr(self, name):g}")

    @classmethod
    def named(cls, names: Iterable[str]) -> Faults:
        """The usual size of each fault named; `all` names every one."""
        faults = cls()
        for name in names:
            if name == "all":
                return cls.named(USUAL)
            if name not in USUAL:
                raise InvalidInput(
                    f"unknown fault {name!r}; there are {', '.join(USUAL)}{nearest(name, USUAL)}"
                )
            faults = replace(faults, **USUAL[name])
        return faults

    def lens(self) -> tuple[str, FloatArray]:
        return self.distortion, np.asarray(self.D, float)


USUAL: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "exposure": {"exposure_drift_ev": 0.7},
        "blur": {"exposure_s": 0.02},
        "noise": {"read_noise": 1.5, "shot_noise": 0.03},
        "lens": {"distortion": "plumb_bob", "D": (-0.28, 0.09, 0.0006, -0.0004, -0.012)},
        "depth": {
            "depth_noise_a_m": 0.001,
            "depth_noise_b_per_m": 0.002,
            "depth_step_px": 0.125,
            "depth_holes": 0.02,
            "depth_range_m": 8.0,
        },
        "drops": {"drop_share": 0.1},
        "movers": {"moving_objects": True},
    }
)


class Imperfections:
    """Applies the faults to one run's frames, in order, from one random stream."""

    def __init__(self, faults: Faults, rng: np.random.Generator, frames: int) -> None:
        self.faults, self._rng = faults, rng
        self.dropped = rng.random(frames) < faults.drop_share
        self.dropped[0] = False
        phase = rng.uniform(0, 2 * np.pi, 3)
        cycles = np.arange(frames)[:, None] / np.array([47.0, 90.0, 173.0])
        self._ev = faults.exposure_drift_ev * np.sin(2 * np.pi * cycles + phase).mean(axis=1)

    def image(self, clean: Rendering, camera: Camera, around: FloatArray, index: int) -> ByteArray:
        """Blur, then exposure, then noise, as light meets them; around (2, 4, 4) = the poses
        at the opening and the closing of the shutter."""
        rgb = clean.rgb
        if self.faults.exposure_s > 0:
            rgb = _blurred(rgb, _image_motion(clean, camera, around))
        if self.faults.exposure_drift_ev > 0:
            gain = 2.0 ** (self._ev[index] / GAMMA)
            rgb = cv2.LUT(rgb, np.clip(np.arange(256) * gain, 0, 255).round().astype(np.uint8))
        if self.faults.read_noise > 0 or self.faults.shot_noise > 0:
            rgb = self._noisy(rgb)
        return rgb

    def _noisy(self, rgb: ByteArray) -> ByteArray:
        value = np.arange(256)
        sigma = np.sqrt(self.faults.read_noise**2 + self.faults.shot_noise * value)
        noise = self._rng.standard_normal(rgb.shape, dtype=np.float32)
        noisy = rgb + noise * sigma.astype(np.float32)[rgb]
        return np.clip(noisy + 0.5, 0, 255).astype(np.uint8)

    def depth(self, clean: Rendering) -> FloatArray:
        """What a depth camera makes of the exact depth: (H, W) float32 metres, NaN = unknown."""
        z, faults = clean.depth_m, self.faults
        sigma = faults.depth_noise_a_m + faults.depth_noise_b_per_m * z**2
        if faults.depth_noise_a_m > 0 or faults.depth_noise_b_per_m > 0:
            z = z + sigma * self._rng.standard_normal(z.shape, dtype=np.float32)
        if faults.depth_step_px > 0:
            steps = DISPARITY_FB_PX_M / faults.depth_step_px
            with np.errstate(divide="ignore", invalid="ignore"):
                z = steps / np.round(steps / z)
        if faults.depth_holes > 0:
            z = np.where(self._holes(clean), np.float32(np.nan), z)
        with np.errstate(invalid="ignore"):
            return np.where((z > 0) & (z < faults.depth_range_m), z, np.nan).astype(np.float32)

    def _holes(self, clean: Rendering) -> FloatArray:
        """Two pixels round depth edges, dark surfaces, and drifting patches."""
        z = np.where(np.isfinite(clean.depth_m), clean.depth_m, 1e3)
        near = cv2.erode(z, np.ones((5, 5)))
        edge = z - near > 0.04 * near
        h, w = z.shape
        coarse = self._rng.standard_normal((h // 24 + 3, w // 24 + 3), dtype=np.float32)
        patches = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
        dark = clean.rgb.max(axis=2) < 14
        return edge | dark | (patches > np.quantile(patches, 1 - self.faults.depth_holes))


def _image_motion(clean: Rendering, camera: Camera, around: FloatArray) -> FloatArray:
    """(H, W, 2) pixels that each point of the static scene travels while the shutter is open.

    Computed for every second pixel: nobody can tell in what is blurred anyway.
    """
    depth = clean.depth_m[::2, ::2]
    depth = np.where(np.isfinite(depth), depth, 1e3)  # the sky
    middle = _midpoint(around)
    points = (pixel_rays(camera).rays[::2, ::2] * depth[..., None]).reshape(-1, 3)
    ends = []
    for world_from_camera in around:
        T = se3.inverse(world_from_camera) @ middle
        ends.append(project(camera, points @ T[:3, :3].T + T[:3, 3]))
    motion = np.nan_to_num(ends[1] - ends[0]).reshape(*depth.shape, 2)
    motion = np.clip(motion, -MAX_BLUR_PX, MAX_BLUR_PX).astype(np.float32)
    return cv2.resize(motion, camera.size, interpolation=cv2.INTER_NEAREST)


def _midpoint(around: FloatArray) -> FloatArray:
    """The pose half-way: the exposure is short, so the mean rotation is exact enough."""
    middle = around.mean(axis=0)
    U, _, Vt = np.linalg.svd(middle[:3, :3])
    middle[:3, :3] = U @ Vt
    return middle


def _blurred(rgb: ByteArray, motion: FloatArray) -> ByteArray:
    """The mean of the picture at BLUR_SAMPLES places along each pixel's motion."""
    h, w = rgb.shape[:2]
    u, v = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    total = np.zeros(rgb.shape, np.float32)
    for share in np.linspace(-0.5, 0.5, BLUR_SAMPLES, dtype=np.float32):
        moved = cv2.remap(
            rgb,
            u + share * motion[..., 0],
            v + share * motion[..., 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.accumulate(moved, total)
    return np.round(total / BLUR_SAMPLES).astype(np.uint8)
