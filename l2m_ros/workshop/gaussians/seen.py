"""What each patch of a view sees of a scene: the voxel whose Gaussians dominate its pixels.

The dominant Gaussian of a pixel is the one with the largest weight in its colour, so whatever
hides a surface is seen in its place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer

IntArray = npt.NDArray[np.int64]
LEAST_SHARE = 0.3  # of a patch's pixels: with less it shows several things, and no one of them


@torch.no_grad()
def dominant_gaussians(
    rasterizer: Rasterizer, gaussians: Gaussians, view: PosedCamera
) -> tuple[IntArray, npt.NDArray[np.bool_]]:
    """(H, W) index of each pixel's dominant Gaussian (-1 = none), (N,) which touch the view."""
    raster = rasterizer.rasterize(gaussians, view, gaussians.opacities[:, None])
    if raster.dominant is None:
        raise InvalidInput(
            f"rasterizer {rasterizer.name} does not tell which Gaussian a pixel shows: use cpu"
        )
    return raster.dominant.cpu().numpy().astype(np.int64), raster.drawn.cpu().numpy()


def voxels_seen(
    dominant: IntArray, voxel_of_gaussian: IntArray, patch_px: int, least: float = LEAST_SHARE
) -> IntArray:
    """(H / patch_px, W / patch_px): the voxel that most of a patch's pixels show, -1 = no one."""
    rows, columns = (side // patch_px for side in dominant.shape)
    patches = dominant[: rows * patch_px, : columns * patch_px]
    patches = patches.reshape(rows, patch_px, columns, patch_px).swapaxes(1, 2)
    patches = patches.reshape(rows * columns, -1)
    count = int(voxel_of_gaussian.max(initial=-1)) + 1
    shown = np.where(patches >= 0, voxel_of_gaussian[patches.clip(0)] if count else -1, -1)
    patch = np.broadcast_to(np.arange(len(patches))[:, None], shown.shape)
    keys, counts = np.unique(patch[shown >= 0] * count + shown[shown >= 0], return_counts=True)
    seen = np.full(len(patches), -1, np.int64)
    order = np.argsort(counts, kind="stable")  # the most frequent is written last
    enough = order[counts[order] >= least * patch_px**2]
    seen[keys[enough] // max(count, 1)] = keys[enough] % max(count, 1)
    return seen.reshape(rows, columns)
