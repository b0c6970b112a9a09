"""Odometry that drifts, and says by how much.

The true motion of the base between two frames, rho (3,) and rotation vector phi (3,) in base
axes over a distance d and an angle a, is measured as

    rho' = (1 + s) rho + n_rho      s ~ N(0, scale_sigma^2), one value for a whole run
    phi' = phi + n_phi              n_rho ~ N(0, translation_m_per_sqrt_m^2 d)
                                    n_phi ~ N(0, rotation_rad_per_sqrt_m^2 d
                                                 + rotation_rad_per_sqrt_rad^2 a)

and chained. A wheeled base errs in x, y and yaw only. The covariance is that of the position
error and of the rotation error about the odom frame's fixed axes (R' = exp(error) R), as
nav_msgs/Odometry has it; the unknown scale is carried along as a seventh state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray

PLANAR = np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
MINIMUM_VARIANCE = 1e-10  # keeps a covariance of a planar robot positive definite


@dataclass(frozen=True)
class OdometryNoise:
    scale_sigma: float = 0.01
    translation_m_per_sqrt_m: float = 0.01
    rotation_rad_per_sqrt_m: float = 0.005
    rotation_rad_per_sqrt_rad: float = 0.01


class Odometer:
    """Chains noisy increments; `update` takes the next true pose of the base."""

    def __init__(self, rng: np.random.Generator, noise: OdometryNoise, *, planar: bool) -> None:
        self._rng, self._noise = rng, noise
        self._axes = PLANAR if planar else np.ones(6)
        self._scale = 1.0 + noise.scale_sigma * rng.standard_normal()
        self._world_from_base: FloatArray | None = None
        self.odom_from_base = np.eye(4)
        self._P = np.zeros((7, 7))
        self._P[6, 6] = noise.scale_sigma**2

    @property
    def covariance(self) -> FloatArray:
        """6x6, order x, y, z, rot x, rot y, rot z."""
        return self._P[:6, :6] + MINIMUM_VARIANCE * np.eye(6)

    def update(self, world_from_base: FloatArray) -> None:
        """The odom frame is where the base was at the first update."""
        if self._world_from_base is not None:
            self._advance(se3.inverse(self._world_from_base) @ world_from_base)
        self._world_from_base = world_from_base

    def _advance(self, step: FloatArray) -> None:
        phi = se3.rotation_log(step[:3, :3])
        sigma = self._sigma(float(np.linalg.norm(step[:3, 3])), float(np.linalg.norm(phi)))
        noise = sigma * self._rng.standard_normal(6)
        rho = self._scale * step[:3, 3] + noise[:3]
        R = self.odom_from_base[:3, :3]
        self._propagate(R, rho, sigma)
        measured = np.eye(4)
        measured[:3, :3] = se3.rotation(phi + noise[3:])
        measured[:3, 3] = rho
        self.odom_from_base = self.odom_from_base @ measured

    def _sigma(self, distance_m: float, angle_rad: float) -> FloatArray:
        n = self._noise
        translation = n.translation_m_per_sqrt_m * np.sqrt(distance_m)
        rotation = np.sqrt(
            n.rotation_rad_per_sqrt_m**2 * distance_m + n.rotation_rad_per_sqrt_rad**2 * angle_rad
        )
        return self._axes * np.repeat([translation, rotation], 3)

    def _propagate(self, R: FloatArray, rho: FloatArray, sigma: FloatArray) -> None:
        """Errors (p, t, s): p' = p + t x R rho + s R rho + R n_rho, t' = t + R n_phi."""
        x, y, z = R @ rho
        F = np.eye(7)
        F[:3, 3:6] = [[0, z, -y], [-z, 0, x], [y, -x, 0]]
        F[:3, 6] = x, y, z
        self._P = F @ self._P @ F.T
        self._P[:3, :3] += (R * sigma[:3] ** 2) @ R.T
        self._P[3:6, 3:6] += (R * sigma[3:] ** 2) @ R.T
