"""`lite`: the compact matcher that ships. Encode once a frame, prepare once a keyframe, match.

    encode      oriented gradients (fixed), a convolutional pyramid 1/4, 1/8, 1/16, attention
    reference   keys and values for the cross-attention, unit descriptors of the keyframe
    match       cross-attention, correlation of every 1/16 cell with every keyframe cell,
                consensus among neighbours as a prior for a second look, refiners at 1/8 and 1/4

Sizes: height and width multiples of 32. The warp comes at 1/4, normalised [-1, 1]
(align_corners=False); the certainty as logits; the precision in 1 / px^2 of the input size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.coarse import (
    Block,
    Consensus,
)
from l2m_ros.networks.lite.matching import CompactMatcher, unit
from l2m_ros.networks.lite.pyramid import (
    ORIENTATIONS,
    GradientDescriptor,
    GradientPyramid,
    standardised,
)
from l2m_ros.networks.lite.refiner import Refiner
from l2m_ros.networks.shared.residual import Residual


@dataclass(frozen=True)
class LiteConfig:
    """Widths and depths; the defaults are what ships."""

    fine: int = 32  # channels at 1/4
    middle: int = 64  # at 1/8
    coarse: int = 128  # at 1/16
    middle_residuals: int = 1
    coarse_residuals: int = 1
    heads: int = 4
    self_blocks: int = 2
    cross_blocks: int = 2
    descriptor: int = 64  # of the global correlation
    descriptor_middle: int = 48  # of the local correlation at 1/8
    descriptor_fine: int = 24  # at 1/4
    hidden: int = 96  # of consensus and of the refiner at 1/8
    hidden_fine: int = 48  # of the refiner at 1/4
    gradients: bool = True  # descriptors begin as RootSIFT; False: everything is learnt
    prior: bool = True  # the second look at the correlation knows what the neighbours believe


class UnitHead(nn.Module):
    """Unit descriptors: the gradients' (at full weight) plus what is learnt (from zero)."""

    def __init__(self, channels: int, width: int, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        if gradients:
            self.near = GradientDescriptor(width, finer=True)
            self.wide = GradientDescriptor(width, finer=False)
        self.learnt = nn.Conv2d(channels, width, 1)
        if gradients:
            nn.init.zeros_(self.learnt.weight)
            nn.init.zeros_(self.learnt.bias)

    def base(self, finer: Tensor, own: Tensor) -> Tensor:
        """The share of the gradients, from the energies of the next finer and of its own level."""
        if not self.gradients:
            return torch.zeros_like(own[:, :1])
        return self.near(finer) + self.wide(own)

    def forward(self, base: Tensor, features: Tensor) -> Tensor:
        return unit((base + self.learnt(features)).float())


class Encoder(nn.Module):
    """Image -> features at 1/4, 1/8, 1/16 and the gradients' share of their descriptors."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.fine, config.middle, config.coarse
        self.gradients = GradientPyramid()
        self.enter = nn.Conv2d(ORIENTATIONS + 3, fine, 4, stride=2, padding=1)
        self.fine = Residual(fine)
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.middle_gradients = nn.Conv2d(ORIENTATIONS, middle, 3, padding=1)
        self.middle = nn.Sequential(*(Residual(middle) for _ in range(config.middle_residuals)))
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.coarse_gradients = nn.Conv2d(ORIENTATIONS, coarse, 3, padding=1)
        self.coarse = nn.Sequential(*(Residual(coarse) for _ in range(config.coarse_residuals)))
        self.blocks = nn.ModuleList(
            Block(coarse, config.heads, rotary=True) for _ in range(config.self_blocks)
        )

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Features [1/4, 1/8, 1/16] and gradient energies [1/2, 1/4, 1/8, 1/16]."""
        planes = standardised(image)
        energies = self.gradients(planes)
        first = torch.cat([energies[0], F.avg_pool2d(planes, 2)], dim=1)
        fine = self.fine(F.relu(self.enter(first)))
        middle = self.to_middle(fine) + self.middle_gradients(energies[2])
        middle = self.middle(F.relu(middle))
        coarse = self.to_coarse(middle) + self.coarse_gradients(energies[3])
        coarse = self.coarse(F.relu(coarse))
        for block in self.blocks:
            coarse = block(coarse, *block.attention.prepare(coarse))
        return [fine, middle, coarse], energies


class Lite(CompactMatcher):
    """The compact matcher: `encode`, `reference`, `match` on (B, 3, H, W) in [0, 1]."""

    name = "lite"

    def __init__(self, config: LiteConfig | None = None) -> None:
        super().__init__()
        config = config or LiteConfig()
        self.config = config
        self.encoder = Encoder(config)
        self.cross = nn.ModuleList(
            Block(config.coarse, config.heads, rotary=False) for _ in range(config.cross_blocks)
        )
        self.describe = UnitHead(config.coarse, config.descriptor, config.gradients)
        self.describe_middle = UnitHead(config.middle, config.descriptor_middle, config.gradients)
        self.describe_fine = UnitHead(config.fine, config.descriptor_fine, config.gradients)
        self.tenth_scale = nn.Parameter(
            torch.tensor(1.5)
        )  # a tenth: so it learns ten times as fast
        self.nowhere = nn.Conv2d(config.coarse, 1, 1)
        nn.init.zeros_(self.nowhere.weight)
        nn.init.constant_(self.nowhere.bias, 8.0)
        self.summary = nn.Conv2d(config.coarse, 32, 1)
        self.consensus = Consensus(25, 32, config.hidden)
        self.settle = Consensus(25, 32 + config.hidden, config.hidden)
        self.to_middle = nn.Conv2d(config.hidden, 32, 1)
        self.to_fine = nn.Conv2d(config.hidden, 16, 1)
        self.refine_middle = Refiner(3, config.descriptor_middle, 32, config.hidden, 3)
        self.refine_fine = Refiner(2, config.descriptor_fine, 16, config.hidden_fine, 2)
        self.certainty = nn.Conv2d(config.hidden, 1, 1)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Everything that one image alone determines."""
        self._check_size(image)
        (fine, middle, coarse), energies = self.encoder(image)
        return {
            "coarse": coarse,
            "base": self.describe.base(*energies[2:4]),
            "middle": self.describe_middle(self.describe_middle.base(*energies[1:3]), middle),
            "fine": self.describe_fine(self.describe_fine.base(*energies[0:2]), fine),
        }

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of the keyframe every later match needs."""
        coarse = features["coarse"]
        prepared = {"middle": features["middle"], "fine": features["fine"]}
        for index, block in enumerate(self.cross):
            key, value = block.attention.prepare(coarse)
            prepared[f"key{index}"], prepared[f"value{index}"] = key, value
        prepared["descriptor"] = self.describe(features["base"], coarse)
        return prepared

    def _query(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
        query = features["coarse"]
        for index, block in enumerate(self.cross):
            query = block(query, reference[f"key{index}"], reference[f"value{index}"])
        return query


def build_lite(**config: int) -> Lite:
    """`lite` from the plain numbers that a model card holds."""
    return Lite(LiteConfig(**config))
