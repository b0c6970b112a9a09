"""Learning from a relative pose alone: RANSAC that gradients pass through, and REINFORCE.

    draws    = draw_hypotheses(final_scores, options, generator)
    expected = expected_loss(views, truth, draws, options)    loss of each pair (B,)
    learnt   = gradients(expected, kept)

Where pairs are drawn from has no derivative: it learns by REINFORCE, each drawn pair's log
probability gaining by how much better its round was than the mean round. Keypoints and depths
learn by ordinary back-propagation through the poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.mickey.rigid import (
    determined_motion,
    distances,
    procrustes,
    soft_inliers,
)
from l2m_ros.networks.mickey.solver import Draws, SolverOptions, Views, draw, drawn_points
from l2m_ros.workshop.training.metric_losses import (
    LOSSES,
    Truth,
    rotation_error_rad,
    translation_error_m,
)

LOG_EPS = 1e-16


@dataclass(frozen=True)
class RansacOptions:
    """Defaults: as published."""

    rounds: int = 20
    pairs: int = 512  # drawn in each round; 64 while warming up
    hypotheses: int = 20  # of each round
    corners: int = 8
    refinements: int = 4
    inlier_m: float = 0.15
    soft_inlier_m: float = 0.3
    temperature: float = 20.0  # of the hypotheses' softmax, in soft inliers
    null_share: float | None = 0.35  # of the pairs, that "no pose" scores; None: not offered
    candidates: int | None = None  # draw among the likeliest so many pairs only; None: all
    loss: str = "vcre"
    soft: bool = True

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise InvalidInput(f"loss is {self.loss!r}, known: {', '.join(LOSSES)}")

    def drawing(self) -> SolverOptions:
        return SolverOptions(
            rounds=self.rounds,
            pairs=self.pairs,
            hypotheses=self.hypotheses,
            corners=self.corners,
            candidates=self.candidates,
        )


@dataclass(frozen=True)
class Expected:
    """What the poses of a batch cost; all of it (B,) or (B, rounds)."""

    rounds: Tensor  # (B, rounds) the expected loss of each round, with gradient
    rotation_rad: Tensor  # (B,) expected, without the null hypothesis, no gradient
    translation_m: Tensor
    draws: Draws

    @property
    def loss(self) -> Tensor:
        """(B,): the mean round, REINFORCE's baseline."""
        return self.rounds.mean(dim=1)


def draw_hypotheses(scores: Tensor, options: RansacOptions, generator: torch.Generator) -> Draws:
    return draw(scores, options.drawing(), generator)


def expected_loss(
    views: Views, truth: Truth, draws: Draws, options: RansacOptions = RansacOptions()
) -> Expected:
    """Loss of each pair over the softmax of its hypotheses' inliers; NaN where a pair has NaN."""
    return expected_loss_of(*drawn_points(views, draws.pairs), truth, draws, options)


def expected_loss_of(
    x: Tensor, y: Tensor, truth: Truth, draws: Draws, options: RansacOptions
) -> Expected:
    """The same of the drawn points (B, rounds, m, 3) in both cameras."""
    x, y = x[:, :, None], y[:, :, None]  # beside each hypothesis
    with torch.no_grad():
        fitted = refined_set(x, y, corner_set(draws, x), options)
    R, t, good = determined_motion(x, y, fitted)  # (B, rounds, hypotheses, 3, 3)
    score = soft_inliers(distances(R, t, x, y), options.soft_inlier_m)
    each = _beside(truth)
    loss = LOSSES[options.loss]
    cost = loss.of(R, t, each, soft=options.soft)
    # What no set of points determines is no hypothesis: no inliers, the null hypothesis' cost.
    score = torch.where(good, score, torch.zeros_like(score))
    cost = torch.where(good, cost, torch.full_like(cost, loss.null(options.soft)))
    own = (score / options.temperature).softmax(dim=-1).detach()
    if options.null_share is not None:
        null_score = options.null_share * draws.pairs.shape[-1]
        score = torch.cat([score, torch.full_like(score[..., :1], null_score)], dim=-1)
        null_cost = loss.null(options.soft)
        cost = torch.cat([cost, torch.full_like(cost[..., :1], null_cost)], dim=-1)
    share = (score / options.temperature).softmax(dim=-1)
    angle = rotation_error_rad(R.detach(), each.R)
    off = translation_error_m(t.detach(), each.t)
    return Expected(
        (share * cost).sum(dim=-1),
        (own * angle).sum(dim=-1).mean(dim=1),
        (own * off).sum(dim=-1).mean(dim=1),
        draws,
    )


