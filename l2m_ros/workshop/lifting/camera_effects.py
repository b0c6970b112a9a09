"""What a camera and its exposure do to an image: drawn per view, independently.

All of it works on (H, W, 3) uint8 and costs about 2 ms for 320x240 on one core: point-wise
changes are one table per channel, shading is one 8-bit product.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, FloatArray

UNIT = 128  # a shading value of 128 leaves the pixel as it is
NOISE_SIDE = 640  # one sheet of noise is drawn once; images take random windows of it


@dataclass(frozen=True)
class EffectOptions:
    """How often each effect is drawn, and how strong it may get at strength 1."""

    exposure_stops: float = 1.0
    gamma: float = 0.45  # |ln gamma|
    contrast: float = 0.35
    colour_temperature: float = 0.25  # |ln gain| of red and blue against each other
    shading: float = 0.5  # chance of uneven light
    vignette: float = 0.3
    flare: float = 0.05
    blur: float = 0.3
    noise: float = 0.5
    jpeg: float = 0.4
    grey: float = 0.08


def camera_effects(
    rng: np.random.Generator,
    rgb: ByteArray,
    options: EffectOptions = EffectOptions(),
    strength: float = 1.0,
) -> ByteArray:
    """The image as another exposure, another light and another camera would have it."""
    out = cv2.LUT(rgb, tone_tables(rng, options, strength))
    height, width = rgb.shape[:2]
    light = shading(rng, width, height, options, strength)
    if light is not None:
        out = cv2.multiply(out, light, scale=1 / UNIT)
    if rng.random() < options.flare * strength:
        out = flare(rng, out)
    if rng.random() < options.blur * strength:
        out = blur(rng, out, strength)
    if rng.random() < options.noise:
        out = noise(rng, out, rng.random() ** 2 * 14.0 * strength)
    if rng.random() < options.grey:
        out = cv2.cvtColor(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < options.jpeg:
        out = jpeg(out, int(rng.integers(100 - int(75 * strength), 96)))
    return out


def tone_tables(rng: np.random.Generator, options: EffectOptions, strength: float) -> ByteArray:
    """(256, 1, 3) tables of exposure, contrast, colour temperature and gamma."""
    level = np.arange(256, dtype=np.float32)[:, None] / 255.0
    gain = 2.0 ** (options.exposure_stops * strength * rng.uniform(-1, 1))
    temperature = options.colour_temperature * strength * rng.uniform(-1, 1)
    tint = 0.3 * options.colour_temperature * strength * rng.uniform(-1, 1)
    gains = gain * np.exp(np.array([temperature, tint, -temperature], np.float32))
    contrast = np.exp(options.contrast * strength * rng.uniform(-1, 1))
    gamma = np.exp(options.gamma * strength * rng.uniform(-1, 1))
    # The exposure acts on light, so it is undone and redone around the display's gamma of 2.2.
    linear = np.clip(level**2.2 * gains, 0, 1) ** (gamma / 2.2)
    toned = np.clip((linear - 0.5) * contrast + 0.5, 0, 1)
    return np.rint(toned * 255).astype(np.uint8)[:, None, :]


def shading(
    rng: np.random.Generator,
    width: int,
    height: int,
    options: EffectOptions = EffectOptions(),
    strength: float = 1.0,
) -> ByteArray | None:
    """(H, W, 3) uneven light, 128 = unchanged: soft coloured lamps, cast shadow, vignette."""
    uneven = rng.random() < options.shading
    vignette = rng.random() < options.vignette
    if not uneven and not vignette:
        return None
    light = np.zeros((60, 80, 3), np.float32)  # log of the gain; smooth, so small
    if uneven:
        cells = rng.normal(0, 0.35 * strength, (int(rng.integers(2, 5)), int(rng.integers(2, 6))))
        lamp = cv2.resize(cells.astype(np.float32), (80, 60), interpolation=cv2.INTER_CUBIC)
        light += lamp[..., None] * (1 + rng.uniform(-0.3, 0.3, 3).astype(np.float32))
        if rng.random() < 0.4:
            light += _cast_shadow(rng, strength)[..., None]
    if vignette:
        v, u = np.mgrid[-1:1:60j, -1:1:80j]
        light -= (rng.uniform(0.1, 0.7) * strength * (u**2 + v**2)[..., None]).astype(np.float32)
    gains = np.clip(np.rint(UNIT * np.exp(light)), 0, 255).astype(np.uint8)
    return cv2.resize(gains, (width, height), interpolation=cv2.INTER_LINEAR)


def _cast_shadow(rng: np.random.Generator, strength: float) -> FloatArray:
    """(60, 80) log gain of a polygon in shadow, its edge sharp or soft."""
    corners = rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * (80, 60)
    shadow = np.zeros((60, 80), np.float32)
    cv2.fillConvexPoly(shadow, cv2.convexHull(corners.astype(np.int32)), 1.0)
    shadow = cv2.GaussianBlur(shadow, (0, 0), float(rng.uniform(0.4, 4)))
    return shadow * np.float32(rng.uniform(-1.1, -0.2) * strength)


def flare(rng: np.random.Generator, rgb: ByteArray) -> ByteArray:
    """Light from the lens: a glow around a point and a row of discs through the middle."""
    height, width = rgb.shape[:2]
    glow = np.zeros((60, 80, 3), np.float32)
    source = rng.uniform(-0.1, 1.1, 2) * (80, 60)
    v, u = np.mgrid[0:60, 0:80]
    radius = rng.uniform(6, 25)
    distance = np.hypot(u - source[0], v - source[1])
    glow += (rng.uniform(80, 220) * np.exp(-distance / radius))[..., None]
    for along in rng.uniform(0.2, 2.0, int(rng.integers(0, 4))):
        at = source + along * (np.array([40, 30]) - source)
        disc = np.hypot(u - at[0], v - at[1]) < rng.uniform(2, 9)
        glow += disc[..., None] * rng.uniform(5, 50, 3)
    glow = cv2.GaussianBlur(np.clip(glow, 0, 255).astype(np.uint8), (0, 0), 1)
    return cv2.add(rgb, cv2.resize(glow, (width, height)))


def blur(rng: np.random.Generator, rgb: ByteArray, strength: float = 1.0) -> ByteArray:
    """Out of focus (sigma up to 2 px at 320 px width), or moved by up to 9 px."""
    unit = rgb.shape[1] / 320
    if rng.random() < 0.6:
        return cv2.GaussianBlur(rgb, (0, 0), max(0.3, 2.0 * unit * strength * rng.random()))
    # Odd and the same both ways about its middle: else the image moves, its labels do not.
    length = int(np.clip(round(9 * unit * strength * rng.random()), 2, 15)) | 1
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    half = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
    middle = np.array([(length - 1) / 2] * 2)
    start, end = np.rint(middle - half).astype(int), np.rint(middle + half).astype(int)
    cv2.line(kernel, start.tolist(), end.tolist(), 1.0)
    kernel += kernel[::-1, ::-1].copy()
    return cv2.filter2D(rgb, -1, kernel / kernel.sum())


def noise(rng: np.random.Generator, rgb: ByteArray, sigma: float) -> ByteArray:
    """Sensor noise of `sigma` grey levels; a third of the time alike in all channels."""
    sheet = _noise_sheet()
    height, width = rgb.shape[:2]
    if height > NOISE_SIDE or width > NOISE_SIDE:
        drawn = rng.standard_normal(rgb.shape, np.float32) * np.float32(sigma)
        return np.clip(rgb + drawn, 0, 255).astype(np.uint8)
    top = int(rng.integers(NOISE_SIDE - height + 1))
    left = int(rng.integers(NOISE_SIDE - width + 1))
    grain = sheet[top : top + height, left : left + width]
    grain = grain[..., :1].repeat(3, axis=2) if rng.random() < 1 / 3 else grain
    if rng.random() < 0.5:
        grain = grain[::-1]
    # 128 marks zero in the 8-bit sheet (sigma 32): rgb + sigma/32 * (sheet - 128).
    return cv2.addWeighted(rgb, 1.0, np.ascontiguousarray(grain), sigma / 32, -128 * sigma / 32)


_SHEETS: dict[int, npt.NDArray[np.uint8]] = {}


def _noise_sheet() -> ByteArray:
    """One sheet of noise of mean 128 and deviation 32, the same in every process."""
    if 0 not in _SHEETS:
        drawn = np.random.default_rng(0).standard_normal((NOISE_SIDE, NOISE_SIDE, 3), np.float32)
        _SHEETS[0] = np.clip(np.rint(drawn * 32 + 128), 0, 255).astype(np.uint8)
    return _SHEETS[0]


def jpeg(rgb: ByteArray, quality: int) -> ByteArray:
    """Compressed and decompressed (channel order does not matter to a round trip)."""
    _, data = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)
