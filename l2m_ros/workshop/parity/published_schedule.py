"""The published matchers' own schedule: both directions, a second pass, attenuation.

    inputs = [prepared(rgb, size, resize) for ...]         PIL's bicubic, [0, 1]
    warp, certainty = match_pair(network, inputs_a, inputs_b, options)
    matches, certainty = sampling.sample_matches(warp, certainty)

A frame against a kept keyframe needs none of this; `l2m.py` is that path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.l2m.network import L2M, Level, attenuation
from l2m_ros.networks.shared.grid import centre_grid, resize
from l2m_ros.networks.shared.xfeat import floored
from l2m_ros.networks.tinyroma.network import TinyRoMa

Size = tuple[int, int]  # (height, width)
Resize = Callable[[np.ndarray, int, int], np.ndarray]  # rgb, width, height -> rgb
Features = dict[str, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class MatchOptions:
    """Defaults: `l2mpp_model`. RoMa: coarse (560, 560), fine (864, 864), normalize True."""

    coarse: Size = (672, 672)
    fine: Size | None = (1344, 1344)  # None: no second pass
    symmetric: bool = True
    attenuate: bool = True
    normalize: bool = False  # by ImageNet's mean and deviation


@dataclass(frozen=True)
class ImageInputs:
    """One image at the sizes of both passes."""

    coarse: Tensor  # (1, 3, h, w)
    fine: Tensor | None = None


@dataclass(frozen=True)
class Direction:
    """One direction's result before the halves are joined; (1, C, H, W)."""

    flow: Tensor  # normalised, not clamped
    logits: Tensor  # certainty

    def outside(self) -> Tensor:
        """(1, 1, H, W) bool: the flow leaves the other image."""
        return (self.flow.abs() > 1.0).any(dim=1, keepdim=True)

    def probability(self) -> Tensor:
        """(1, 1, H, W) in [0, 1], zero where the flow leaves the other image."""
        return self.logits.sigmoid().masked_fill(self.outside(), 0.0)


def prepared(rgb: np.ndarray, size: Size, resize_rgb: Resize, *, normalize: bool = False) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, h, w) float32 in [0, 1], or normalised."""
    resized = resize_rgb(rgb, size[1], size[0])
    return scaled(torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1))), normalize)


def scaled(image: Tensor, normalize: bool = False) -> Tensor:
    """(3, h, w) uint8 -> (1, 3, h, w) float32."""
    image = image[None].float() / 255.0
    if not normalize:
        return image
    mean, std = (torch.tensor(v)[None, :, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (image - mean) / std


def image_inputs(rgb: np.ndarray, options: MatchOptions, resize_rgb: Resize) -> ImageInputs:
    coarse = prepared(rgb, options.coarse, resize_rgb, normalize=options.normalize)
    if options.fine is None:
        return ImageInputs(coarse)
    return ImageInputs(coarse, prepared(rgb, options.fine, resize_rgb, normalize=options.normalize))


@torch.inference_mode()
def match_images(
    network: L2M, rgb_a: np.ndarray, rgb_b: np.ndarray, options: MatchOptions, resize_rgb: Resize
) -> tuple[Tensor, Tensor]:
    """Two (H, W, 3) uint8 images of any size -> what `match_pair` gives."""
    device = next(network.parameters()).device
    a, b = (_moved(image_inputs(rgb, options, resize_rgb), device) for rgb in (rgb_a, rgb_b))
    return match_pair(network, a, b, options)


def match_pair(
    network: L2M, a: ImageInputs, b: ImageInputs, options: MatchOptions
) -> tuple[Tensor, Tensor]:
    """Warp (h, w, 4) and certainty (h, w); symmetric: both directions side by side, (h, 2 w).

    In both halves the first two numbers are image A's coordinates.
    """
    features = [network.encode(image.coarse) for image in (a, b)]
    fine = [None if image.fine is None else network.encode_fine(image.fine) for image in (a, b)]
    turns = ((0, 1), (1, 0)) if options.symmetric else ((0, 1),)
    results = []
    for query, keyframe in turns:
        reference = network.reference(features[keyframe])
        levels = network.levels(features[query], reference)
        second = (fine[query], fine[keyframe])
        scale = scale_factor(a)
        results.append(finished(network, levels, second, scale, options.attenuate))
    return joined(results)


def scale_factor(image: ImageInputs) -> float:
    """sqrt of how much larger the second pass' input is."""
    if image.fine is None:
        return 1.0
    return math.sqrt(math.prod(image.fine.shape[-2:]) / math.prod(image.coarse.shape[-2:]))


def finished(
    network: L2M,
    levels: list[Level],
    fine: tuple[Features | None, Features | None],
    scale: float,
    attenuate: bool,
) -> Direction:
    """The second pass if there is one, and the attenuated certainty at the final size."""
    last = levels[-1]
    if fine[0] is not None and fine[1] is not None:
        last = network.refine(fine[0], fine[1], last.flow, last.certainty, scale)[-1]
    return direction(levels[0], last, attenuate)


def direction(coarsest: Level, last: Level, attenuate: bool) -> Direction:
    certainty = last.certainty
    if attenuate:
        certainty = certainty - attenuation(coarsest.certainty, certainty.shape[-2:])
    return Direction(last.flow, certainty)


def joined(results: list[Direction]) -> tuple[Tensor, Tensor]:
    """[g | flow], and beside it [flow back | g] where there is a second direction."""
    warps, certainties = [], []
    for index, result in enumerate(results):
        flow = result.flow[0].clamp(-1.0, 1.0).permute(1, 2, 0)
        grid = centre_grid(*flow.shape[:2], like=flow).permute(1, 2, 0)
        warps.append(torch.cat([flow, grid] if index else [grid, flow], dim=-1))
        certainties.append(result.probability()[0, 0])
    return torch.cat(warps, dim=1), torch.cat(certainties, dim=1)


@torch.inference_mode()
def match_tiny(network: TinyRoMa, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """TinyRoMa's `match()`: two (1, 3, H, W) images in [0, 1] -> (H, W, 4), (H, W) on A's size."""
    if a.shape[0] != 1 or b.shape[0] != 1:
        raise InvalidInput("match_tiny takes one image of each: (1, 3, H, W)")
    features, other = network.encode(floored(a)), network.encode(floored(b))
    levels = network.levels(features, network.reference(other))
    return tiny_warp(levels.fine, (a.shape[-2], a.shape[-1]))


def tiny_warp(fine: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """The finest level at A's own size; neither clamped nor cut outside of the image."""
    full = resize(fine, size)[0]
    grid = centre_grid(*size, like=full)
    return torch.cat([grid, full[:2]]).permute(1, 2, 0), full[2].sigmoid()


def _moved(image: ImageInputs, device: torch.device) -> ImageInputs:
    fine = None if image.fine is None else image.fine.to(device)
    return ImageInputs(image.coarse.to(device), fine)
