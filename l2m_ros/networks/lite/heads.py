"""Unit descriptors at 1/16, 1/8 and 1/4: what XFeat sees, oriented gradients, what is learnt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.networks.lite.aligned import PatchHead
from l2m_ros.networks.lite.backbone import XFEAT, Seen
from l2m_ros.networks.lite.coarse import unit
from l2m_ros.networks.lite.pyramid import GradientDescriptor, Gradients
from l2m_ros.networks.lite.refiner import upsampled
from l2m_ros.networks.shared.depthwise import DepthwiseConv


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
