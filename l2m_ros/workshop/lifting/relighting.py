"""New light on a lifted photograph: lamps, shadows, night.

The photograph's own light stays in it (nobody knows it), and is treated as the colour of the
surface. On it fall 2 to 5 point or area lights and an ambient one:

    a_l = reached_l colour_l / d_l^2                   what arrives of lamp l
    I = albedo * (ambient + sum_l a_l max(0, n . l)) + k_s sum_l a_l (n . h)^m

in linear light, with n from the lifted geometry, l and d towards the lamp, h half way to the
camera. Shadows are looked up in the depth: a point is dark where the surface, somewhere on
the way to the lamp, is nearer to the camera than the way itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.views import affine

DISPLAY_GAMMA = 2.2
SHADOW_BIAS = 0.02  # relative depth: the surface does not shade itself
SHADOW_THICKNESS = 0.6  # relative depth: a thing in front has a back that light passes behind

# Grey level -> linear light, and 12-bit linear light -> grey level.
_LINEAR = ((np.arange(256) / 255) ** DISPLAY_GAMMA).astype(np.float32)
_DISPLAY = np.rint(255 * (np.arange(4096) / 4095) ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Light:
    """A lamp in the photograph's camera (units of the scene's median depth)."""

    position: FloatArray  # (3,)
    colour: FloatArray  # (3,) linear radiance at distance 1
    radius: float = 0.0  # > 0: an area light, its shadows are soft


@dataclass(frozen=True, eq=False)
class Lighting:
    """Everything that shines."""

    lights: tuple[Light, ...]
    ambient: FloatArray = field(default_factory=lambda: np.full(3, 0.4))  # (3,) linear
    specular: float = 0.1
    shininess: float = 20.0
    exposure: float = 1.0  # gain of the result
    shadow_steps: int = 24  # looked up on the way to a lamp
    area_samples: int = 5  # points of an area light


def points_of(inverse_depth: FloatArray, K: FloatArray) -> FloatArray:
    """(h, w, 3) the surface in the photograph's camera."""
    height, width = inverse_depth.shape
    rays = np.stack([affine(row, width, height) for row in np.linalg.inv(K)], axis=-1)
    return rays / inverse_depth[..., None]


def normals_of(inverse_depth: FloatArray, K: FloatArray) -> FloatArray:
    """(h, w, 3) unit normals towards the camera.

    Of a plane with inverse depth w = N . K^-1 (u, v, 1), N is the normal: it is read off the
    gradient of w, exactly for planes and without differences of points.
    """
    w = inverse_depth.astype(np.float64)
    w_v, w_u = np.gradient(w)
    height, width = w.shape
    u, v = np.arange(width)[None, :], np.arange(height)[:, None]
    row = np.stack([w_u, w_v, w - w_u * u - w_v * v], axis=-1)
    normal = -(row @ K)
    return (normal / np.linalg.norm(normal, axis=-1, keepdims=True)).astype(np.float32)


def relight(
    rgb: ByteArray,
    inverse_depth: FloatArray,
    K: FloatArray,
    lighting: Lighting,
    rng: np.random.Generator,
) -> ByteArray:
    """The photograph under the lighting; the depth (with its K) may be smaller than it."""
    diffuse, shine = shading_of(inverse_depth, K, lighting, rng)
    if diffuse.shape != rgb.shape:
        diffuse, shine = (cv2.resize(map_, rgb.shape[1::-1]) for map_ in (diffuse, shine))
    light = (_LINEAR[rgb] * diffuse + shine) * np.float32(lighting.exposure)
    return _DISPLAY[np.clip(light * np.float32(4095), 0, 4095).astype(np.uint16)]


def relight_quickly(
    rgb: ByteArray,
    inverse_depth: FloatArray,
    K: FloatArray,
    lighting: Lighting,
    rng: np.random.Generator,
) -> ByteArray:
    """The same on a coarse depth and in 8 bits, for pairs made while a network trains.

    The display's power law turns the diffuse gain into a gain of grey levels, exactly:
    (albedo d)^(1/2.2) = albedo^(1/2.2) d^(1/2.2). Only the highlight is added approximately.
    About 7 ms for a depth of 80x60, where `relight` takes 60 ms for 160x120.
    """
    lighting = replace(lighting, shadow_steps=12, area_samples=2)
    diffuse, shine = shading_of(inverse_depth, K, lighting, rng)
    gain = (diffuse * np.float32(lighting.exposure)) ** np.float32(1 / DISPLAY_GAMMA)
    gain8 = np.clip(np.rint(gain * 64), 0, 255).astype(np.uint8)
    shine8 = _DISPLAY[np.clip(shine * np.float32(4095), 0, 4095).astype(np.uint16)]
    size = rgb.shape[1::-1]
    lit = cv2.multiply(rgb, cv2.resize(gain8, size), scale=1 / 64)
    return cv2.add(lit, cv2.resize(shine8, size))


