"""What is painted where a new view shows what the photograph never saw.

Holes are never supervised; their content only has to be something that does not lie: a smooth
guess, another photograph, or what a diffusion model imagines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.types import ByteArray
from l2m_ros.workshop.lifting.views import BoolArray

RADIUS_PX = 3.0
# Inpainting costs with the area; beyond this share of the image it only smears.
LARGEST_SMEAR = 0.25

# (rgb, hole, another photograph of the same size) -> rgb
Filler = Callable[[ByteArray, BoolArray, ByteArray], ByteArray]


def inpaint(rgb: ByteArray, hole: BoolArray, other: ByteArray) -> ByteArray:
    """Telea's method on holes of up to a quarter of the image, `other` on larger ones."""
    if not hole.any():
        return rgb
    if hole.mean() > LARGEST_SMEAR:
        return from_photograph(rgb, hole, other)
    return cv2.inpaint(rgb, hole.astype(np.uint8), RADIUS_PX, cv2.INPAINT_TELEA)


def from_photograph(rgb: ByteArray, hole: BoolArray, other: ByteArray) -> ByteArray:
    """The holes filled with another photograph's pixels."""
    if other.shape != rgb.shape:
        raise InvalidInput(f"the filling has shape {other.shape}, the view {rgb.shape}")
    return cv2.copyTo(other, hole.astype(np.uint8), rgb.copy())


def diffusion(pipeline: Any, prompt: str = "") -> Filler:
    """A filler around a diffusers inpainting pipeline that the caller has loaded.

    `pipeline(prompt=, image=, mask_image=)` as StableDiffusionInpaintPipeline has it; the
    seen pixels are kept as they are, whatever the pipeline does to them.
    """

    def fill(rgb: ByteArray, hole: BoolArray, other: ByteArray) -> ByteArray:
        if not hole.any():
            return rgb
        from PIL import Image

        size = tuple(max(8, round(side / 8) * 8) for side in rgb.shape[1::-1])
        image = Image.fromarray(cv2.resize(rgb, size))
        mask = Image.fromarray(cv2.resize(hole.astype(np.uint8) * 255, size))
        out = pipeline(prompt=prompt, image=image, mask_image=mask).images[0]
        painted = cv2.resize(np.asarray(out.convert("RGB")), rgb.shape[1::-1])
        return cv2.copyTo(painted, hole.astype(np.uint8), rgb.copy())

    return fill


def load_diffusion(folder: str) -> Filler:
    """The filler of an inpainting pipeline saved in a local folder; nothing is downloaded."""
    try:
        from diffusers import AutoPipelineForInpainting
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "filling by diffusion needs diffusers: pip install diffusers transformers"
        ) from error
    return diffusion(AutoPipelineForInpainting.from_pretrained(folder, local_files_only=True))


FILLERS: dict[str, Filler] = {"inpaint": inpaint, "photograph": from_photograph}
