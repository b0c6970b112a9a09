"""How good a matcher is on pairs it was never trained on: end-point error, not the loss.

The loss also falls while only "nowhere" or the positional prior is learnt; the end-point error
of visible cells and the share within 3 px do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from l2m_ros.workshop.training.data import Batch, PairMaker, collate
from l2m_ros.workshop.training.losses import truth_at, warp_in_px

MatchOf = Callable[[nn.Module, Batch], dict[str, Tensor]]
SHARES_PX = (1.0, 3.0, 5.0)


@dataclass(frozen=True)
class LiftedValidation:
    """Fixed pairs of held-out photographs at the given sizes: (width, height, how many)."""

    maker: PairMaker
    match_of: MatchOf
    sizes: tuple[tuple[int, int, int], ...]
    difficulty: float = 1.0
    device: str = "cpu"

    def __call__(self, model: nn.Module) -> dict[str, float]:
        figures: dict[str, float] = {}
        for width, height, count in self.sizes:
            errors, certain, seen = [], [], []
            for index in range(count):
                pair = self.maker.pair(
                    index, width=width, height=height, difficulty=self.difficulty
                )
                batch = collate([pair]).to(self.device)
                error, certainty, visible = match_errors(self.match_of(model, batch), batch)
                errors.append(error)
                certain.append(certainty)
                seen.append(visible)
            figures |= summary(errors, certain, seen, f"{width}x{height}")
        return figures


def match_errors(match: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) end-point errors in px, certainty in [0, 1] and visibility of every known cell."""
    size = (batch.warp_px.shape[-2], batch.warp_px.shape[-1])
    stride = size[0] // match["warp"].shape[-2]
    truth = truth_at(stride, batch.warp_px, batch.visible, batch.ignored)
    error = (warp_in_px(match["warp"].float(), size) - truth.warp_px).norm(dim=1, keepdim=True)
    known = truth.visible | truth.hidden
    certainty = match["certainty"].float().sigmoid()
    return error[known], certainty[known], truth.visible[known]


def summary(
    errors: Sequence[Tensor], certain: Sequence[Tensor], seen: Sequence[Tensor], name: str
) -> dict[str, float]:
    """Median error and shares over visible cells; how well the certainty tells right from wrong."""
    error, certainty, visible = (
        torch.cat(list(errors)),
        torch.cat(list(certain)),
        torch.cat(list(seen)),
    )
    of_visible = error[visible]
    if not of_visible.numel():
        return {}
    figures = {f"epe_{name}": float(of_visible.median())}
    for limit in SHARES_PX:
        share = (of_visible < limit).float().mean()
        figures[f"within{limit:g}_{name}"] = 100.0 * float(share)
    trusted = certainty > 0.5
    right = visible & (error < 5.0)
    figures[f"precision_within5_{name}"] = 100.0 * float(
        (right & trusted).sum() / trusted.sum().clamp(min=1)
    )
    return figures
