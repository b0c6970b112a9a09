"""How good a metric network is: the errors of held-out pairs, by what the robot runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.se3 import angle_rad
from l2m_ros.types import Correspondences, FloatArray, Frame, MatchDepths, MetricPose
from l2m_ros.workshop.evaluation.metrics import rotation_error_deg
from l2m_ros.workshop.training.metric_data import (
    MetricPair,
    PairSource,
    collate,
    depth_at,
    views_of,
)

MIN_PROBABILITY = 1e-3
PLACE_SIGMA, IMAGE_SIGMA = 0.3, 0.1  # relative, stated to the pose of a network in training


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
