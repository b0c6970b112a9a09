"""What each patch of a view sees of a scene: the voxel whose Gaussians dominate its pixels.

The dominant Gaussian of a pixel is the one with the largest weight in its colour, so whatever
hides a surface is seen in its place.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_SHARE = 0.3  # of a patch's pixels: with less it shows several things, and no one of them


def voxels_seen(
    dominant: Tensor, voxel_of_gaussian: Tensor, patch_px: int, least: float = LEAST_SHARE
) -> Tensor:
    """(B, H / patch_px, W / patch_px): the voxel that most of a patch's pixels show, -1 = no one.

    dominant (B, H, W) Gaussians, -1 = none; voxel_of_gaussian (B, N) of each view's scene.
    """
    views, height, width = dominant.shape
    rows, columns = height // patch_px, width // patch_px
    flat = dominant[:, : rows * patch_px, : columns * patch_px].long()
    voxel = voxel_of_gaussian.gather(1, flat.flatten(1).clamp(min=0)).view_as(flat)
    voxel = torch.where(flat >= 0, voxel, -1)
    patches = voxel.view(views, rows, patch_px, columns, patch_px).transpose(2, 3).flatten(3)
    # What shows nothing never agrees with another pixel.
    alone = -1 - torch.arange(patches.shape[-1], device=patches.device)
    patches = torch.where(patches >= 0, patches, alone)
    common = patches.mode(dim=-1).values
    share = (patches == common[..., None]).float().mean(dim=-1)
    return torch.where((common >= 0) & (share >= least), common, -1)
