"""`lite2`: XFeat's eyes, `lite`'s hands. Encode once a frame, prepare once a keyframe, match.

    encode      XFeat's backbone and oriented gradients (fixed), context by attention at 1/32
    reference   keys and values for the cross-attention, unit descriptors of the keyframe
    match       cross-attention at 1/32, correlation of every 1/16 cell with every keyframe cell,
                consensus among neighbours as a prior for a second look, refiners at 1/8 and 1/4

Sizes: height and width multiples of 32. The warp comes at 1/4, normalised [-1, 1]
(align_corners=False); the certainty as logits; the precision in 1 / px^2 of the input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.coarse import (
    Block,
    Mixer,
)
from l2m_ros.networks.lite.matching import CompactMatcher, unit
from l2m_ros.networks.lite.pyramid import GradientDescriptor, GradientPyramid
from l2m_ros.networks.lite.refiner import upsampled
from l2m_ros.networks.lite2.aligned import PatchHead
from l2m_ros.networks.lite2.backbone import Backbone, Seen
from l2m_ros.networks.lite2.parts import Gradients, LeanConsensus, LeanRefiner
from l2m_ros.networks.shared.depthwise import DepthwiseConv
from l2m_ros.networks.shared.xfeat import standardised_grey

XFEAT = 64  # channels of XFeat's deeper features and descriptors


@dataclass(frozen=True)
class Lite2Config:
    """Widths and depths; the defaults are what ships."""

    coarse: int = 96  # channels at 1/16
    context: int = 128  # at 1/32
    heads: int = 4
    self_blocks: int = 2
    cross_blocks: int = 2
    descriptor: int = 64  # of the global correlation
    descriptor_middle: int = 48  # of the local correlation at 1/8
    descriptor_fine: int = 24  # at 1/4
    hidden: int = 96  # of consensus
    hidden_middle: int = 64  # of the refiner at 1/8
    hidden_fine: int = 32  # of the refiner at 1/4
    gradients: bool = True  # oriented gradients in all descriptors; those at 1/4 begin as RootSIFT
    prior: bool = True  # the second look at the correlation knows what the neighbours believe
    aligned: int = 0  # numbers of the head that Gaussians taught (128); 0 = without it
    aligned_share: float = 0.1  # of the coarse correlation: what it begins with


class UnitHead(nn.Module):
    """Unit descriptors: XFeat's, turned to the width, plus gradients and what is learnt.

    Both of these begin at zero; the gradients' energies are scaled to length 1 in every cell, so
    that a wall of weak contrast has a say, too.
    """

    def __init__(self, channels: int, width: int, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        self.turn = nn.Conv2d(XFEAT, width, 1, bias=False)
        nn.init.orthogonal_(self.turn.weight.view(width, XFEAT))
        if gradients:
            self.near = GradientDescriptor(width, finer=True)
            self.wide = GradientDescriptor(width, finer=False)
            nn.init.zeros_(self.near.turn.weight)
            nn.init.zeros_(self.wide.turn.weight)
        self.learnt = nn.Conv2d(channels, width, 1)
        nn.init.zeros_(self.learnt.weight)
        nn.init.zeros_(self.learnt.bias)

    def base(self, matched: Tensor, finer: Tensor, own: Tensor) -> Tensor:
        """XFeat's share and the gradients', from the energies of the next finer and its level."""
        base: Tensor = self.turn(matched)
        if self.gradients:
            base = base + self.near(finer) + self.wide(own)
        return base

    def forward(self, base: Tensor, features: Tensor) -> Tensor:
        return unit((base + self.learnt(features)).float())


class JoinedHead(UnitHead):
    """The same beside what Gaussians taught, as one unit vector: (1 - s) own + s theirs.

    own . own' and theirs . theirs' are cosines, so the product of two joined ones is their mean
    with the weights 1 - s and s.
    """

    def __init__(
        self, channels: int, width: int, gradients: bool, aligned: int, share: float
    ) -> None:
        super().__init__(channels, width, gradients)
        self.parts = [width, aligned]
        with torch.random.fork_rng(devices=[]):  # the rest begins as it does without the head
            self.align = PatchHead(width=aligned)
        self.share = nn.Parameter(torch.logit(torch.tensor(share)))

    def joined_base(self, base: Tensor, eyes: Tensor) -> Tensor:
        """The base of `UnitHead` with the aligned features behind it."""
        return torch.cat([base, self.align(eyes)], dim=1)

    def forward(self, base: Tensor, features: Tensor) -> Tensor:
        base, aligned = base.split(self.parts, dim=1)
        share = torch.sigmoid(self.share)
        own = super().forward(base, features)
        return torch.cat([(1.0 - share).sqrt() * own, share.sqrt() * aligned], dim=1)


class FineHead(nn.Module):
    """Unit descriptors at 1/4: RootSIFT's, plus what is learnt (from zero).

    Learnt is what XFeat sees at 1/4, told by what it sees at 1/8 what it is part of.
    """

    def __init__(self, channels: int, width: int, gradients: bool) -> None:
        super().__init__()
        self.gradients = gradients
        if gradients:
            self.near = Gradients(width, finer=True)
            self.wide = Gradients(width, finer=False)
        self.enter = nn.Conv2d(24, channels, 1)
        self.above = nn.Conv2d(XFEAT, channels, 1)
        self.spread = DepthwiseConv(channels, 3)
        self.learnt = nn.Conv2d(channels, width, 1)
        if gradients:
            nn.init.zeros_(self.learnt.weight)
            nn.init.zeros_(self.learnt.bias)

    def forward(self, seen: Seen, energies: list[Tensor]) -> Tensor:
        state = F.relu(self.enter(seen.fine) + upsampled(self.above(seen.matched)))
        described = self.learnt(F.relu(self.spread(state)))
        if self.gradients:
            described = described + self.near(energies[0]) + self.wide(energies[1])
        return unit(described.float())


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of an image."""

    seen: Seen
    below: Tensor  # (B, 128, H/16, W/16) of what XFeat sees: nothing learnt here
    energies: list[Tensor]
    cells: Tensor  # (B, coarse, H/16, W/16)
    context: Tensor  # (B, context, H/32, W/32)


