"""A piece of material to paint on: sizes in metres, band-limited seeded noise, colours.

Reflectance is linear, in [0, 1], float32; colours are named in sRGB as people know them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from l2m_ros.types import FloatArray

GAMMA = 2.2
MAX_TEXELS = 4096  # a longer side costs memory that no 640-pixel image can show


@dataclass(frozen=True)
class Canvas:
    """width_m x height_m of material at texels_per_m, with its own random stream."""

    rng: np.random.Generator
    width_m: float
    height_m: float
    texels_per_m: float

    @functools.cached_property
    def width(self) -> int:
        return min(max(round(self.width_m * self.texels_per_m), 4), MAX_TEXELS)

    @functools.cached_property
    def height(self) -> int:
        return min(max(round(self.height_m * self.texels_per_m), 4), MAX_TEXELS)

    def grid_m(self) -> tuple[FloatArray, FloatArray]:
        """x (1, w) to the right and y (h, 1) downwards, in metres, at texel centres."""
        x = (np.arange(self.width, dtype=np.float32) + 0.5) * (self.width_m / self.width)
        y = (np.arange(self.height, dtype=np.float32) + 0.5) * (self.height_m / self.height)
        return x[None, :], y[:, None]

    def noise(self, wavelength_m: float, *, octaves: int = 1, stretch: float = 1.0) -> FloatArray:
        """(h, w) of zero mean and unit deviation; the finest octave is wavelength_m long.

        `stretch` lengthens it along x (grain of wood). Each coarser octave doubles the
        wavelength and has 1.4 times the amplitude, as natural surfaces have.
        """
        total = np.zeros((self.height, self.width), np.float32)
        for octave in range(octaves):
            step_m = wavelength_m * 2.0**octave
            total += 1.4**octave * self._band(step_m * stretch, step_m)
        return total / np.sqrt(sum(1.4 ** (2 * octave) for octave in range(octaves)))

    def _band(self, step_x_m: float, step_y_m: float) -> FloatArray:
        columns = min(int(self.width_m / step_x_m) + 3, self.width)
        rows = min(int(self.height_m / step_y_m) + 3, self.height)
        coarse = self.rng.standard_normal((rows, columns), dtype=np.float32)
        return cv2.resize(coarse, (self.width, self.height), interpolation=cv2.INTER_CUBIC)

    def filled(self, srgb: Sequence[float]) -> FloatArray:
        return np.broadcast_to(linear(srgb), (self.height, self.width, 3)).copy()


Material = Callable[[Canvas], FloatArray]  # -> (h, w, 3) linear reflectance


def linear(srgb: Sequence[float] | FloatArray) -> FloatArray:
    """sRGB in [0, 1] to linear reflectance."""
    return np.asarray(srgb, np.float32) ** np.float32(GAMMA)


def encoded(light: FloatArray) -> FloatArray:
    """Linear light in [0, 1] to the values of an 8-bit image."""
    return 255.0 * np.clip(light, 0.0, 1.0) ** np.float32(1.0 / GAMMA)


# Hues in degrees that paint, dye and print mostly have: reds, earths, yellows, greens, blues.
COMMON_HUES = np.array([0, 8, 18, 28, 36, 44, 52, 95, 125, 155, 195, 208, 218, 228, 245, 345])


def random_colours(rng: np.random.Generator, count: int, *, vivid: float = 0.7) -> FloatArray:
    """(count, 3) linear reflectances; vivid 0 = greys, 1 = poster colours."""
    hsv = np.stack(
        [
            (rng.choice(COMMON_HUES, count) + rng.uniform(-8, 8, count)) % 360,
            vivid * rng.uniform(0.2, 0.95, count),
            rng.uniform(0.25, 0.92, count),
        ],
        axis=-1,
    ).astype(np.float32)
    return linear(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0])


def random_srgb(rng: np.random.Generator, vivid: float = 0.5) -> list[float]:
    """One colour, sRGB in [0, 1]."""
    values: list[float] = (encoded(random_colours(rng, 1, vivid=vivid)[0]) / 255.0).tolist()
    return values
