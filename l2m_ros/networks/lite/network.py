"""`lite`: the compact matcher that ships. Encode once a frame, prepare once a keyframe, match.

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

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.lite.backbone import XFEAT, Backbone, Seen
from l2m_ros.networks.lite.coarse import (
    Block,
    Consensus,
    Mixer,
    cell_grid,
    image_of,
    read_peak,
    tokens_of,
    unit,
)
from l2m_ros.networks.lite.heads import FineHead, JoinedHead, UnitHead
from l2m_ros.networks.lite.pyramid import GradientPyramid
from l2m_ros.networks.lite.refiner import Refiner, precision_factor, upsampled, upsampled_warp
from l2m_ros.networks.shared.xfeat import standardised_grey

MULTIPLE = 32  # of heights and widths


@dataclass(frozen=True)
class LiteConfig:
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

    def __init__(self, config: LiteConfig) -> None:
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


class Lite(nn.Module):
    """The compact matcher: `encode`, `reference`, `match` on (B, 3, H, W) in [0, 1]."""

    def __init__(self, config: LiteConfig | None = None) -> None:
        super().__init__()
        config = config or LiteConfig()
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
        # A tenth of it, so that it learns ten times as fast:
        self.tenth_scale = nn.Parameter(torch.tensor(1.5))
        self.nowhere = nn.Conv2d(config.coarse, 1, 1)
        nn.init.zeros_(self.nowhere.weight)
        nn.init.constant_(self.nowhere.bias, 8.0)
        self.summary = nn.Conv2d(config.coarse, 32, 1)
        self.consensus = Consensus(25, 32, config.hidden)
        self.settle = Consensus(25, 32 + config.hidden, config.hidden)
        self.to_middle = nn.Conv2d(config.hidden, 32, 1)
        self.to_fine = nn.Conv2d(config.hidden_middle, 16, 1)
        self.refine_middle = Refiner(3, config.descriptor_middle, 32, config.hidden_middle, 3)
        self.refine_fine = Refiner(1, config.descriptor_fine, 16, config.hidden_fine, 2)
        self.certainty = nn.Conv2d(config.hidden, 1, 1)

    @property
    def eyes(self) -> nn.Module:
        """What `eyes` and `eyes_wide` come from; it stays as it is when the matcher trains on."""
        return self.encoder.xfeat

    def _check_size(self, image: Tensor) -> None:
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise InvalidInput(
                f"lite takes heights and widths that are multiples of {MULTIPLE}, got "
                f"{width}x{height}: resize first"
            )

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

    def match(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> dict[str, Tensor]:
        """The query's warp into the keyframe, its certainty (logits) and precision."""
        return self.match_levels(features, reference)[-1]

    def match_levels(
        self, features: dict[str, Tensor], reference: dict[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """The same, with what training supervises on the way: 1/16 twice, 1/8, 1/4."""
        query = self._query(features, reference)
        levels = self._coarse_levels(query, features["base"], reference["descriptor"])
        state = levels[-1].pop("state")
        warp, certainty = levels[-1]["warp"].detach(), levels[-1]["certainty"].detach()
        above = upsampled(self.to_middle(state))
        warp, state, correction, _ = self.refine_middle(
            features["middle"], reference["middle"], upsampled_warp(warp), above
        )
        certainty = upsampled(certainty) + correction
        levels.append({"warp": warp, "certainty": certainty})
        above = upsampled(self.to_fine(state))
        warp, state, correction, shape = self.refine_fine(
            features["fine"], reference["fine"], upsampled_warp(warp.detach()), above
        )
        certainty = upsampled(certainty.detach()) + correction
        precision = precision_factor(shape)
        levels.append({"warp": warp, "certainty": certainty, "precision": precision})
        return levels

    def _coarse_levels(
        self, query: Tensor, base: Tensor, keyframe: Tensor
    ) -> list[dict[str, Tensor]]:
        """Global correlation, consensus, and the correlation again under the consensus' prior."""
        rows, columns = keyframe.shape[-2:]
        described = tokens_of(self.describe(base, query)) * (10.0 * self.tenth_scale)
        none = tokens_of(self.nowhere(query)).float()
        summary = self.summary(query)
        with torch.autocast(query.device.type, enabled=False):
            described, cells = described.float(), keyframe.flatten(2)
            logits = described @ cells  # (B, N, M)
        peak = self._peak(logits, none, query, keyframe)
        believed, state, sharp = self.consensus(*peak, summary)
        first = {"warp": believed, "logits": logits, "none": none}
        if self.config.prior:
            with torch.autocast(query.device.type, enabled=False):
                left, right = self._prior(tokens_of(believed), tokens_of(sharp), rows, columns)
                left = torch.cat([described, left], dim=-1)
                right = torch.cat([cells, right.T.expand(len(cells), -1, -1)], dim=1)
                logits = left @ right
        peak = self._peak(logits, none, query, keyframe)
        warp, state, _ = self.settle(*peak, torch.cat([summary, state], dim=1))
        certainty = 0.3 * peak[2] + self.certainty(state).float()
        second = {"warp": warp, "logits": logits, "none": none, "certainty": certainty}
        return [first, {**second, "state": state}]

    @staticmethod
    def _peak(logits: Tensor, none: Tensor, query: Tensor, keyframe: Tensor) -> list[Tensor]:
        """Point, window and log-odds of `read_peak` as images on the query's grid."""
        parts = read_peak(logits, none, *keyframe.shape[-2:])
        return [image_of(part, *query.shape[-2:]) for part in parts]

    @staticmethod
    def _prior(believed: Tensor, sharp: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """(B, N, 4) and (M, 4), whose product is the prior -s |p_j - believed_i|^2.

        s = 4 softplus(sharp - 2): half a unit of s to begin with, which leaves the logits of
        about 15 untouched.
        """
        strength = 4.0 * F.softplus(sharp - 2.0)
        cells = cell_grid(rows, columns, believed.device).reshape(-1, 2)
        ones = torch.ones_like(cells[:, :1])
        left = torch.cat(
            [
                2 * strength * believed,
                -strength,
                -strength * believed.square().sum(-1, keepdim=True),
            ],
            dim=-1,
        )
        right = torch.cat([cells, cells.square().sum(-1, keepdim=True), ones], dim=-1)
        return left, right


def _coarse_head(config: LiteConfig) -> UnitHead:
    widths = (config.coarse, config.descriptor, config.gradients)
    if not config.aligned:
        return UnitHead(*widths)
    return JoinedHead(*widths, config.aligned, config.aligned_share)


def build_lite(**config: Any) -> Lite:
    """`lite` from the plain numbers that a model card holds."""
    return Lite(LiteConfig(**config))
