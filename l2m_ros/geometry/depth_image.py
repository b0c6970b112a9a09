"""What a depth image says between its pixels, and how noisy it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.late_depth import carried_back, seen_late
from l2m_ros.types import FloatArray, Frame

EDGE_RATIO = 0.03  # neighbours that differ by more than this and the noise lie on two surfaces
EDGE_SIGMAS = 4.0
SLOPE_PX = 4  # baseline of a slope: noise divides by it, a surface's bend does not show yet
SLOPE_SIGMAS = 4.0  # the difference of two pixels has 1.4


@dataclass(frozen=True)
class DepthNoise:
    """sigma_z = constant_m + proportional z + quadratic_per_m z^2, one standard deviation.

    The defaults are those of an active stereo or structured light camera indoors (2 cm at 3 m).
    """

    constant_m: float = 0.002
    quadratic_per_m: float = 0.002
    proportional: float = 0.0

    def __post_init__(self) -> None:
        parts = (self.constant_m, self.quadratic_per_m, self.proportional)
        if not all(part >= 0 for part in parts):  # NaN is not
            raise InvalidInput(f"depth noise must not be negative, got {self}")

    def sigma_m(self, depth_m: FloatArray) -> FloatArray:
        slope = self.proportional + self.quadratic_per_m * depth_m
        return np.asarray(self.constant_m + slope * depth_m)


NO_NOISE = DepthNoise(0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Surface:
    """A depth image at subpixel positions."""

    z_m: FloatArray  # (N,) NaN = unknown
    variance_factor: FloatArray  # (N,) of one pixel's noise variance that is left
    slope: FloatArray  # (2, N) metres per pixel to the right, and down; 0 where noise hides it


def sample_late(
    frame: Frame, pixels: FloatArray, noise: DepthNoise, turned: FloatArray | None
) -> Surface:
    """`sample_surface` of a frame whose depth was taken at another moment: see `late_depth`."""
    if turned is None:
        return sample_surface(frame.depth, pixels, noise)
    there = seen_late(frame.camera, pixels, turned)
    surface = sample_surface(frame.depth, there, noise)
    z_m = carried_back(frame.camera, there, surface.z_m, turned)
    return replace(surface, z_m=z_m)


def sample_surface(depth: FloatArray | None, pixels: FloatArray, noise: DepthNoise) -> Surface:
    """Depth at subpixel positions.

    NaN outside of the image, beside NaN and across edges.

    z is interpolated, not 1/z: a plane bends z by less than 1e-4 of it between two pixels, while
    the mean of noisy 1/z is biased by (sigma / z)^2, 1e-3 at 3 % noise. The noise of neighbouring
    pixels is taken as independent; where it is not, the residuals tell (`independent_fraction`).
    """
    if depth is None:
        return Surface(*unknown(len(pixels)), np.zeros((2, len(pixels))))
    height, width = depth.shape
    u, v = pixels[:, 0], pixels[:, 1]
    inside = (u >= 0) & (v >= 0) & (u <= width - 1) & (v <= height - 1)
    column = np.clip(u, 0, width - 1.001).astype(np.intp)
    row = np.clip(v, 0, height - 1.001).astype(np.intp)
    first = row * width + column
    right, below = int(width > 1), width * int(height > 1)
    corners = first + np.array([[0], [right], [below], [right + below]])  # (4, N)
    z = depth.ravel()[corners].astype(np.float64)
    a, b = u - column, v - row
    weights = np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b])
    near, far = z.min(axis=0), z.max(axis=0)
    with np.errstate(invalid="ignore"):
        sampled = (weights * z).sum(axis=0)
        sigma_m = noise.sigma_m(sampled)
        good = inside & (far - near <= EDGE_RATIO * near + EDGE_SIGMAS * sigma_m)
    slope = _slope(depth, pixels, sampled, sigma_m)
    return Surface(np.where(good, sampled, np.nan), (weights * weights).sum(axis=0), slope)


def _slope(
    depth: FloatArray, pixels: FloatArray, z_m: FloatArray, sigma_m: FloatArray
) -> FloatArray:
    """(2, N) metres per pixel, from the pixels SLOPE_PX to either side.

    0 where one of them is unknown or on another surface, and where noise hides the slope.
    """
    height, width = depth.shape
    column = np.clip(np.rint(pixels[:, 0]), 0, width - 1).astype(np.intp)
    row = np.clip(np.rint(pixels[:, 1]), 0, height - 1).astype(np.intp)
    slopes, flat = [], depth.ravel()
    axes = ((pixels[:, 0], column, width - 1, 1), (pixels[:, 1], row, height - 1, width))
    for at, place, last, stride in axes:
        low, high = np.maximum(place - SLOPE_PX, 0), np.minimum(place + SLOPE_PX, last)
        here = row * width + column - place * stride
        before, after = flat[here + low * stride], flat[here + high * stride]
        span = np.maximum(high - low, 1)
        slope = (after - before) / span
        with np.errstate(invalid="ignore"):
            bend_m = 2.0 * np.abs(z_m - before - slope * (at - low))
            seen = np.abs(slope) * span > SLOPE_SIGMAS * sigma_m
            seen &= bend_m <= EDGE_RATIO * z_m + EDGE_SIGMAS * sigma_m
        slopes.append(np.where(seen, slope, 0.0))
    return np.stack(slopes)


def nearest(image: FloatArray, pixels: FloatArray) -> FloatArray:
    """(N,) at the nearest pixel."""
    height, width = image.shape
    u, v = np.rint(pixels).astype(np.intp).T
    return image[v.clip(0, height - 1), u.clip(0, width - 1)].astype(np.float64)


def unknown(n: int) -> tuple[FloatArray, FloatArray]:
    """(depth, variance factor) of n pixels without depth."""
    return np.full(n, np.nan), np.full(n, np.nan)
