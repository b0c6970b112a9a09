"""The metric network from relative poses: a network, pairs, MicKey's loss, the loop, together.

expected loss over probabilistic matches     direct gradients to keypoints and depths
REINFORCE                                    gradients to descriptors and scores
curriculum, warm-up, null hypothesis         as published
depth likelihood                             where a depth is known, if asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.networks.mickey.network import COMPACT
from l2m_ros.spelling import nearest
from l2m_ros.workshop.training.data import Schedule
from l2m_ros.workshop.training.loop import LoopOptions, Run, train
from l2m_ros.workshop.training.metric_data import (
    MetricBatch,
    MetricBatches,
    PairSource,
    WorldOptions,
    depth_at,
    focal,
    truth_of,
    views_of,
)
from l2m_ros.workshop.training.metric_device import DeviceMetricBatches
from l2m_ros.workshop.training.metric_errors import MetricValidation
from l2m_ros.workshop.training.metric_pairs import MetricPairs, PairLimits
from l2m_ros.workshop.training.metric_ransac import (
    LOG_EPS,
    RansacOptions,
    curriculum,
    draw_hypotheses,
    expected_loss,
    learnt,
    warmed_up,
)
from l2m_ros.workshop.training.processes import Processes


@dataclass(frozen=True)
class MetricOptions:
    """A training of the metric network; a config file gives any of these by name."""

    network: Mapping[str, Any] = field(default_factory=lambda: dict(COMPACT))
    width: int = 224
    height: int = 160
    batch: int = 8
    validation_pairs: int = 48
    held_out_every: int = 0  # of the --sequences, instead of rendered worlds
    ransac: RansacOptions = field(
        default_factory=lambda: RansacOptions(
            rounds=6, pairs=128, hypotheses=12, corners=4, candidates=8192
        )
    )
    easiest: tuple[float, float] | None = (30.0, 80.0)  # percent of the pairs, first and last
    warm_up: float = 0.1  # share of the difficulty's ramp with few pairs, no null hypothesis
    reinforce: bool = True
    direct: bool = True
    depth_weight: float = 0.0  # of the likelihood of known depths
    seen_weight: float = 1.0  # of the likelihood of what parallax shows; the head on `lite` alone
    length_weight: float = 0.0  # of the error of a pair's length; the head on `lite` alone
    pairs_of_world: int = 60  # at most; of a recording too. For the head on `lite` alone
    channel_dropout: float = 0.2  # of the features: the same
    worlds: WorldOptions = field(default_factory=WorldOptions)
    limits: PairLimits = field(default_factory=PairLimits)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=1))

    def __post_init__(self) -> None:
        on_lite = self.seen_weight + self.length_weight if self.on_lite else 0.0
        weights = self.depth_weight + on_lite
        if not (self.reinforce or self.direct or weights > 0):
            raise InvalidInput(
                "nothing would be learnt: switch on reinforce or direct, or set depth_weight, "
                "seen_weight or length_weight above 0"
            )

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height

    @property
    def on_lite(self) -> bool:
        """A head on the frozen `lite` instead of a network of its own."""
        return self.network.get("backbone") == "lite"


PARTS = {"loop": LoopOptions, "ransac": RansacOptions, "worlds": WorldOptions, "limits": PairLimits}


def options_from(settings: Mapping[str, Any]) -> MetricOptions:
    """Of a parsed config file; unknown names fail with the nearest right one."""
    settings = dict(settings)
    parts = {
        name: filled(kind, settings.pop(name), name)
        for name, kind in PARTS.items()
        if name in settings
    }
    made: MetricOptions = filled(MetricOptions, {**settings, **parts}, "the config")
    return made


def filled(kind: type, values: Any, where: str) -> Any:
    known = [entry.name for entry in fields(kind)]
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{where}: expected names and values, got {values!r}")
    for name in values:
        if name not in known:
            raise InvalidInput(f"{where}: unknown option {name!r}{nearest(str(name), known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class MetricLoss:
    """What the loop calls: (model, batch) -> loss, terms."""

    def __init__(self, options: MetricOptions) -> None:
        self.options, self._ramp = options, Ramp(options)

    def __call__(self, model: nn.Module, batch: MetricBatch) -> tuple[Tensor, dict[str, Any]]:
        network: Any = model
        count = len(batch.first)
        features = network.encode(torch.cat([batch.first, batch.second]))
        with torch.autocast(batch.first.device.type, enabled=False):
            features = {name: value.float() for name, value in features.items()}
            first = {name: value[:count] for name, value in features.items()}
            second = {name: value[count:] for name, value in features.items()}
            loss, terms = self._pose(network, first, second, batch)
            if self.options.depth_weight > 0:
                known = 0.5 * (
                    depth_likelihood(first, batch.depth_first, batch.K_first)
                    + depth_likelihood(second, batch.depth_second, batch.K_second)
                )
                loss = loss + self.options.depth_weight * known
                terms["depth"] = known.detach()
        return loss, terms

    def _pose(
        self, network: Any, first: dict[str, Tensor], second: dict[str, Tensor], batch: MetricBatch
    ) -> tuple[Tensor, dict[str, Any]]:
        options = self.options
        scores = network.final_scores(first, second)
        views = views_of(first, second, batch)
        ransac = self._ramp.ransac(batch.difficulty)
        generator = torch.Generator(scores.device).manual_seed(batch.seed)
        draws = draw_hypotheses(scores, ransac, generator)
        expected = expected_loss(views, truth_of(batch), draws, ransac)
        kept = curriculum(expected.loss, self._ramp.easiest(batch.difficulty))
        step = learnt(expected, kept, scores.shape)
        loss = step.loss if options.direct else step.loss.detach()
        if options.reinforce:
            # Its gradient by the scores is REINFORCE's, its value nothing.
            chance = (torch.log(scores + LOG_EPS) * step.log_p).sum()
            loss = loss + chance - chance.detach()
        return loss, {
            "kept": kept.sum(),
            "rotation_deg": torch.rad2deg(expected.rotation_rad.nanmean()),
            "translation_m": expected.translation_m.nanmean(),
        }


class Ramp:
    """What of the loss changes while the pairs grow harder."""

    def __init__(self, options: MetricOptions) -> None:
        self.options = options

    def progress(self, difficulty: float) -> float:
        """0 to 1 along the ramp of difficulty; 1 where there is none."""
        start, full = self.options.loop.difficulty
        if full <= start:
            return 1.0
        return min(max((difficulty - start) / (full - start), 0.0), 1.0)

    def ransac(self, difficulty: float) -> RansacOptions:
        options = self.options
        if self.progress(difficulty) < options.warm_up:
            return warmed_up(options.ransac, min(64, options.ransac.pairs))
        return options.ransac

    def easiest(self, difficulty: float) -> float | None:
        """Percent of a batch's pairs that count."""
        if self.options.easiest is None:
            return None
        low, high = self.options.easiest
        return low + (high - low) * self.progress(difficulty)


