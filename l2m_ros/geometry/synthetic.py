"""Matches with known truth: what the tests and benchmarks of this room stand on.

A smooth surface over the keyframe's image, seen from a second place. Noise is exactly what
`rays.py` assumes unless a `World` says otherwise: the query's pixel is exact, the keyframe's errs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project, unproject
from l2m_ros.geometry.depth_image import NO_NOISE, DepthNoise
from l2m_ros.types import Camera, Correspondences, FloatArray, Frame

PINHOLE = Camera(640, 480, np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]]))
FISHEYE = Camera(
    640,
    480,
    np.array([[250.0, 0, 319.5], [0, 250.0, 239.5], [0, 0, 1]]),
    "equidistant",
    np.array([-0.02, 0.008, -0.006, 0.001]),
)
SMALL = PINHOLE.resized(160, 120)  # where a rendered depth image must be cheap


@dataclass(frozen=True, eq=False)
class World:
    """How the matches of one trial are made."""

    name: str
    motion: tuple[float, ...] = (0.3, 0.05, 0.1, 0.05, -0.1, 0.02)  # keyframe_from_camera, exp of
    surface: str = "hills"  # hills (1.5 to 6 m) | plane (slanted) | wall (all at 3 m)
    camera: Camera = PINHOLE
    matches: int = 1000
    outliers: float = 0.0  # fraction of the matches
    sigma_px: float = 0.7
    correlation_px: float = 0.0  # > 0: the matches' errors are smooth over this length
    tails: float = 0.0  # > 0: Student's t with so many degrees of freedom
    keyframe_depth: bool = True
    query_depth: bool = False
    depth_noise: DepthNoise = field(default_factory=lambda: NO_NOISE)

    @property
    def keyframe_from_camera(self) -> FloatArray:
        return se3.exp(np.array(self.motion))


@dataclass(frozen=True, eq=False)
class Trial:
    """Input of `estimate_pose` and its truth."""

    matches: Correspondences
    query: Frame
    keyframe: Frame
    keyframe_from_camera: FloatArray
    inlier: npt.NDArray[np.bool_]  # (N,)
    keyframe_px: FloatArray  # (N, 2) without noise
    depth_m: FloatArray  # (N,) in the keyframe, without noise


def trial(world: World, seed: int) -> Trial:
    rng = np.random.default_rng(seed)
    T = world.keyframe_from_camera
    keyframe_px, query_px, depth_m = _visible(world, T, rng)
    n = len(keyframe_px)
    seen_px = keyframe_px + _match_errors(world, keyframe_px, rng)
    inlier = np.ones(n, dtype=np.bool_)
    inlier[: round(world.outliers * n)] = False
    size = np.array(world.camera.size)
    seen_px[~inlier] = rng.uniform(0, 1, (int((~inlier).sum()), 2)) * (size - 1)
    seen_px = np.clip(seen_px, 0, size - 1.0)
    keyframe = _frame(world, keyframe_depth(world) if world.keyframe_depth else None, rng)
    query = _frame(world, query_depth(world) if world.query_depth else None, rng)
    matches = Correspondences(query_px, seen_px, np.ones(n))
    return Trial(matches, query, keyframe, T, inlier, keyframe_px, depth_m)


def surface_m(world: World, pixels: FloatArray) -> FloatArray:
    """Depth z of the surface at keyframe pixels (N, 2)."""
    x, y = (pixels / np.array(world.camera.size) - 0.5).T
    if world.surface == "wall":
        return np.full(len(pixels), 3.0)
    if world.surface == "plane":
        return np.asarray(1.0 / (0.35 + 0.25 * x - 0.15 * y))
    return np.asarray(
        1.0 / (0.38 + 0.18 * np.sin(7 * x + 1) * np.cos(6 * y) + 0.08 * np.sin(9 * y))
    )


@lru_cache(maxsize=8)
def keyframe_depth(world: World) -> FloatArray:
    u, v = np.meshgrid(np.arange(world.camera.width), np.arange(world.camera.height))
    pixels = np.stack([u.ravel(), v.ravel()], axis=1).astype(np.float64)
    return surface_m(world, pixels).reshape(u.shape)


@lru_cache(maxsize=8)
def query_depth(world: World) -> FloatArray:
    """The same surface from the query: each ray is followed until it meets it."""
    camera, T = world.camera, world.keyframe_from_camera
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    ray = unproject(camera, np.stack([u.ravel(), v.ravel()], axis=1)) @ T[:3, :3].T
    z = np.full(len(ray), 3.0)
    for _ in range(40):
        X = z[:, None] * ray + T[:3, 3]
        # The surface is z = s(pixel): move along the ray by what is missing in depth.
        z = z + 0.7 * (surface_m(world, project(camera, X)) - X[:, 2]) / ray[:, 2]
    X = z[:, None] * ray + T[:3, 3]
    off = np.abs(surface_m(world, project(camera, X)) - X[:, 2])
    return np.where(off < 1e-6, z, np.nan).reshape(u.shape)


def _visible(
    world: World, T: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(keyframe_px, query_px, depth) of matches inside both images."""
    camera, size = world.camera, np.array(world.camera.size)
    pixels = rng.uniform(4, size - 5, (8 * world.matches, 2))
    z = surface_m(world, pixels)
    Y = (unproject(camera, pixels) * z[:, None] - T[:3, 3]) @ T[:3, :3]
    query_px = project(camera, Y)
    with np.errstate(invalid="ignore"):
        inside = ((query_px > 2) & (query_px < size - 3)).all(axis=1)
    kept = np.flatnonzero(inside)[: world.matches]
    return pixels[kept], query_px[kept], z[kept]


def _match_errors(world: World, pixels: FloatArray, rng: np.random.Generator) -> FloatArray:
    n = len(pixels)
    if world.correlation_px > 0:
        return world.sigma_px * _smooth_field(pixels, world.correlation_px, rng)
    if world.tails > 0:
        return world.sigma_px * rng.standard_t(world.tails, (n, 2))
    return rng.normal(0, world.sigma_px, (n, 2))


def _smooth_field(pixels: FloatArray, length_px: float, rng: np.random.Generator) -> FloatArray:
    """(N, 2) unit variance, correlation exp(-d^2 / (2 length^2)), by random waves."""
    waves = 400
    k = rng.normal(0, 1 / length_px, (waves, 2))
    phase = rng.uniform(0, 2 * np.pi, (2, waves))
    angle = pixels @ k.T
    fields = [np.cos(angle + p).sum(axis=1) * np.sqrt(2 / waves) for p in phase]
    return np.stack(fields, axis=1)


def _frame(world: World, depth: FloatArray | None, rng: np.random.Generator) -> Frame:
    camera = world.camera
    if depth is not None:
        depth = depth + world.depth_noise.sigma_m(depth) * rng.normal(size=depth.shape)
    return Frame(np.zeros((camera.height, camera.width, 3), np.uint8), camera, depth)
