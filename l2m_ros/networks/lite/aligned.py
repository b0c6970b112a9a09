"""What Gaussians taught the eyes: 3x3 patches -> 128 numbers that a place has from every view.

`l2m train align` trains the head; it is frozen afterwards. It reads what the frozen eyes see, so
one head serves every `lite` with those eyes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.coarse import unit

EYES = 128  # channels of what the eyes see at 1/16
ALIGNED = 128  # numbers of a patch and of a voxel of Gaussians
HEAD = "describe.align"  # where the head lies in a `lite`
SHARE = "describe.share"  # and how much of the coarse correlation it has


def head_names(network: nn.Module) -> list[str]:
    """The names of what a matcher without the head lacks."""
    return [n for n in network.state_dict() if n == SHARE or n.startswith(f"{HEAD}.")]


class PatchHead(nn.Module):
    """The eyes' features (B, 2 C, h, w) at 1/16 -> unit vectors (B, width, h, w).

    It begins with what the eyes see, turned; what 3x3 patches add is learnt, from zero. (A head
    of random weights found a patch's place in 30 % of the cases where the eyes did in 80 %.)
    """

    def __init__(self, channels: int = EYES, width: int = ALIGNED) -> None:
        super().__init__()
        self.half = channels // 2  # XFeat's own features, then those that it matches by
        self.turn = nn.Conv2d(channels, width, 1, bias=False)
        nn.init.orthogonal_(self.turn.weight.view(width, channels))
        self.patch = nn.Conv2d(channels, width, 3, padding=1)
        self.learnt = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.learnt.weight)
        nn.init.zeros_(self.learnt.bias)

    def forward(self, eyes: Tensor) -> Tensor:
        halves = [unit(part.float()) for part in eyes.split(self.half, dim=1)]
        seen = torch.cat(halves, dim=1)
        described = self.turn(seen) + self.learnt(F.relu(self.patch(4.0 * seen)))
        return unit(described.float())
