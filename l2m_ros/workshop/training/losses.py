"""What a matcher is taught: where each visible cell lies, whether it is seen, how sure it is.

Every term is a mean over the cells of a pair and then over pairs, so that processes that share
a batch average to the loss of the whole batch. Errors are in pixels of the input size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from l2m_ros.networks.shared.grid import both


@dataclass(frozen=True)
class LossOptions:
    """Weights and shapes; a weight of 0 switches its term off (that is how ablations are run)."""

    classification: float = 1.0
    columns: float = 0.5  # the same cross-entropy over queries: makes descriptors distinctive
    nowhere: float = 0.1  # cells that the keyframe does not show; alone it lowers any loss
    regression: float = 1.0
    robust_power: float = 0.5  # a of ((e / c)^2 + 1)^(a / 2)
    certainty: float = 0.05
    precision: float = 0.05
    gate: bool = True  # finer levels learn only where the coarser one came near


# By the stride of a level: the robust scale c and the error still called right, in px.
ROBUST_PX = {1: 0.25, 2: 0.25, 4: 0.5, 8: 1.0, 16: 4.0}
RIGHT_PX = {1: 2.0, 2: 2.0, 4: 3.0, 8: 6.0, 16: 16.0}
# A refiner sees (radius + 1/2) cells around its start; beyond twice that it only guesses.
REACH_PX = {1: 5.0, 2: 10.0, 4: 20.0, 8: 56.0}
# The four pixels about a cell's centre may differ by this much; beyond, the cell spans an edge.
SPREAD_PX = 3.0


@dataclass(frozen=True)
class Truth:
    """One level's truth: target in px of the keyframe, and what is known of each cell."""

    warp_px: Tensor  # (B, 2, h, w)
    visible: Tensor  # (B, 1, h, w) bool
    hidden: Tensor  # (B, 1, h, w) bool: known not to be seen in the keyframe


def truth_at(stride: int, warp_px: Tensor, visible: Tensor, ignored: Tensor) -> Truth:
    """Truth at the centres of stride x stride cells.

    warp_px (B, 2, H, W) in px of the keyframe, visible and ignored (B, 1, H, W) bool. A centre
    lies between four pixels: their mean, where all four are visible and agree.
    """
    if stride == 1:
        return Truth(warp_px, visible, ~visible & ~ignored)
    middle = stride // 2
    corners = [
        (slice(middle - 1 + dy, None, stride), slice(middle - 1 + dx, None, stride))
        for dy in (0, 1)
        for dx in (0, 1)
    ]
    points = torch.stack([warp_px[..., y, x] for y, x in corners])
    mean = points.mean(dim=0)
    spread = (points - mean).abs().amax(dim=(0, 2)).unsqueeze(1)
    seen = torch.stack([visible[..., y, x] for y, x in corners])
    dropped = torch.stack([ignored[..., y, x] for y, x in corners]).any(dim=0)
    shown = seen.all(dim=0) & (spread < SPREAD_PX)
    return Truth(torch.where(shown, mean, 0.0), shown, ~seen.any(dim=0) & ~dropped)


def pair_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked cells of each pair, then over pairs; pairs without cells give 0."""
    count = mask.flatten(1).sum(dim=1)
    total = torch.where(mask, values, 0.0).flatten(1).sum(dim=1)
    return (total / count.clamp(min=1)).mean()


def corner_terms(log_probability: Tensor, target: Tensor, rows: int, columns: int) -> Tensor:
    """(B, N): bilinear mean of log-probabilities of the four cells about a target.

    log_probability (B, N, rows * columns), target (B, N, 2) in cells, centres at integers.
    """
    x = target[..., 0].clamp(0, columns - 1)
    y = target[..., 1].clamp(0, rows - 1)
    left, top = x.floor().clamp(max=columns - 2), y.floor().clamp(max=rows - 2)
    right, below = x - left, y - top
    origin = (top * columns + left).long()
    index = torch.stack([origin, origin + 1, origin + columns, origin + columns + 1], dim=-1)
    weight = torch.stack(
        [
            (1 - right) * (1 - below),
            right * (1 - below),
            (1 - right) * below,
            right * below,
        ],
        dim=-1,
    )
    return (log_probability.gather(2, index) * weight).sum(dim=-1)


def classification_terms(
    level: dict[str, Tensor], truth: Truth, size: tuple[int, int], columns_too
):
    """Cross-entropy of the global correlation: (rows, columns, nowhere).

    size is the keyframe's (height, width) in px; the cells are square and cover it.
    """
    logits, none = level["logits"], level["none"]
    stride = size[0] // truth.visible.shape[-2]
    rows, columns = size[0] // stride, size[1] // stride
    target = (truth.warp_px.flatten(2).transpose(1, 2) + 0.5) / stride - 0.5
    visible, hidden = truth.visible.flatten(1), truth.hidden.flatten(1)
    joint = torch.cat([logits, none], dim=2).log_softmax(dim=2)
    by_row = -corner_terms(joint, target, rows, columns)
    absent = -joint[..., -1]
    row_term, none_term = pair_mean(by_row, visible), pair_mean(absent, hidden)
    if not columns_too:
        return row_term, torch.zeros_like(row_term), none_term
    by_column = -corner_terms(logits.log_softmax(dim=1), target, rows, columns)
    return row_term, pair_mean(by_column, visible), none_term


def warp_in_px(warp: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised (B, 2, h, w) -> px of a keyframe of (height, width), centres at integers."""
    return (warp + 1.0) * both(size[1] / 2.0, size[0] / 2.0, warp) - 0.5


