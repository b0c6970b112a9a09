"""Sky: no depth, no parallax, clouds that drift: it is masked and never supervised.

By a segmentation network (ONNX) or by a rule: sky is the bright or blue, smooth region that is
connected to the top of the image. The rule is made for precision: what it calls sky should be
sky; sky that it misses only costs supervision that is a little wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from l2m_ros.errors import ModelError
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.lifting.depth import open_onnx
from l2m_ros.workshop.lifting.views import BoolArray

SkyMask = Callable[[ByteArray], BoolArray]

RULE_WIDTH = 160  # pixels at which the rule works
SMOOTH = 9.0  # grey levels per pixel at that width: leaves and walls have more texture
BLUEISH = 8.0  # blue above red, in grey levels
# Overcast sky burns out; white ceilings rarely do. At 190 the rule marked 11 % of indoor
# photographs, at 235 3 %, and found the same outdoor skies.
BRIGHT = 235
COLOURLESS = 28.0  # largest minus smallest channel of an overcast sky
LEAST_AREA, LARGEST_AREA = 0.02, 0.9
LEAST_TOP = 0.3  # share of the upper edge that sky touches
LOWEST = 0.8  # sky does not reach below this share of the height
CONTRAST = 20.0  # grey levels (mean of channels) between the sky and the rest


def sky_by_rule(rgb: ByteArray) -> BoolArray:
    """(H, W) True where the colour, the smoothness and the place say sky."""
    height, width = rgb.shape[:2]
    size = (RULE_WIDTH, max(8, round(height * RULE_WIDTH / width)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    mask = _from_the_top(_sky_like(small))
    if not _plausible(small, mask):
        return np.zeros((height, width), bool)
    grown = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    return grown > 0.5


def _sky_like(rgb: ByteArray) -> BoolArray:
    """Per pixel: smooth, and blue or bright without colour."""
    red, green, blue = (channel.astype(np.float32) for channel in cv2.split(rgb))
    grey = (red + green + blue) / 3
    texture = cv2.blur(np.abs(cv2.Laplacian(grey, cv2.CV_32F, ksize=1)), (3, 3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    is_blue = (blue > red + BLUEISH) & (blue >= green - 2) & (blue > 90)
    is_overcast = (grey > BRIGHT) & (spread < COLOURLESS) & (blue >= red - 6)
    return (texture < SMOOTH) & (is_blue | is_overcast)


def _from_the_top(candidate: BoolArray) -> BoolArray:
    """The parts of the candidate that touch the upper edge, without frays."""
    opened = cv2.morphologyEx(candidate.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3)))
    _, label = cv2.connectedComponents(opened, connectivity=4)
    at_top = np.unique(label[:2])
    return np.isin(label, at_top[at_top > 0])


def _plausible(rgb: ByteArray, mask: BoolArray) -> bool:
    """A sky has size, a wide top, an end above the ground, and differs from what is below."""
    area = float(mask.mean())
    if not LEAST_AREA < area < LARGEST_AREA or mask[:2].any(axis=0).mean() < LEAST_TOP:
        return False
    if mask[int(LOWEST * len(mask)) :].mean() > 0.1:
        return False
    rest = rgb[~mask].astype(np.float32).mean()
    return bool(rgb[mask].astype(np.float32).mean() - rest > CONTRAST)


class SkyModel:
    """A segmentation network (ONNX, skyseg's convention).

    Input (1, 3, 320, 320) unless the graph fixes another size, ImageNet's mean and deviation;
    the output is scaled by its own minimum and maximum and cut at one half.
    """

    MEAN = np.array([0.485, 0.456, 0.406], np.float32)
    DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
    SIDE = 320

    def __init__(self, model: Path) -> None:
        self.model = model
        self._session = open_onnx(model)
        self._input = self._session.get_inputs()[0]
        shape = self._input.shape
        if len(shape) != 4:
            raise ModelError(f"{model}: takes {shape}; a sky network takes one image (1, 3, H, W)")
        self._size = tuple(side if isinstance(side, int) else self.SIDE for side in shape[2:])

    def __reduce__(self) -> tuple[type[SkyModel], tuple[Path]]:
        """Another process opens the model anew."""
        return SkyModel, (self.model,)

    def __call__(self, rgb: ByteArray) -> BoolArray:
        image = cv2.resize(rgb, self._size[::-1]).astype(np.float32) / 255.0
        fed = ((image - self.MEAN) / self.DEVIATION).transpose(2, 0, 1)[None]
        raw = self._session.run(None, {self._input.name: np.ascontiguousarray(fed)})[0]
        return self._cut(np.squeeze(np.asarray(raw, np.float32)), rgb)

    def _cut(self, score: FloatArray, rgb: ByteArray) -> BoolArray:
        if score.ndim != 2:
            raise ModelError(f"{self.model}: gave shape {score.shape}, not one score per pixel")
        low, high = float(score.min()), float(score.max())
        if high - low < 1e-6:
            return np.zeros(rgb.shape[:2], bool)
        scaled = cv2.resize((score - low) / (high - low), rgb.shape[1::-1])
        return scaled > 0.5


def no_sky(rgb: ByteArray) -> BoolArray:
    """For photographs without sky (indoors)."""
    return np.zeros(rgb.shape[:2], bool)
