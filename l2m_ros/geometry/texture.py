"""How precisely the image's texture locates a pixel: a lower bound on a match's covariance.

A dense matcher gives a match for every pixel, on a blank wall too: there it interpolates from
the texture around. Such matches agree with each other, so residuals do not show that they are
guesses. The image shows it:

    C = grey^2 (M - m I)^-1 + floor^2 I        px^2 of the keyframe, eigenvalue by eigenvalue

    M      mean of g g^T over a window, g the grey levels' gradient by pixel (structure tensor)
    grey   by how many grey levels two images of one point differ (noise, exposure, gloss)
    m      what M holds of a blank wall's noise and of compression beside an edge
    floor  what no texture gets below

Beside an edge C is small across it and large along it (the aperture problem). C is added to what
the matcher claims. How well all matches agree does not scale it down: on a blank wall they agree
and are guesses. Textured matches do (`Noise.texture`, `refine`).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.types import FloatArray, Frame

MAX_SIGMA_PX = 8.0  # along the better axis; a match that is less certain is none


@dataclass(frozen=True)
class TextureNoise:
    """Chosen on two whole RGB-D recordings (docs/benchmarks.md): not yet held out."""

    grey: float = 4.0  # grey levels; 0: the images are not asked
    floor_px: float = 0.3
    blank: float = 0.3  # (grey levels / px)^2
    ringing: float = 0.03  # of the stronger eigenvalue: an edge's compression is no corner
    least: float = 0.002  # (grey levels / px)^2 that are left in the end
    hole_px: float = 3.0  # on top of a match that a depth camera has no depth for
    smooth_px: float = 1.0  # before the gradient is taken
    window_px: float = 4.0

    def __post_init__(self) -> None:
        if self.grey < 0 or self.floor_px < 0 or min(self.blank, self.least, self.window_px) <= 0:
            raise InvalidInput(f"texture noise must not be negative, got {self}")


# One keyframe is matched many times: its tensor is kept as long as the frame lives.
_TENSORS: WeakKeyDictionary[Frame, tuple[TextureNoise, FloatArray]] = WeakKeyDictionary()


def texture_covariance(frame: Frame, pixels: FloatArray, options: TextureNoise) -> FloatArray:
    """(3, N): xx, xy, yy in px^2 at the pixels (N, 2); 0 where the images are not asked."""
    if options.grey == 0.0 or not len(pixels):
        return np.zeros((3, len(pixels)))
    tensor = _tensor(frame, options)
    if not tensor.any():  # an image of one colour is not what the matches came from
        return np.zeros((3, len(pixels)))
    place = np.rint(np.clip(pixels, 0, np.array(frame.camera.size) - 1)).astype(np.intp)
    return _inverse(tensor[:, place[:, 1], place[:, 0]].astype(np.float64), options)


def is_textured(covariance_px: FloatArray) -> npt.NDArray[np.bool_]:
    """(N,) whether the image has texture at the match, along one axis at least."""
    xx, xy, yy = covariance_px
    smaller = 0.5 * (xx + yy) - np.hypot(0.5 * (xx - yy), xy)
    return np.asarray(smaller < MAX_SIGMA_PX**2)


def _inverse(tensor: FloatArray, options: TextureNoise) -> FloatArray:
    """(3, N): grey^2 over each eigenvalue that is left above a blank wall's, plus the floor."""
    xx, xy, yy = tensor
    mean, half = 0.5 * (xx + yy), 0.5 * (xx - yy)
    apart = np.sqrt(half * half + xy * xy)
    blank = options.blank + options.ringing * (mean + apart)
    strong, weak = (
        options.grey**2 / np.maximum(value - blank, options.least)
        for value in (mean + apart, mean - apart)
    )
    # cos and sin of twice the strong axis' angle; any axis will do where both are alike
    safe = np.where(apart > 0, apart, 1.0)
    cosine, sine = half / safe, xy / safe
    middle, difference = 0.5 * (strong + weak) + options.floor_px**2, 0.5 * (strong - weak)
    return np.stack([middle + difference * cosine, difference * sine, middle - difference * cosine])


def _tensor(frame: Frame, options: TextureNoise) -> FloatArray:
    """(3, H, W): the window's mean of gx gx, gx gy, gy gy."""
    known = _TENSORS.get(frame)
    if known is None or known[0] != options:
        known = (options, structure_tensor(frame, options))
        _TENSORS[frame] = known
    return known[1]


def structure_tensor(frame: Frame, options: TextureNoise) -> FloatArray:
    grey = cv2.cvtColor(np.ascontiguousarray(frame.rgb), cv2.COLOR_RGB2GRAY).astype(np.float32)
    grey = cv2.GaussianBlur(grey, (0, 0), options.smooth_px)
    gx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8)
    gy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, scale=1 / 8)
    means = [cv2.GaussianBlur(p, (0, 0), options.window_px) for p in (gx * gx, gx * gy, gy * gy)]
    return np.stack(means)