def shading_of(
    inverse_depth: FloatArray, K: FloatArray, lighting: Lighting, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """(h, w, 3) linear diffuse gain and specular light."""
    points, normals = points_of(inverse_depth, K), normals_of(inverse_depth, K)
    to_camera = -points / np.linalg.norm(points, axis=-1, keepdims=True)
    diffuse = np.broadcast_to(lighting.ambient.astype(np.float32), points.shape).copy()
    shine = np.zeros_like(diffuse)
    for light in lighting.lights:
        way = light.position.astype(np.float32) - points
        distance = np.linalg.norm(way, axis=-1, keepdims=True)
        direction = way / np.maximum(distance, 1e-6)
        lit = _lit(inverse_depth, K, points, light, lighting, rng)[..., None]
        arriving = lit * light.colour.astype(np.float32) / np.maximum(distance, 0.3) ** 2
        facing = np.maximum((normals * direction).sum(-1, keepdims=True), 0)
        half = direction + to_camera
        half /= np.maximum(np.linalg.norm(half, axis=-1, keepdims=True), 1e-6)
        gloss = np.maximum((normals * half).sum(-1, keepdims=True), 0) ** lighting.shininess
        diffuse += arriving * facing
        shine += arriving * gloss * np.float32(lighting.specular) * (facing > 0)
    return diffuse, shine


def _lit(
    inverse_depth: FloatArray,
    K: FloatArray,
    points: FloatArray,
    light: Light,
    lighting: Lighting,
    rng: np.random.Generator,
) -> FloatArray:
    """(h, w) share of the lamp that is seen from each point."""
    if light.radius <= 0:
        return _reached(inverse_depth, K, points, light.position, lighting.shadow_steps)
    offsets = rng.normal(0, light.radius / np.sqrt(3), (lighting.area_samples, 3))
    seen = [
        _reached(inverse_depth, K, points, light.position + offset, lighting.shadow_steps)
        for offset in offsets
    ]
    return np.mean(seen, axis=0, dtype=np.float32)


def _reached(
    inverse_depth: FloatArray, K: FloatArray, points: FloatArray, lamp: FloatArray, steps: int
) -> FloatArray:
    """1 where nothing in the photograph stands between the point and the lamp, else 0."""
    dark = np.zeros(inverse_depth.shape, bool)
    lamp = lamp.astype(np.float32)
    for step in range(1, steps + 1):
        along = points + (lamp - points) * np.float32((step / (steps + 1)) ** 1.5)
        z = along[..., 2]
        ahead = z > 0.05
        safe = np.where(ahead, z, np.float32(1.0))
        x = (along[..., 0] * np.float32(K[0, 0]) / safe + np.float32(K[0, 2])).astype(np.float32)
        y = (along[..., 1] * np.float32(K[1, 1]) / safe + np.float32(K[1, 2])).astype(np.float32)
        # Outside of the photograph nothing is known: inverse depth 0, infinitely far.
        w = cv2.remap(inverse_depth, x, y, cv2.INTER_LINEAR, borderValue=0)
        behind = safe * w - 1.0  # relative depth of the way behind the surface there
        dark |= ahead & (behind > SHADOW_BIAS) & (behind < SHADOW_THICKNESS)
    return (~dark).astype(np.float32)


def temperature_colour(kelvin: float) -> FloatArray:
    """(3,) linear RGB of a black body, mean 1 (1500 to 15000 K).

    Planck's law at 610, 550 and 465 nm relative to 6500 K.
    """
    wavelength_m = np.array([610e-9, 550e-9, 465e-9])

    def planck(temperature: float) -> FloatArray:
        return 1.0 / np.expm1(0.014387769 / (wavelength_m * temperature))

    colour = planck(kelvin) / planck(6500.0)
    return colour / colour.mean()


def random_lighting(rng: np.random.Generator, preset: str = "lamps") -> Lighting:
    """A lighting of the kind named in PRESETS."""
    return PRESETS[preset](rng)


def _lamp(rng: np.random.Generator, power: float, kelvin: tuple[float, float]) -> Light:
    """Somewhere between the camera and the scene, or beside it."""
    position = np.array([rng.uniform(-1.2, 1.2), rng.uniform(-1.2, 0.6), rng.uniform(-0.3, 1.0)])
    colour = temperature_colour(rng.uniform(*kelvin)) * power
    return Light(position, colour, radius=0.15 if rng.random() < 0.5 else 0.0)


def _lamps(rng: np.random.Generator) -> Lighting:
    """2 to 5 lamps, warm to cold, over a good share of ambient light."""
    count = int(rng.integers(2, 6))
    lights = tuple(_lamp(rng, rng.uniform(0.6, 2.0) / count, (2500, 9000)) for _ in range(count))
    ambient = temperature_colour(rng.uniform(4500, 8000)) * rng.uniform(0.25, 0.7)
    return Lighting(lights, ambient, specular=rng.uniform(0, 0.15))


def _night(rng: np.random.Generator) -> Lighting:
    """Blue and dark, with 2 or 3 warm lamps."""
    count = int(rng.integers(2, 4))
    lights = tuple(_lamp(rng, rng.uniform(0.3, 0.9) / count, (1900, 3500)) for _ in range(count))
    ambient = temperature_colour(12000) * rng.uniform(0.03, 0.1)
    return Lighting(lights, ambient, specular=0.1, exposure=rng.uniform(0.7, 1.2))


def _backlight(rng: np.random.Generator) -> Lighting:
    """Strong light from behind the scene: what faces the camera lies in shadow."""
    lights = tuple(
        Light(
            np.array([rng.uniform(-1, 1), rng.uniform(-1.5, -0.3), rng.uniform(1.5, 3.0)]),
            temperature_colour(rng.uniform(3500, 6500)) * rng.uniform(3, 7),
        )
        for _ in range(2)
    )
    ambient = temperature_colour(7000) * rng.uniform(0.1, 0.25)
    return Lighting(lights, ambient, specular=rng.uniform(0.1, 0.3), exposure=1.2)


PRESETS = {"lamps": _lamps, "night": _night, "backlight": _backlight}