def _beside(truth: Truth) -> Truth:
    """The same for each round and hypothesis."""
    return Truth(
        truth.R[:, None, None], truth.t[:, None, None],
        truth.K0[:, None, None], truth.K1[:, None, None],
    )  # fmt: skip


def corner_set(draws: Draws, like: Tensor) -> Tensor:
    """(B, rounds, hypotheses, m): 1 at the pairs that a hypothesis begins with."""
    shape = (*draws.corners.shape[:3], draws.pairs.shape[-1])
    return like.new_zeros(shape).scatter(-1, draws.corners, 1.0)


def refined_set(x: Tensor, y: Tensor, start: Tensor, options: RansacOptions) -> Tensor:
    """The set of pairs to fit each pose to: of the last fit whose inliers still became more.

    So the set is one step behind the inliers that it found; the published code does so.
    """
    current, kept = start, start
    best = start.sum(dim=-1)
    active = torch.ones_like(best, dtype=torch.bool)
    for _ in range(options.refinements):
        near = (distances(*procrustes(x, y, current), x, y) <= options.inlier_m).to(start)
        count = near.sum(dim=-1)
        active = active & (count > best)
        if not active.any():
            break
        best = torch.where(active, count, best)
        kept = torch.where(active[..., None], current, kept)
        current = torch.where(active[..., None], near, current)
    return kept


def curriculum(loss: Tensor, percent: float | None) -> Tensor:
    """(B,) 1 for the easiest `percent` of the pairs, by rank; all finite ones where None.

    A pair is kept if its loss is below the next larger one's, so of equals none may be kept.
    """
    finite = torch.isfinite(loss)
    count = int(finite.sum())
    keep = count if percent is None else max(int(count * percent / 100), 1)
    if keep >= count:  # also a batch of one
        return finite.to(loss)
    limit = loss.detach()[finite].sort().values[keep]
    return (finite & (loss.detach() < limit)).to(loss)


@dataclass(frozen=True)
class Learnt:
    loss: Tensor  # scalar: the mean over the pairs kept, with gradient to keypoints and depths
    log_p: Tensor  # (B, n, m): the gradient of the log of final_scores


def learnt(expected: Expected, kept: Tensor, shape: torch.Size) -> Learnt:
    """Both gradients' sources, for `backward`; kept (B,) is `curriculum`'s."""
    each = torch.where(kept > 0, expected.loss, torch.zeros_like(expected.loss))
    loss = (each * kept).sum() / kept.sum().clamp_min(1)
    return Learnt(loss, reinforce(expected, kept, shape))


def reinforce(expected: Expected, kept: Tensor, shape: torch.Size) -> Tensor:
    """(B, n, m): of each drawn pair, the mean over rounds of how much worse than the mean."""
    rounds = expected.rounds.detach()
    worse = (rounds - rounds.mean(dim=1, keepdim=True)) * kept[:, None] / rounds.shape[1]
    worse = torch.where(kept[:, None] > 0, worse, torch.zeros_like(worse))
    pairs = expected.draws.pairs
    flat = rounds.new_zeros(len(rounds), shape[1] * shape[2])
    flat.scatter_add_(1, pairs.flatten(1), worse[..., None].expand(pairs.shape).flatten(1))
    return flat.view(shape)


def backward(step: Learnt, scores: Tensor) -> None:
    """Gradients into everything that final_scores, keypoints and depths came from."""
    torch.autograd.backward(
        [step.loss, torch.log(scores + LOG_EPS)], [torch.ones_like(step.loss), step.log_p]
    )


def warmed_up(options: RansacOptions, pairs: int = 64) -> RansacOptions:
    """For the first steps: fewer pairs, no null hypothesis to hide behind."""
    return replace(options, pairs=pairs, null_share=None)
