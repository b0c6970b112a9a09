"""Light, computed once: ambient occlusion and soft shadows by ray casting, baked in textures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.raycast import Raycaster
from l2m_ros.workshop.simulation.surfaces import Leaves, Sheet, Surface, crossed

LAMP_RAYS = 9  # at most: one of each ninth of it
TEXELS_PER_LUMEL = 10.0  # at least: what is far away has coarse textures and coarser shadows
MAX_LUMELS = 256
LIFT_M = 2e-3  # rays start this far in front of their surface


@dataclass(frozen=True)
class Lamp:
    """A glowing rectangle (corner, two edges); power = light on white at 1 m, face on."""

    corner: Sequence[float]
    u: Sequence[float]
    v: Sequence[float]
    power: float
    colour: Sequence[float] = (1.0, 0.96, 0.88)


@dataclass(frozen=True)
class Sun:
    towards: Sequence[float]
    power: float = 0.75
    colour: Sequence[float] = (1.0, 0.95, 0.85)
    softness: float = 0.02  # radius of its disc, in radians


@dataclass(frozen=True)
class Lighting:
    """Irradiance is in units of `1 = a white sheet looks white`."""

    ambient: float
    reach_m: float  # how far a neighbour darkens: short indoors, where walls reflect
    ambient_colour: Sequence[float] = (0.97, 0.98, 1.0)
    lamps: Sequence[Lamp] = ()
    suns: Sequence[Sun] = field(default_factory=tuple)
    ambient_rays: int = 24
    lamp_rays: int = LAMP_RAYS
    lumels_per_m: float = 14.0  # shadow detail: 7 cm


def bake(
    surfaces: Sequence[Surface], lighting: Lighting, caster: Raycaster, rng: np.random.Generator
) -> list[FloatArray]:
    """For each sheet the light (rows, columns, 3) on it; for leaves (N, 3), one a leaf."""
    points = [_lumels(surface, lighting.lumels_per_m) for surface in surfaces]
    place = np.concatenate([p.reshape(-1, 3) for p, _ in points])
    normal = np.concatenate([n.reshape(-1, 3) for _, n in points])
    light = _irradiance(place + LIFT_M * normal, normal, lighting, caster, rng)
    baked, start = [], 0
    for surface, (p, _) in zip(surfaces, points, strict=True):
        count = p.size // 3
        share = light[start : start + count].reshape(p.shape) + np.float32(surface.glow)
        baked.append(cv2.blur(share, (3, 3)) if isinstance(surface, Sheet) else share)
        start += count
    return baked


def _lumels(surface: Surface, lumels_per_m: float) -> tuple[FloatArray, FloatArray]:
    """Points and unit normals where the light is computed."""
    if isinstance(surface, Leaves):
        first = surface.corners[: len(surface.corners) // 2]
        centre = first.mean(axis=1)
        edges = first[:, 1:] - first[:, :1]
        normal = np.cross(edges[:, 0], edges[:, 1])
        normal *= np.where(normal[:, 2:] < 0, -1.0, 1.0)  # the sky lights a leaf from above
        return centre, normal / np.linalg.norm(normal, axis=1, keepdims=True)
    width_m, height_m = surface.size_m
    density = min(lumels_per_m, surface.texels_per_m / TEXELS_PER_LUMEL)
    columns = int(np.clip(np.ceil(width_m * density), 2, MAX_LUMELS))
    rows = int(np.clip(np.ceil(height_m * density), 2, MAX_LUMELS))
    grid = np.asarray(surface.vertices, np.float32)
    normal = crossed(_steps(grid, 0), _steps(grid, 1))
    u = (np.arange(columns, dtype=np.float32) + 0.5) / columns * (grid.shape[1] - 1)
    v = (np.arange(rows, dtype=np.float32) + 0.5) / rows * (grid.shape[0] - 1)
    at = np.empty((2, rows, columns), np.float32)
    at[0], at[1] = u, v[:, None]
    place, normal = (cv2.remap(g, *at, cv2.INTER_LINEAR) for g in (grid, normal))
    length = np.sqrt((normal * normal).sum(axis=2, keepdims=True))
    return place, normal / np.maximum(length, 1e-12)


def _steps(grid: FloatArray, axis: int) -> FloatArray:
    """np.gradient; at once for a sheet of two vertices a side, as most are."""
    if grid.shape[axis] > 2:
        return np.asarray(np.gradient(grid, axis=axis))
    return np.repeat(np.diff(grid, axis=axis), 2, axis=axis)


def _irradiance(
    place: FloatArray,
    normal: FloatArray,
    lighting: Lighting,
    caster: Raycaster,
    rng: np.random.Generator,
) -> FloatArray:
    open_sky = np.zeros(len(place), np.float32)
    for _ in range(lighting.ambient_rays):
        sphere = rng.standard_normal(place.shape, dtype=np.float32)
        sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
        direction = normal + 0.999 * sphere  # cosine-weighted over the hemisphere
        far = caster.distances(place, direction) * np.linalg.norm(direction, axis=1)
        open_sky += np.minimum(far / lighting.reach_m, 1.0)
    ambient = (lighting.ambient / lighting.ambient_rays) * open_sky
    light = ambient[:, None] * np.asarray(lighting.ambient_colour, np.float32)
    for lamp in lighting.lamps:
        light += _lamp_light(place, normal, lamp, lighting.lamp_rays, caster, rng)
    for sun in lighting.suns:
        light += _sun_light(place, normal, sun, lighting.lamp_rays, caster, rng)
    return light.astype(np.float32)


def _lamp_light(
    place: FloatArray,
    normal: FloatArray,
    lamp: Lamp,
    rays: int,
    caster: Raycaster,
    rng: np.random.Generator,
) -> FloatArray:
    corner, u, v = (np.asarray(vector, float) for vector in (lamp.corner, lamp.u, lamp.v))
    shines = np.cross(v, u) / np.linalg.norm(np.cross(v, u))
    total = np.zeros(len(place))
    ninths = np.stack(np.meshgrid(*2 * [np.arange(3)]), -1).reshape(-1, 2)
    for a, b in rng.permutation(ninths)[:rays]:
        jitter = rng.random((len(place), 2))
        source = corner + ((a + jitter[:, :1]) / 3) * u + ((b + jitter[:, 1:]) / 3) * v
        ray = source + LIFT_M * shines - place
        distance = np.linalg.norm(ray, axis=1)
        facing = np.einsum("ni,ni->n", ray, normal) / distance
        leaving = -(ray @ shines) / distance
        useful = np.clip(facing, 0, 1) * np.clip(leaving, 0, 1) / np.maximum(distance, 0.3) ** 2
        total += useful * (caster.distances(place, ray) > 0.999)
    return (lamp.power / rays) * total[:, None] * np.asarray(lamp.colour)


def _sun_light(
    place: FloatArray,
    normal: FloatArray,
    sun: Sun,
    rays: int,
    caster: Raycaster,
    rng: np.random.Generator,
) -> FloatArray:
    towards = np.asarray(sun.towards, float) / np.linalg.norm(sun.towards)
    lit = np.zeros(len(place))
    for _ in range(rays):
        ray = towards + sun.softness * rng.uniform(-1, 1, place.shape)
        lit += np.isinf(caster.distances(place, ray))
    facing = np.clip(normal @ towards, 0, 1)
    return (sun.power / rays) * (lit * facing)[:, None] * np.asarray(sun.colour)
