"""What `lite` and `lite2` have in common: from attended cells to the warp, level by level.

global correlation at 1/16, consensus among neighbours, the correlation again under the prior
of that consensus, then refiners at 1/8 and 1/4
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.lite.coarse import cell_grid, image_of, read_peak, tokens_of
from l2m_ros.networks.lite.refiner import upsampled, upsampled_warp

MULTIPLE = 32


def unit(image: Tensor) -> Tensor:
    """Length 1 along the channels; 1e-4 keeps the division within half precision."""
    return image / (image.square().sum(dim=1, keepdim=True) + 1e-4).sqrt()


def precision_factor(shape: Tensor) -> Tensor:
    """(B, 3, h, w): a, b, c of the Cholesky factor, 1 / px; a and c at least 0.01.

    Starts at a = c = 0.5, b = 0: two pixels of standard deviation.
    """
    a, b, c = shape.float().split(1, dim=1)
    return torch.cat([F.softplus(a - 0.45) + 0.01, b, F.softplus(c - 0.45) + 0.01], dim=1)


class CompactMatcher(nn.Module):
    """The matching half; a network adds the three methods that follow and these parts."""

    name: str
    config: Any  # with `prior`: the second look at the correlation knows the neighbours' belief
    describe: nn.Module  # (base, cells) -> unit descriptors of the global correlation
    tenth_scale: Tensor
    nowhere: nn.Module
    summary: nn.Module
    consensus: nn.Module
    settle: nn.Module
    to_middle: nn.Module
    to_fine: nn.Module
    refine_middle: nn.Module
    refine_fine: nn.Module
    certainty: nn.Module

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """Everything that one image alone determines."""
        raise NotImplementedError

    def reference(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of the keyframe every later match needs."""
        raise NotImplementedError

    def _query(self, features: dict[str, Tensor], reference: dict[str, Tensor]) -> Tensor:
        """The query's cells at 1/16 after they have looked at the keyframe."""
        raise NotImplementedError

    def _check_size(self, image: Tensor) -> None:
        height, width = image.shape[-2:]
        if height % MULTIPLE or width % MULTIPLE:
            raise InvalidInput(
                f"{self.name} takes heights and widths that are multiples of {MULTIPLE}, got "
                f"{width}x{height}: resize first"
            )

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