def depth_likelihood(side: dict[str, Tensor], depth: Tensor, K: Tensor) -> Tensor:
    """Laplace's, of the log of depth at each keypoint where it is known."""
    true = depth_at(depth, side["keypoints"].detach())
    known = torch.isfinite(true) & (true > 0)
    if not known.any():
        return side["depth"].sum() * 0.0
    predicted = torch.log(side["depth"][:, 0] * focal(K)[:, None])
    error = (predicted - torch.log(torch.where(known, true, 1.0))).abs()
    log_sigma = side["depth_log_sigma"][:, 0] if "depth_log_sigma" in side else error * 0.0
    return (error * torch.exp(-log_sigma) + log_sigma)[known].mean()


def batches_of(options: MetricOptions, pairs: MetricPairs) -> Schedule:
    loop, drawn = options.loop, (pairs, options.size, options.batch, options.loop.seed)
    if loop.device.startswith("cuda"):
        return DeviceMetricBatches(*drawn, loop.device)
    return MetricBatches(*drawn)


def train_metric(
    options: MetricOptions,
    network: nn.Module,
    pairs: MetricPairs,
    held_out: PairSource,
    folder: Path,
) -> bool:
    """Train on `pairs`, measure on `held_out`; True in the process that wrote the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with Processes.joined(options.loop.device) as processes:
        batches = batches_of(options, pairs)
        run = Run(network, MetricLoss(options), batches, options.loop, processes)  # type: ignore[arg-type]
        train(run, folder, MetricValidation(held_out, options.validation_pairs))
        return processes.leads
