"""The metric network from relative poses: a network, pairs, MicKey's loss, the loop, together.

expected loss over probabilistic matches     direct gradients to keypoints and depths
REINFORCE                                    gradients to descriptors and scores
curriculum, warm-up, null hypothesis         as published
depth likelihood                             where a depth is known, if asked for
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.se3 import angle_rad
from l2m_ros.networks.mickey.network import COMPACT
from l2m_ros.networks.mickey.solver import Views
from l2m_ros.spelling import nearest
from l2m_ros.types import Correspondences, FloatArray, Frame, MatchDepths, MetricPose
from l2m_ros.workshop.evaluation.metrics import rotation_error_deg
from l2m_ros.workshop.training.data import Schedule
from l2m_ros.workshop.training.loop import LoopOptions, Run, train
from l2m_ros.workshop.training.metric_data import (
    MetricBatch,
    MetricBatches,
    MetricPair,
    PairSource,
    WorldOptions,
    collate,
)
from l2m_ros.workshop.training.metric_device import DeviceMetricBatches
from l2m_ros.workshop.training.metric_losses import TALLEST_PX, Truth
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

MIN_PROBABILITY = 1e-3
PLACE_SIGMA, IMAGE_SIGMA = 0.3, 0.1  # relative, stated to the pose of a network in training


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
    pairs_of_world: int = 60  # at most; of a recording too. For the head on `lite` alone
    channel_dropout: float = 0.2  # of the features: the same
    worlds: WorldOptions = field(default_factory=WorldOptions)
    limits: PairLimits = field(default_factory=PairLimits)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=1))

    def __post_init__(self) -> None:
        weights = self.depth_weight + (self.seen_weight if self.on_lite else 0.0)
        if not (self.reinforce or self.direct or weights > 0):
            raise InvalidInput(
                "nothing would be learnt: switch on reinforce or direct, or set depth_weight or "
                "seen_weight above 0"
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
        name: _filled(kind, settings.pop(name), name)
        for name, kind in PARTS.items()
        if name in settings
    }
    made: MetricOptions = _filled(MetricOptions, {**settings, **parts}, "the config")
    return made


def _filled(kind: type, values: Any, where: str) -> Any:
    known = [entry.name for entry in fields(kind)]
    if not isinstance(values, Mapping):
        raise InvalidInput(f"{where}: expected names and values, got {values!r}")
    for name in values:
        if name not in known:
            raise InvalidInput(f"{where}: unknown option {name!r}{nearest(str(name), known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


# --- the loss ---------------------------------------------------------------------------------


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
        """0 to 1 along the ramp of difficulty."""
        start, full = self.options.loop.difficulty
        return min(max((difficulty - start) / max(full - start, 1e-6), 0.0), 1.0)

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


def views_of(first: dict[str, Tensor], second: dict[str, Tensor], batch: MetricBatch) -> Views:
    """Depth over focal length becomes metres by each image's camera."""
    depths = [
        side["depth"] * focal(K)[:, None, None]
        for side, K in ((first, batch.K_first), (second, batch.K_second))
    ]
    return Views(
        first["keypoints"], second["keypoints"], depths[0], depths[1], batch.K_first, batch.K_second
    )


def focal(K: Tensor) -> Tensor:
    """(B,) px."""
    return (K[:, 0, 0] * K[:, 1, 1]).sqrt()


def truth_of(batch: MetricBatch) -> Truth:
    """Pixels of the loss are those of an image 720 px long."""
    T, scale = batch.second_from_first, TALLEST_PX / max(batch.first.shape[-2:])
    cameras = []
    for K in (batch.K_first, batch.K_second):
        K = K * scale
        K[:, 2, 2] = 1.0
        cameras.append(K)
    return Truth(T[:, :3, :3], T[:, :3, 3], *cameras)


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


def depth_at(depth: Tensor, points: Tensor) -> Tensor:
    """(B, n) the nearest pixel's; NaN where there is none."""
    height, width = depth.shape[-2:]
    x = points[:, 0].round().long().clamp(0, width - 1)
    y = points[:, 1].round().long().clamp(0, height - 1)
    return depth.flatten(1).gather(1, y * width + x)


# --- how good it is ---------------------------------------------------------------------------


@dataclass(frozen=True)
class PairErrors:
    """Of one pair; NaN where no pose was found."""

    rotation_deg: float
    way_share: float  # |t - truth| / |truth|
    scale: float  # | |t| / |truth| - 1 |
    turn_deg: float  # of the truth
    depth: float  # median of | z / truth - 1 |, NaN without depth
    log_factors: tuple[float, float]  # median log of z / truth of either image, NaN without depth
    spread: float  # of the first image's log ratios about their median, robust

    @staticmethod
    def of(pose: FloatArray | None, truth: FloatArray, depth: float,
           log_factors: tuple[float, float], spread: float) -> PairErrors:  # fmt: skip
        """pose, truth: second_from_first."""
        of_pose, turn_deg = (np.nan, np.nan, np.nan), float(np.degrees(angle_rad(truth[:3, :3])))
        if pose is not None:
            way_m = float(np.linalg.norm(truth[:3, 3]))
            of_pose = (
                rotation_error_deg(pose, truth),
                float(np.linalg.norm(pose[:3, 3] - truth[:3, 3])) / way_m,
                abs(float(np.linalg.norm(pose[:3, 3])) / way_m - 1),
            )
        return PairErrors(*of_pose, turn_deg, depth, log_factors, spread)


