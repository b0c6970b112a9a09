"""Matches as pairs of rays with their noise: what every estimator here works on.

coordinates   normalised, undistorted (x/z, y/z); arrays are (2, N) or (N,), one row a quantity,
              because NumPy is fastest on long contiguous rows
noise         the query's pixel is exact, the keyframe's errs: a dense matcher says where a
              grid point of the query lies in the keyframe. Sparse keypoints err in both; to
              first order that is the same error moved into one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros import compiled
from l2m_ros.geometry.camera import unproject
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.lens import jacobian
from l2m_ros.geometry.scale import Depths
from l2m_ros.types import Camera, Correspondences, FloatArray

Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
TEXTURED_PX = 1.5  # sigma by texture; residuals of matches beyond show their agreement only


@dataclass(frozen=True)
class Noise:
    """Factors on the variances that the matches, the depth and the texture came with."""

    match: float = 1.0
    depth: float = 1.0
    texture: float = 1.0


@dataclass(frozen=True, eq=False)
class RayPairs:
    """N matches, with depth where it is known."""

    query: FloatArray  # (2, N)
    keyframe: FloatArray  # (2, N)
    noise: FloatArray  # (3, N): xx, xy, yy of the keyframe's covariance at a variance factor of 1
    floor: FloatArray  # (3, N): covariance by the image's texture, which comes on top
    stretch: FloatArray  # (2, N): length of a pixel there over one on the axis, query and keyframe
    keyframe_m: FloatArray  # (N,) depth z, NaN = unknown
    keyframe_variance_factor: FloatArray  # (N,) of the depth noise's variance, see `Depths`
    query_m: FloatArray
    query_variance_factor: FloatArray
    slope: FloatArray  # (2, N) of the keyframe's depth: metres by normalised units
    bias_m: FloatArray  # (N,) of the keyframe's depth: one standard deviation of a common error
    depth_noise: DepthNoise = field(default_factory=DepthNoise)
    textured: Mask | None = None  # (N,) whose residuals show how exact the texture is
    depth_shared: float = 0.0  # of the depth noise's sigma, what a region's depths share

    def __len__(self) -> int:
        return int(self.query.shape[1])

    def covariance(self, noise: Noise) -> FloatArray:
        """(3, N): xx, xy, yy of the keyframe's pixel."""
        return noise.match * self.noise + noise.texture * self.floor

    def match_fraction(self, noise: Noise) -> FloatArray:
        """(N,) of that covariance, the matches' own part; the texture has the rest."""
        own = noise.match * (self.noise[0] + self.noise[2])
        return np.asarray(own / (own + noise.texture * (self.floor[0] + self.floor[2])))

    @cached_property
    def for_kernel(self) -> tuple[FloatArray, ...]:
        """What the compiled kernel reads, in its order."""
        textured = np.zeros(len(self)) if self.textured is None else self.textured
        d, array = self.depth_noise, compiled.array
        return (
            array(self.query),
            array(self.keyframe),
            array(self.noise),
            array(self.floor),
            array(textured),
            array(self.keyframe_m),
            array(self.keyframe_variance_factor),
            array(self.query_m),
            array(self.query_variance_factor),
            array(self.slope),
            array((d.constant_m, d.proportional, d.quadratic_per_m)),
        )

    def select(self, index: Index) -> RayPairs:
        """Those that the sorted `index` names."""
        if len(index) == len(self):
            return self
        return RayPairs(
            self.query[:, index],
            self.keyframe[:, index],
            self.noise[:, index],
            self.floor[:, index],
            self.stretch[:, index],
            self.keyframe_m[index],
            self.keyframe_variance_factor[index],
            self.query_m[index],
            self.query_variance_factor[index],
            self.slope[:, index],
            self.bias_m[index],
            self.depth_noise,
            None if self.textured is None else self.textured[index],
            self.depth_shared,
        )

    def blurred(self, variance: FloatArray) -> RayPairs:
        """With this variance (N,) on top of the keyframe's pixels, both axes."""
        zero = np.zeros(len(self))
        floor = self.floor + np.stack([variance, zero, variance])
        textured = None if self.textured is None else self.textured & (variance == 0.0)
        return replace(self, floor=floor, textured=textured)

    def with_depths(self, depths: Depths, keyframe: Camera) -> RayPairs:
        slope = np.zeros_like(self.query)
        if depths.keyframe_slope is not None:
            slope = depths.keyframe_slope * (focal_px(keyframe) / self.stretch[1])
        return RayPairs(
            self.query,
            self.keyframe,
            self.noise,
            self.floor,
            self.stretch,
            depths.keyframe_m,
            depths.keyframe_variance_factor,
            depths.query_m,
            depths.query_variance_factor,
            slope,
            np.nan_to_num(depths.bias.sigma_m(depths.keyframe_m)),
            depths.noise,
            self.textured,
            depths.shared,
        )


