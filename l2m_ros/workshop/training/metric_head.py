"""Metres for `lite` from relative poses alone: MicKey's loss over lite's own matches.

    frozen lite        features of each image, matches of each pair, once (`seen_pairs`)
    the head           depth over focal length of each cell, and how sure it is of it
    a match is drawn   by lite's confidence and by how sure the head is of both its ends

expected loss of the poses     gradients to depths, through weighted Procrustes
REINFORCE                      gradients to how sure the head is
null hypothesis, curriculum    as published
seen depths                    the likelihood of what parallax shows under the true pose
length                         how wrong the pair's length comes out (`metric_length.py`)
known depths                   the likelihood of a sensor's, if asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.pose_problem import PoseOptions
from l2m_ros.geometry.scale import ScaleEvidence
from l2m_ros.geometry.se3 import inverse
from l2m_ros.geometry.texture import TextureNoise
from l2m_ros.types import Camera, Correspondences, Frame, MetricPose
from l2m_ros.workshop.training.depth_data import CELL, Samples
from l2m_ros.workshop.training.depth_head import normalised
from l2m_ros.workshop.training.loop import Run, train
from l2m_ros.workshop.training.metric import MetricOptions, Ramp
from l2m_ros.workshop.training.metric_data import focal
from l2m_ros.workshop.training.metric_errors import PLACE_SIGMA, PairErrors, summary
from l2m_ros.workshop.training.metric_length import length_loss
from l2m_ros.workshop.training.metric_losses import TALLEST_PX, Truth
from l2m_ros.workshop.training.metric_ransac import (
    curriculum,
    draw_hypotheses,
    expected_loss_of,
    learnt,
)
from l2m_ros.workshop.training.pair_bank import BankBatch, BankBatches, PairBank, bank_batch
from l2m_ros.workshop.training.processes import Processes

FARTHEST_LOG_FACTOR = 3.0  # that the likelihood still pulls on
ANY_SCALE = PoseOptions(max_scale_sigma=10.0, texture=TextureNoise(grey=0.0))
# Of a head of this training, common to its depths; it says where lengths come from, 0.05 m would
# give up 2 % of the poses within a tenth of the way.
SHIFT_SIGMA_M = 0.01


class HeadMetricLoss:
    """What the loop calls: (head, batch) -> loss, terms."""

    def __init__(self, options: MetricOptions) -> None:
        self.options, self._ramp = options, Ramp(options)

    def __call__(self, model: nn.Module, batch: BankBatch) -> tuple[Tensor, dict[str, Any]]:
        found = model(batch.cells, batch.context)
        members = found["member_log_depth"].shape[1]
        losses, terms = [], {}
        for member in range(members):
            one = {
                name: found[f"member_{name}"][:, member]
                for name in ("log_depth", "log_sigma", "image_log_sigma")
            }
            loss, terms = self._member(one, batch)
            losses.append(loss)
        return torch.stack(losses).mean(), terms

    def _member(
        self, found: Mapping[str, Tensor], batch: BankBatch
    ) -> tuple[Tensor, dict[str, Any]]:
        options = self.options
        depth, log_sigma = at_matches(found, batch)
        loss, terms = depth.sum() * 0.0, {}
        if options.direct or options.reinforce:
            pose, terms = self._pose(depth, log_sigma, batch)
            loss = loss + pose
        image = found["image_log_sigma"]
        if options.seen_weight > 0:
            seen = likelihood(depth, log_sigma, batch.seen, image)
            loss = loss + options.seen_weight * seen
            terms["seen"] = seen.detach()
        if options.length_weight > 0:
            length = length_loss(depth, log_sigma, batch.seen)
            loss = loss + options.length_weight * length
            terms["length"] = length.detach()
        if options.depth_weight > 0:
            flat = (found["log_depth"].flatten(1), found["log_sigma"].flatten(1))
            known = likelihood(*flat, batch.labels.flatten(1), image)
            loss = loss + options.depth_weight * known
            terms["depth"] = known.detach()
        return loss, terms

    def _pose(
        self, log_depth: Tensor, log_sigma: Tensor, batch: BankBatch
    ) -> tuple[Tensor, dict[str, Any]]:
        options, ransac = self.options, self._ramp.ransac(batch.difficulty)
        x, y = points_of(log_depth, batch)
        chance = log_chance(log_sigma, batch)
        generator = torch.Generator(chance.device).manual_seed(batch.seed)
        draws = draw_hypotheses(chance.detach().exp(), ransac, generator)
        each = torch.arange(len(x), device=x.device)[:, None, None]
        drawn = x[each, draws.pairs], y[each, draws.pairs]
        expected = expected_loss_of(*drawn, truth_of(batch), draws, ransac)
        kept = curriculum(expected.loss, self._ramp.easiest(batch.difficulty))
        step = learnt(expected, kept, torch.Size((*chance.shape, 1)))
        loss = step.loss if options.direct else step.loss.detach()
        if options.reinforce:
            # Its gradient by the chances is REINFORCE's, its value nothing.
            gain = (chance * step.log_p[..., 0]).sum()
            loss = loss + gain - gain.detach()
        return loss, {
            "kept": kept.sum(),
            "rotation_deg": torch.rad2deg(expected.rotation_rad.nanmean()),
            "translation_m": expected.translation_m.nanmean(),
        }


def at_matches(found: Mapping[str, Tensor], batch: BankBatch) -> tuple[Tensor, Tensor]:
    """(2 B, M): log of depth over focal length and log sigma at the matches, between cells."""
    rows, columns = found["log_depth"].shape[-2:]
    size = batch.px.new_tensor([columns * CELL, rows * CELL])
    grid = 2.0 * (batch.px + 0.5) / size - 1.0
    maps = torch.stack([found["log_depth"], found["log_sigma"]], dim=1)
    taken = F.grid_sample(maps, grid[:, :, None], "bilinear", "border", align_corners=False)
    return taken[:, 0, :, 0], taken[:, 1, :, 0]


def points_of(log_depth: Tensor, batch: BankBatch) -> tuple[Tensor, Tensor]:
    """(B, M, 3) twice: metres, each in its own camera."""
    K = batch.K[:, None]
    rays = (batch.px - K[..., :2, 2]) / torch.stack([K[..., 0, 0], K[..., 1, 1]], dim=-1)
    rays = torch.cat([rays, torch.ones_like(rays[..., :1])], dim=-1)
    points = rays * (log_depth.exp() * focal(batch.K)[:, None])[..., None]
    first, second = points.chunk(2)
    return first, second


def log_chance(log_sigma: Tensor, batch: BankBatch) -> Tensor:
    """(B, M) log of how likely a match is drawn; what is no match, never."""
    first, second = log_sigma.chunk(2)
    sure = torch.log(batch.confidence.clamp_min(1e-9)) - first - second
    return torch.where(batch.confidence > 0, sure, -100.0).log_softmax(dim=1)


def likelihood(log_depth: Tensor, log_sigma: Tensor, labels: Tensor, image: Tensor) -> Tensor:
    """Laplace's: of each place (n, m) about its image's factor, and of that factor (n,)."""
    known = torch.isfinite(labels)
    count = known.sum(dim=1)
    error = torch.where(known, log_depth - torch.where(known, labels, 0.0), 0.0)
    factor = error.sum(dim=1) / count.clamp_min(1)
    apart = torch.where(known, (error - factor[:, None]).abs(), 0.0)
    each = torch.where(known, apart * torch.exp(-log_sigma) + log_sigma, 0.0)
    whole = factor.abs().clamp_max(FARTHEST_LOG_FACTOR) * torch.exp(-image) + image
    taught = (count > 0).float()
    one = each.sum(dim=1) / count.clamp_min(1) + whole
    return (one * taught).sum() / taught.sum().clamp_min(1)


def truth_of(batch: BankBatch) -> Truth:
    """Pixels of the loss are those of an image 720 px long."""
    longest = CELL * max(batch.cells.shape[-2:])
    K = batch.K * (TALLEST_PX / longest)
    K[:, 2, 2] = 1.0
    return Truth(batch.motion[:, :3, :3], batch.motion[:, :3, 3], *K.chunk(2))


def train_on_bank(
    options: MetricOptions,
    network: nn.Module,
    bank: PairBank,
    held_out: PairBank,
    folder: Path,
    *,
    fresh: bool,
) -> bool:
    """Train, measuring on `held_out`; True in the process that wrote the folder.

    fresh: the mean and deviation of the features are not yet the network's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fresh:
        normalised(network, samples_of(bank))
    batches = BankBatches(
        bank, options.size, options.batch, options.loop.seed, options.channel_dropout
    )
    with Processes.joined(options.loop.device) as processes:
        run = Run(network, HeadMetricLoss(options), batches, options.loop, processes)  # type: ignore[arg-type]
        train(run, folder, HeadPairValidation(held_out, options.validation_pairs, options.size))
        return processes.leads