def below_of(seen: Seen) -> Tensor:
    """(B, 128, H/16, W/16): what the frozen eyes see of a coarse cell."""
    return torch.cat([seen.coarse, F.avg_pool2d(seen.matched, 2)], dim=1)


class Encoder(nn.Module):
    """Image -> what XFeat sees, the gradients' energies, cells at 1/16, their context at 1/32."""

    def __init__(self, config: Lite2Config) -> None:
        super().__init__()
        self.xfeat = Backbone()
        self.gradients = GradientPyramid()
        self.cells = nn.Conv2d(2 * XFEAT, config.coarse, 1)
        self.enter = nn.Conv2d(XFEAT, config.context, 1)
        self.blocks = nn.ModuleList(
            Block(config.context, config.heads, rotary=True) for _ in range(config.self_blocks)
        )

    def forward(self, image: Tensor) -> Encoded:
        grey = standardised_grey(image.float())
        seen, energies = self.xfeat.seen(grey), self.gradients(grey)
        below = below_of(seen)
        cells = F.relu(self.cells(below))
        context = self.enter(seen.context)
        for block in self.blocks:
            context = block(context, *block.attention.prepare(context))
        return Encoded(seen, below, energies, cells, context)


class Lite2(CompactMatcher):
    """The compact matcher: `encode`, `reference`, `match` on (B, 3, H, W) in [0, 1]."""

    name = "lite2"

    def __init__(self, config: Lite2Config | None = None) -> None:
        super().__init__()
        config = config or Lite2Config()
        self.config = config
        self.encoder = Encoder(config)
        self.cross = nn.ModuleList(
            Block(config.context, config.heads, rotary=False) for _ in range(config.cross_blocks)
        )
        self.tell = nn.Conv2d(config.context, config.coarse, 1)
        self.merge = Mixer(config.coarse, 2 * config.coarse)
        self.describe = _coarse_head(config)
        self.describe_middle = UnitHead(XFEAT, config.descriptor_middle, config.gradients)
        self.describe_fine = FineHead(32, config.descriptor_fine, config.gradients)
        self.tenth_scale = nn.Parameter(
            torch.tensor(1.5)
        )  # a tenth: so it learns ten times as fast
        self.nowhere = nn.Conv2d(config.coarse, 1, 1)
        nn.init.zeros_(self.nowhere.weight)
        nn.init.constant_(self.nowhere.bias, 8.0)
        self.summary = nn.Conv2d(config.coarse, 32, 1)
        self.consensus = LeanConsensus(25, 32, config.hidden)
        self.settle = LeanConsensus(25, 32 + config.hidden, config.hidden)
        self.to_middle = nn.Conv2d(config.hidden, 32, 1)
        self.to_fine = nn.Conv2d(config.hidden_middle, 16, 1)
        self.refine_middle = LeanRefiner(3, config.descriptor_middle, 32, config.hidden_middle, 3)
        self.refine_fine = LeanRefiner(1, config.descriptor_fine, 16, config.hidden_fine, 2)
        self.certainty = nn.Conv2d(config.hidden, 1, 1)

    @property
    def eyes(self) -> nn.Module:
        """What `eyes` and `eyes_wide` come from; it stays as it is when the matcher trains on."""
        return self.encoder.xfeat

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Everything that one image alone determines; `eyes...` are for a depth head."""
        self._check_size(image)
        found = self.encoder(image)
        seen, energies = found.seen, found.energies
        matched = unit(seen.matched.float())
        middle = self.describe_middle.base(matched, *energies[1:3])
        base = self.describe.base(F.avg_pool2d(matched, 2), *energies[2:4])
        if isinstance(self.describe, JoinedHead):
            base = self.describe.joined_base(base, found.below)
        return {
            "eyes": found.below,
            "eyes_wide": seen.context,
            "coarse": found.cells,
            "context": found.context,
            "base": base,
            "middle": self.describe_middle(middle, seen.matched),
            "fine": self.describe_fine(seen, energies),
        }

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of the keyframe every later match needs."""
        context = features["context"]
        prepared = {"middle": features["middle"], "fine": features["fine"]}
        for index, block in enumerate(self.cross):
            key, value = block.attention.prepare(context)
            prepared[f"key{index}"], prepared[f"value{index}"] = key, value
        cells = self._merged(features["coarse"], context)
        prepared["descriptor"] = self.describe(features["base"], cells)
        return prepared

    def _merged(self, cells: Tensor, context: Tensor) -> Tensor:
        """The cells at 1/16 with what their context at 1/32 says."""
        return self.merge(cells + upsampled(self.tell(context)))

    def _query(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
        context = features["context"]
        for index, block in enumerate(self.cross):
            context = block(context, reference[f"key{index}"], reference[f"value{index}"])
        return self._merged(features["coarse"], context)


def _coarse_head(config: Lite2Config) -> UnitHead:
    widths = (config.coarse, config.descriptor, config.gradients)
    if not config.aligned:
        return UnitHead(*widths)
    return JoinedHead(*widths, config.aligned, config.aligned_share)


def build_lite2(**config: Any) -> Lite2:
    """`lite2` from the plain numbers that a model card holds."""
    return Lite2(Lite2Config(**config))
