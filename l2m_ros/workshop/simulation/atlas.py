"""All textures in one image, each with its pyramid: one cv2.remap samples any of them.

A texture's level l is half the size of level l - 1 (at least one texel), reduced by area
averaging, and surrounded by a gutter that repeats its border, so that neither bilinear
lookups nor the taps along an elongated footprint reach a neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.types import ByteArray, FloatArray

LEVELS = 11  # 4096 texels down to 4, of which one pixel never needs fewer
GUTTER = 3  # the outer tap lies 1.5 texels beyond the footprint's centre, plus bilinear
WIDTH = 8192  # cv2.remap takes sides below 32768


@dataclass(frozen=True, eq=False)
class Atlas:
    """image (H, W, 3) uint8; placement (patches * LEVELS, 4) = scale_x, scale_y, x, y.

    A point (u, v) of a patch, in texels of its level 0 with 0 at its upper-left corner, lies
    at pixel (u scale_x + x, v scale_y + y) of the image, pixel centres at integers.
    """

    image: ByteArray
    placement: FloatArray


def pack(textures: Sequence[ByteArray]) -> Atlas:
    """Shelves of falling height: wastes under a tenth, and is simple."""
    pyramids = [_pyramid(texture) for texture in textures]
    tiles = [(patch, level) for patch, p in enumerate(pyramids) for level in range(len(p))]
    tiles.sort(key=lambda tile: -pyramids[tile[0]][tile[1]].shape[0])
    corners, height = _shelves([pyramids[patch][level].shape for patch, level in tiles])
    image = np.zeros((height, WIDTH, 3), np.uint8)
    placement = np.zeros((len(textures), LEVELS, 4), np.float32)
    for (patch, level), (x, y) in zip(tiles, corners, strict=True):
        tile = pyramids[patch][level]
        h, w = tile.shape[:2]
        image[y : y + h + 2 * GUTTER, x : x + w + 2 * GUTTER] = cv2.copyMakeBorder(
            tile, GUTTER, GUTTER, GUTTER, GUTTER, cv2.BORDER_REPLICATE
        )
        full_h, full_w = textures[patch].shape[:2]
        origin = (x + GUTTER - 0.5, y + GUTTER - 0.5)
        placement[patch, level:] = (w / full_w, h / full_h, *origin)
    return Atlas(image, placement.reshape(-1, 4))


def _pyramid(texture: ByteArray) -> list[ByteArray]:
    levels = [texture]
    while len(levels) < LEVELS and max(levels[-1].shape[:2]) > 1:
        h, w = levels[-1].shape[:2]
        size = (max(w // 2, 1), max(h // 2, 1))
        levels.append(cv2.resize(levels[-1], size, interpolation=cv2.INTER_AREA))
    return levels


def _shelves(shapes: Sequence[tuple[int, ...]]) -> tuple[npt.NDArray[np.int64], int]:
    """Upper-left corners for rectangles sorted by falling height, and the height used."""
    corners, x, y, shelf = [], 0, 0, 0
    for h, w, *_ in shapes:
        if x + w + 2 * GUTTER > WIDTH:
            x, y, shelf = 0, y + shelf, 0
        corners.append((x, y))
        x, shelf = x + w + 2 * GUTTER, max(shelf, h + 2 * GUTTER)
    return np.array(corners), y + shelf