def robust(error: Tensor, scale: float, power: float) -> Tensor:
    """((e / c)^2 + 1)^(a / 2) - 1: quadratic near 0, e^a far away."""
    return ((error / scale).square() + 1.0) ** (power / 2) - 1.0


def gaussian_nll(residual: Tensor, factor: Tensor) -> Tensor:
    """(B, 1, h, w): -log N(residual; 0, (L L^T)^-1) without its constant, L = [[a, 0], [b, c]]."""
    a, b, c = factor.split(1, dim=1)
    x, y = residual.split(1, dim=1)
    return 0.5 * ((a * x + b * y).square() + (c * y).square()) - a.log() - c.log()


def anchor_term(logits: Tensor, truth: Truth, size: tuple[int, int]) -> Tensor:
    """Cross-entropy against the anchor cell (r x r over the keyframe) that holds the target."""
    side = round(logits.shape[1] ** 0.5)
    scale = both(side / size[1], side / size[0], truth.warp_px)
    cell = ((truth.warp_px + 0.5) * scale).floor().clamp(0, side - 1).long()
    entropy = F.cross_entropy(logits.float(), cell[:, 1] * side + cell[:, 0], reduction="none")
    return pair_mean(entropy[:, None], truth.visible)


def certainty_term(certainty: Tensor, error: Tensor, truth: Truth, limit_px: float) -> Tensor:
    """Binary cross-entropy: certain is right where the cell is seen and the warp within limit."""
    right = (truth.visible & (error < limit_px)).float()
    entropy = F.binary_cross_entropy_with_logits(certainty.float(), right, reduction="none")
    return pair_mean(entropy, truth.visible | truth.hidden)


class _Sum:
    """The weighted sum of terms; a term of weight 0 is left out."""

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), device=device)
        self.terms: dict[str, Tensor] = {}

    def add(self, name: str, weight: float, value: Tensor) -> None:
        if weight:
            self.total = self.total + weight * value
            self.terms[name] = value.detach()


def matcher_loss(
    levels: list[dict[str, Tensor]],
    warp_px: Tensor,
    visible: Tensor,
    ignored: Tensor,
    options: LossOptions,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a network's levels (coarse to fine), and its terms for the log.

    A level holds `warp` (normalised) and, where it has them, `logits` with `none` (cells of the
    keyframe), `anchors`, `certainty` and `precision`. Truth as in `truth_at`, at the input size,
    which both images share.
    """
    size = (warp_px.shape[-2], warp_px.shape[-1])
    total = _Sum(warp_px.device)
    coarser_error: Tensor | None = None
    strides = [size[0] // level["warp"].shape[-2] for level in levels]
    for index, (stride, level) in enumerate(zip(strides, levels, strict=True)):
        truth = truth_at(stride, warp_px, visible, ignored)
        suffix = "abcd"[strides[:index].count(stride)] if strides.count(stride) > 1 else ""
        coarser_error = _add_level(
            total, level, truth, size, f"{stride}{suffix}", coarser_error, options
        )
    return total.total, total.terms


def _add_level(
    total: _Sum,
    level: dict[str, Tensor],
    truth: Truth,
    size: tuple[int, int],
    name: str,
    coarser_error: Tensor | None,
    options: LossOptions,
) -> Tensor:
    """Add one level's terms; returns its error (B, 1, h, w) in px, detached."""
    warp = level["warp"].float()
    stride = size[0] // warp.shape[-2]
    residual = warp_in_px(warp, size) - truth.warp_px
    error = (residual.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()
    if "logits" in level and options.classification:
        first = coarser_error is None
        row, column, none = classification_terms(level, truth, size, first and options.columns > 0)
        total.add(f"class{name}", options.classification, row)
        if first:
            total.add(f"column{name}", options.classification * options.columns, column)
        total.add(f"nowhere{name}", options.classification * options.nowhere, none)
    if "anchors" in level:
        total.add(
            f"class{name}", options.classification, anchor_term(level["anchors"], truth, size)
        )
    if warp.requires_grad:
        near = truth.visible & _reached(coarser_error, stride, warp, options.gate)
        bend = robust(error, _of_stride(ROBUST_PX, stride), options.robust_power)
        total.add(f"warp{name}", options.regression, pair_mean(bend, near))
    right_px = _of_stride(RIGHT_PX, stride)
    if "certainty" in level:
        term = certainty_term(level["certainty"], error.detach(), truth, right_px)
        total.add(f"certainty{name}", options.certainty, term)
    if "precision" in level:
        nll = gaussian_nll(residual.detach(), level["precision"].float())
        inlying = truth.visible & (error.detach() < 2 * right_px)
        total.add(f"precision{name}", options.precision, pair_mean(nll, inlying))
    return error.detach()


def _of_stride(table: dict[int, float], stride: int) -> float:
    """The entry of the next stride at least as large (a ViT's 14 counts as 16)."""
    return table[min((key for key in table if key >= stride), default=max(table))]


def _reached(coarser_error: Tensor | None, stride: int, warp: Tensor, gate: bool) -> Tensor:
    """Where the coarser level came near enough for this one to see the target."""
    if not gate or coarser_error is None or stride not in REACH_PX:
        return torch.ones_like(warp[:, :1], dtype=torch.bool)
    start = F.interpolate(coarser_error, size=warp.shape[-2:])
    return start < REACH_PX[stride]