@torch.no_grad()
def pair_errors(network: Any, pair: MetricPair) -> PairErrors:
    """By what the robot runs: matches with depth at both ends, given to `estimate_pose`."""
    batch = collate([pair], 0, 1.0)
    first, second = network.encode(batch.first), network.encode(batch.second)
    views = views_of(first, second, batch)
    x, y = (points[0].double().numpy() for points in views.points())
    i, j, sure = mutual_pairs(network, first, second)
    pixels = [side["keypoints"][0].T.double().numpy() for side in (first, second)]
    depths = MatchDepths(x[i, 2], y[j, 2], PLACE_SIGMA, IMAGE_SIGMA)
    pairs = Correspondences(pixels[0][i], pixels[1][j], np.clip(sure, 0.0, 1.0), depths=depths)
    found = estimate_pose(
        pairs, *(Frame(side.rgb, side.camera) for side in (pair.first, pair.second))
    )
    ratios = [
        _depth_ratios(z, truth, side["keypoints"])
        for z, truth, side in (
            (x[:, 2], batch.depth_first, first), (y[:, 2], batch.depth_second, second)
        )
    ]  # fmt: skip
    depth_error = _median(np.abs(ratios[0] - 1))
    factors = (_median(np.log(ratios[0])), _median(np.log(ratios[1])))
    spread = 1.4826 * _median(np.abs(np.log(ratios[0]) - factors[0]))
    pose = found.keyframe_from_camera if isinstance(found, MetricPose) else None
    return PairErrors.of(pose, pair.second_from_first, depth_error, factors, spread)


def _depth_ratios(z: Any, truth: Tensor, points: Tensor) -> Any:
    """z over the truth where that is known."""
    depth = depth_at(truth, points)[0].numpy()
    known = np.isfinite(depth)
    return z[known] / depth[known]


def _median(values: Any) -> float:
    return float(np.median(values)) if len(values) else np.nan


def depth_sigmas(errors: Sequence[PairErrors]) -> dict[str, float]:
    """How far the depths of a place, and of an image beside its place, err as a whole.

    From each image's median log ratio f = place + image: half the mean square of the difference
    between a pair's two images is the image's variance; what is left of f's is the place's.
    """
    factors = np.array([e.log_factors for e in errors])
    factors = factors[np.isfinite(factors).all(axis=1)]
    if not len(factors):
        return {}
    image = 0.5 * float(np.mean((factors[:, 0] - factors[:, 1]) ** 2))
    place = max(float(np.mean(factors**2)) - image, 0.0)
    return {
        "place_sigma": float(np.sqrt(place)),
        "image_sigma": float(np.sqrt(image)),
        "depth_sigma": float(np.nanmedian([e.spread for e in errors])),
    }


def mutual_pairs(network: Any, first: Any, second: Any) -> tuple[Any, Any, Any]:
    """Cells (k,) of both images that are each other's best, and the probability of each pair."""
    out = network.match(first, second)
    partner = out["partner"][0].long().numpy()
    back = out["back"][0].long().numpy()
    sure = out["probability"][0].double().numpy()
    good = (back[partner] == np.arange(len(partner))) & (sure > MIN_PROBABILITY)
    good &= first["score"][0, 0].numpy() > 0
    return np.flatnonzero(good), partner[good], sure[good]


def summary(errors: Sequence[PairErrors]) -> dict[str, float]:
    """A pair without a pose counts as infinitely wrong."""
    values = {
        name: np.array([getattr(e, name) for e in errors])
        for name in ("rotation_deg", "way_share", "scale", "depth")
    }
    lost = np.isnan(values["rotation_deg"])
    worst = {name: np.where(np.isnan(v), np.inf, v) for name, v in values.items()}
    return {
        "scale_error_percent": 100 * float(np.median(worst["scale"])),
        "rotation_error_deg": float(np.median(worst["rotation_deg"])),
        "within10_percent_of_way": 100 * float((worst["way_share"] <= 0.1).mean()),
        "within25_percent_of_way": 100 * float((worst["way_share"] <= 0.25).mean()),
        "depth_error_percent": 100 * float(np.nanmedian(values["depth"])),
        **depth_sigmas(errors),
        "lost_percent": 100 * float(lost.mean()),
        "turn_deg": float(np.median([e.turn_deg for e in errors])),
    }


@dataclass(frozen=True)
class MetricValidation:
    pairs: PairSource
    count: int

    def __call__(self, model: nn.Module) -> dict[str, float]:
        where = next(model.parameters()).device
        model.cpu()
        try:
            drawn = [self.pairs.pair(index, 1.0) for index in range(self.count)]
            return summary([pair_errors(model, pair) for pair in drawn])
        finally:
            model.to(where)


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