# --- how good it is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class HeadPairValidation:
    bank: PairBank
    count: int
    size: tuple[int, int]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        where = next(model.parameters()).device
        try:
            return summary(bank_errors(model.cpu(), self.bank, self.count, self.size))
        finally:
            model.to(where)


@torch.no_grad()
def bank_errors(
    model: nn.Module, bank: PairBank, count: int, size: tuple[int, int]
) -> list[PairErrors]:
    """Of every few pairs, by what the robot runs: lite's matches with the head's depths."""
    chosen = np.unique(np.linspace(0, len(bank) - 1, min(count, len(bank))).astype(int))
    return [_pair_errors(model, bank, int(at), size) for at in chosen]


def _pair_errors(model: nn.Module, bank: PairBank, at: int, size: tuple[int, int]) -> PairErrors:
    batch = bank_batch(bank, np.array([at]), 0, 1.0)
    found = {name: value[:, 0] for name, value in model(batch.cells, batch.context).items()
             if name in ("log_depth", "log_sigma")}  # fmt: skip
    log_depth, _ = at_matches(found, batch)
    depth, factors, spread = _depth_errors(found["log_depth"], log_depth, batch)
    truth = batch.motion[0].double().numpy()
    return PairErrors.of(_pose_of(found, batch, size), truth, depth, factors, spread)


