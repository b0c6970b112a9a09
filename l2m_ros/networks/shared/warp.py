"""What one does with a dense warp: pixels, key points, forward-backward agreement.

Warps are (H, W, 4): x and y in image A, x and y in image B, normalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

from l2m_ros.networks.shared.grid import centre_grid, sample


def to_edge_pixels(points: Tensor, height: int, width: int) -> Tensor:
    """(..., 2) normalised -> pixels with (0, 0) at the image's upper left CORNER.

    u = W / 2 (x + 1), as the published code counts; centres at integers are half a pixel less.
    """
    return 0.5 * torch.tensor([width, height]).to(points) * (points + 1.0)


def match_keypoints(
    keypoints_a: Tensor,
    keypoints_b: Tensor,
    warp: Tensor,
    certainty: Tensor,
    *,
    max_distance: float = 0.005,
    min_certainty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Indices into (n, 2) and (m, 2) normalised key points that are each other's nearest."""
    at = keypoints_a.T[None, :, None]  # (1, 2, 1, n)
    landed = sample(warp[..., 2:].permute(2, 0, 1)[None], at)[0, :, 0].T
    sure = sample(certainty[None, None], at)[0, 0, 0]
    distance = torch.cdist(landed, keypoints_b)
    mutual = (distance == distance.amin(dim=1, keepdim=True)) & (
        distance == distance.amin(dim=0, keepdim=True)
    )
    accepted = mutual & (sure[:, None] > min_certainty) & (distance < max_distance)
    index_a, index_b = torch.nonzero(accepted, as_tuple=True)
    return index_a, index_b


def forward_backward(forward: Tensor, backward: Tensor, threshold_px: float = 2.0) -> Tensor:
    """(H, W) bool: there and back again lands within the threshold; flows are (H, W, 2)."""
    height, width = forward.shape[:2]
    there = forward.permute(2, 0, 1)[None]
    back = sample(backward.permute(2, 0, 1)[None], there)[0]
    error = torch.linalg.vector_norm(back - centre_grid(height, width, like=forward), dim=0)
    return error < 2.0 * threshold_px / max(height, width)