def ray_pairs(
    matches: Correspondences,
    query: Camera,
    keyframe: Camera,
    floor_px: FloatArray | None = None,
) -> RayPairs:
    """NaN where a lens sends no ray or the precision is no precision.

    floor_px: (3, N) covariance of the keyframe's pixels by its texture.
    """
    unknown = np.full(len(matches), np.nan)
    query_xy = unproject(query, matches.query_px)[:, :2]
    keyframe_xy = unproject(keyframe, matches.keyframe_px)[:, :2]
    return RayPairs(
        np.ascontiguousarray(query_xy.T),
        np.ascontiguousarray(keyframe_xy.T),
        _normalised(_covariance_px(matches.precision, len(matches)), keyframe, keyframe_xy),
        np.zeros((3, len(matches)))
        if floor_px is None
        else _normalised(floor_px, keyframe, keyframe_xy),
        np.stack([_stretch(query, query_xy), _stretch(keyframe, keyframe_xy)]),
        unknown,
        unknown,
        unknown,
        unknown,
        np.zeros((2, len(matches))),
        np.zeros(len(matches)),
        textured=None if floor_px is None else 0.5 * (floor_px[0] + floor_px[2]) < TEXTURED_PX**2,
    )


def kernel_matches(kernel: ModuleType, pairs: RayPairs) -> Any:
    """The arrays that the compiled kernel takes, as its `Matches`."""
    return kernel.Matches(*pairs.for_kernel)


def homogeneous(xy: FloatArray) -> FloatArray:
    """(2, N) -> (3, N)."""
    return np.concatenate([xy, np.ones((1, xy.shape[1]))])


def focal_px(camera: Camera) -> float:
    """What turns a small normalised length into pixels, on the optical axis."""
    return float(np.sqrt(camera.K[0, 0] * camera.K[1, 1]))


def _normalised(covariance_px: FloatArray, camera: Camera, xy: FloatArray) -> FloatArray:
    """(3, N) px^2 -> normalised units."""
    xx, xy_, yy = covariance_px
    a, b, c, d = _normalised_from_px(camera, xy)
    return np.stack(
        [
            a * a * xx + 2 * a * b * xy_ + b * b * yy,
            a * c * xx + (a * d + b * c) * xy_ + b * d * yy,
            c * c * xx + 2 * c * d * xy_ + d * d * yy,
        ]
    )


def _stretch(camera: Camera, xy: FloatArray) -> FloatArray:
    """(N,) 1 without a lens; a fisheye's normalised pixels grow with (r^2 + 1) towards its rim."""
    if camera.distortion == "none":
        return np.ones(len(xy))
    a, b, c, d = _normalised_from_px(camera, xy)
    return np.asarray(focal_px(camera) * np.sqrt(np.abs(a * d - b * c)))


def _covariance_px(precision: FloatArray | None, n: int) -> FloatArray:
    """(3, N); 1 px isotropic where the matcher says nothing."""
    if precision is None:
        return np.stack([np.ones(n), np.zeros(n), np.ones(n)])
    a, b, d = precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        det = a * d - b * b
        det = np.where((det > 0) & (a > 0), det, np.nan)
        return np.stack([d / det, -b / det, a / det])


def _normalised_from_px(
    camera: Camera, xy: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """The four entries of d(normalised) / d(pixel) at each ray."""
    J = camera.K[:2, :2]
    if camera.distortion != "none":
        J = J @ jacobian(camera, xy)  # (N, 2, 2)
    J = np.where(np.isfinite(J), J, np.eye(2))
    a, b, c, d = np.broadcast_to(J.reshape(-1, 4), (len(xy), 4)).T
    determinant = a * d - b * c
    return d / determinant, -b / determinant, -c / determinant, a / determinant