def _pose_of(found: dict[str, Tensor], batch: BankBatch, size: tuple[int, int]) -> Any:
    """second_from_first by `estimate_pose`, its length the mean of what either image says."""
    good = batch.confidence[0].numpy() > 0
    px = [side.double().numpy()[good] for side in batch.px]
    sure = np.clip(batch.confidence[0].double().numpy()[good], 0.0, 1.0)
    blank = np.zeros((size[1], size[0], 3), np.uint8)  # not asked: ANY_SCALE
    frames = [Frame(blank, Camera(*size, K.double().numpy())) for K in batch.K]
    poses = []
    for query, keyframe in ((0, 1), (1, 0)):
        depth = found["log_depth"][keyframe].exp() * focal(batch.K)[keyframe]
        evidence = ScaleEvidence(
            mono_depth=_whole(depth, size),
            mono_sigma=_whole(found["log_sigma"][keyframe].exp(), size),
            mono_scale_sigma=PLACE_SIGMA,
            mono_shift_sigma_m=SHIFT_SIGMA_M,
        )
        pose = estimate_pose(
            Correspondences(px[query], px[keyframe], sure),
            frames[query], frames[keyframe], ANY_SCALE, evidence,
        )  # fmt: skip
        if isinstance(pose, MetricPose):
            there = pose.keyframe_from_camera
            poses.append(there if keyframe == 1 else inverse(there))
    if not poses:
        return None
    lengths = [np.linalg.norm(pose[:3, 3]) for pose in poses]
    whole = poses[0].copy()
    whole[:3, 3] *= np.exp(np.mean(np.log(lengths))) / lengths[0]
    return whole


def _whole(cells: Tensor, size: tuple[int, int]) -> Any:
    return cv2.resize(cells.numpy(), size, interpolation=cv2.INTER_LINEAR)


def _depth_errors(
    cells: Tensor, log_depth: Tensor, batch: BankBatch
) -> tuple[float, tuple[float, float], float]:
    """Median | z / truth - 1 |, both images' factors, the spread about the first's; all of log."""
    ratios = [r[np.isfinite(r)] for r in (cells - batch.labels).flatten(1).numpy()]
    if not all(len(r) for r in ratios):  # no sensor knows depth: what parallax shows
        ratios = [r[np.isfinite(r)] for r in (log_depth - batch.seen).numpy()]
    if not all(len(r) for r in ratios):
        return np.nan, (np.nan, np.nan), np.nan
    first, second = (float(np.median(r)) for r in ratios)
    spread = 1.4826 * float(np.median(np.abs(ratios[0] - first)))
    return float(np.median(np.abs(np.expm1(ratios[0])))), (first, second), spread


def samples_of(bank: PairBank) -> Samples:
    """A bank's images, for what a card states; labels from parallax where no sensor knows any."""
    labels = bank.labels.numpy().copy()
    unknown = ~np.isfinite(labels).any(axis=(1, 2))
    for pair in np.flatnonzero(unknown[bank.ends.numpy()].any(axis=1)):
        for side, image in enumerate(bank.ends[pair].tolist()):
            if unknown[image]:
                px = bank.px[pair, :, 2 * side : 2 * side + 2].numpy()
                at = np.floor((px + 0.5) / CELL).astype(int)
                seen = bank.seen[pair, :, side].numpy()
                good = np.isfinite(seen) & (at >= 0).all(axis=1)
                good &= (at < labels.shape[:0:-1]).all(axis=1)
                labels[image, at[good, 1], at[good, 0]] = seen[good]
    family = np.full(len(labels), -1)
    return Samples(bank.cells.numpy(), bank.context.numpy(), labels, bank.place, family)
