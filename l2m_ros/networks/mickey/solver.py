"""MicKey's published pose solver: RANSAC over pairs drawn by their probability, all at once.

    draws = draw(final_scores, options, generator)
    found = solve(Lifted(...), final_scores, draws, options)

It is random; `l2m_ros.geometry.lifted` is the robot's, which is not. Unlike the published code one
hypothesis with NaN spoils nothing but itself, and the images may have different sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.mickey.rigid import distances, lift, procrustes, soft_inliers


@dataclass(frozen=True)
class SolverOptions:
    rounds: int = 20
    pairs: int = 2048  # drawn in each round
    hypotheses: int = 100  # of each round
    corners: int = 3  # pairs that make a hypothesis
    refinements: int = 4
    inlier_m: float = 0.15
    soft_inlier_m: float = 0.3
    candidates: int | None = None  # draw among the likeliest so many pairs only; None: all


@dataclass(frozen=True)
class Views:
    """Keypoints (B, 2, n), depths (B, 1, n) and cameras (B, 3, 3) of both images."""

    kps0: Tensor
    kps1: Tensor
    depth0: Tensor
    depth1: Tensor
    K0: Tensor
    K1: Tensor

    def points(self) -> tuple[Tensor, Tensor]:
        """(B, n, 3) and (B, m, 3) metres, each in its own camera."""
        return (
            lift(self.kps0.transpose(1, 2), self.depth0[:, 0], self.K0),
            lift(self.kps1.transpose(1, 2), self.depth1[:, 0], self.K1),
        )


@dataclass(frozen=True)
class Draws:
    pairs: Tensor  # (B, rounds, m) indices into the flattened (n, m) matrix
    corners: Tensor  # (B, rounds, hypotheses, c) indices into a round's pairs


@dataclass(frozen=True)
class Hypotheses:
    score: Tensor  # (B, rounds x hypotheses) soft inliers; -inf where a hypothesis is NaN
    best: Tensor  # (B,)
    R: Tensor  # (B, 3, 3) of the best
    t: Tensor  # (B, 3)


@dataclass(frozen=True)
class Solved:
    """R 0, t 0 and confidence 0 where no hypothesis was finite (`valid` False)."""

    R: Tensor  # (B, 3, 3): y = R x + t takes points of image 0 into camera 1
    t: Tensor  # (B, 3)
    confidence: Tensor  # (B,) soft inliers at the narrow threshold
    valid: Tensor  # (B,) bool
    inliers: list[Tensor]  # of each pair (k, 2): cells of image 0 and 1, the likeliest first
    hypotheses: Hypotheses


def draw(scores: Tensor, options: SolverOptions, generator: torch.Generator) -> Draws:
    """Pairs without replacement by their probability, then corners among each round's pairs."""
    flat = scores.detach().flatten(1)
    fewest = int((flat > 0).sum(dim=1).min())
    if fewest < options.corners:
        raise InvalidInput(
            f"{fewest} pairs of keypoints are possible, a pose takes {options.corners}: "
            "the image is too small, or all keypoints' scores are 0"
        )
    index = None
    if options.candidates is not None and options.candidates < flat.shape[1]:
        flat, index = flat.topk(options.candidates, dim=1)
    count = min(options.pairs, fewest, flat.shape[1])
    many = flat.repeat_interleave(options.rounds, dim=0)  # (B rounds, n m)
    pairs = torch.multinomial(many, count, replacement=False, generator=generator)
    likely = many.gather(1, pairs).repeat_interleave(options.hypotheses, dim=0)
    corners = torch.multinomial(likely, options.corners, replacement=False, generator=generator)
    if index is not None:
        pairs = index.repeat_interleave(options.rounds, dim=0).gather(1, pairs)
    shape = (len(scores), options.rounds)
    return Draws(pairs.view(*shape, count), corners.view(*shape, options.hypotheses, -1))


def solve(
    views: Views, scores: Tensor, draws: Draws, options: SolverOptions = SolverOptions()
) -> Solved:
    x, y = drawn_points(views, draws.pairs)
    tried = hypotheses(x, y, draws.corners, options)
    each = torch.arange(len(x), device=x.device)
    rounds = tried.best // draws.corners.shape[2]
    x, y, pairs = x[each, rounds], y[each, rounds], draws.pairs[each, rounds]
    R, t = refined(tried.R, tried.t, x, y, options)
    distance = distances(R, t, x, y)
    confidence = soft_inliers(distance, options.inlier_m)
    valid = torch.isfinite(tried.score.amax(dim=1)) & torch.isfinite(confidence)
    inliers = [
        _ranked(pair[near], score, ok)
        for pair, near, score, ok in zip(
            pairs, distance <= options.inlier_m, scores, valid, strict=True
        )
    ]
    return Solved(
        torch.where(valid[:, None, None], R, 0.0),
        torch.where(valid[:, None], t, 0.0),
        torch.where(valid, confidence, 0.0),
        valid,
        inliers,
        tried,
    )


def drawn_points(views: Views, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """(B, rounds, m, 3) points of both images at the drawn pairs."""
    x, y = views.points()
    each = torch.arange(len(x), device=x.device)[:, None, None]
    columns = y.shape[1]
    return x[each, pairs // columns], y[each, pairs % columns]


def hypotheses(x: Tensor, y: Tensor, corners: Tensor, options: SolverOptions) -> Hypotheses:
    """A pose of each set of corners, scored on its own round's pairs; the first best one."""
    batch, rounds, count, c = corners.shape
    poses, scores = [], []
    for k in range(rounds):  # one at a time: all distances at once are a gigabyte
        at = corners[:, k].reshape(batch, -1, 1).expand(-1, -1, 3)
        ends = (points[:, k].gather(1, at).view(batch, count, c, 3) for points in (x, y))
        R, t = procrustes(*ends)
        score = soft_inliers(distances(R, t, x[:, k, None], y[:, k, None]), options.soft_inlier_m)
        poses.append((R, t))
        scores.append(torch.where(torch.isfinite(score), score, -torch.inf))
    score = torch.cat(scores, dim=1)
    best = score.argmax(dim=1)
    each = torch.arange(batch, device=x.device)
    R = torch.cat([pose[0] for pose in poses], dim=1)[each, best]
    t = torch.cat([pose[1] for pose in poses], dim=1)[each, best]
    return Hypotheses(score, best, R, t)


def refined(
    R: Tensor, t: Tensor, x: Tensor, y: Tensor, options: SolverOptions
) -> tuple[Tensor, Tensor]:
    """Fitted again to the inliers as long as they become more; each pair stops by itself."""
    count = torch.full((len(x),), options.corners, device=x.device)
    active = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(options.refinements):
        near = distances(R, t, x, y) <= options.inlier_m
        now = near.sum(dim=1)
        active = active & (now >= options.corners) & (now > count)
        if not active.any():
            break
        new_R, new_t = procrustes(x, y, near.to(x))
        R = torch.where(active[:, None, None], new_R, R)
        t = torch.where(active[:, None], new_t, t)
        count = torch.where(active, now, count)
    return R, t


def _ranked(pairs: Tensor, scores: Tensor, valid: Tensor) -> Tensor:
    if not valid:
        return pairs.new_zeros((0, 2))
    order = torch.argsort(scores.flatten()[pairs], descending=True, stable=True)
    pairs = pairs[order]
    return torch.stack([pairs // scores.shape[1], pairs % scores.shape[1]], dim=1)
