"""What `lite2` has leaner than `lite`, by the clock of ONNX Runtime."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.coarse import Consensus
from l2m_ros.networks.lite.pyramid import ORIENTATIONS
from l2m_ros.networks.lite.refiner import Refiner

VECTOR = 16  # channels: 59 take three times as long as 48


class LeanConsensus(Consensus):
    """The sum before the rectifier: it is computed inside of the convolution."""

    def _mixed(self, state: Tensor) -> Tensor:
        for spread, mix in zip(self.spread, self.mix, strict=True):
            state = F.relu(state + mix(spread(state)))
        return state


class LeanRefiner(Refiner):
    """The same, and as many channels of the query as fill whole vectors."""

    def __init__(self, radius: int, descriptor: int, above: int, hidden: int, layers: int) -> None:
        look = VECTOR - ((2 * radius + 1) ** 2 + 2 + above) % VECTOR
        super().__init__(radius, descriptor, above, hidden, layers, look)

    def _mixed(self, state: Tensor) -> Tensor:
        for spread, mix in zip(self.spread, self.mix, strict=True):
            state = F.relu(state + mix(spread(state)))
        return state


class Gradients(nn.Module):
    """Gradient energies of the cells about every cell; scaled to length 1 it is RootSIFT.

    From energies of its own level (3x3 cells) or of the next finer one (4x4 half cells).
    """

    def __init__(self, width: int, finer: bool) -> None:
        super().__init__()
        kernel, stride = (4, 2) if finer else (3, 1)
        self.turn = nn.Conv2d(ORIENTATIONS, width, kernel, stride, padding=1, bias=False)
        nn.init.orthogonal_(self.turn.weight.view(width, -1), gain=0.3)

    def forward(self, energy: Tensor) -> Tensor:
        """(B, 8, h, w) -> (B, width, h / stride, w / stride)."""
        described: Tensor = self.turn(energy)
        return described
