"""Do exported graphs give what the torch network gives?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2m_ros.engines.backend import match_inputs
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.export.stages import HEAD_RESULTS, MEASURED, METRIC_RESULTS


@dataclass(frozen=True)
class Agreement:
    """Exported graphs against the torch network, in pixels of the model's input."""

    median_px: float
    p99_px: float
    certainty: float  # largest difference of the probabilities
    pixels: int  # how many certain ones were compared

    def __str__(self) -> str:
        return (
            f"warp differs by {self.median_px:.2g} px (median), {self.p99_px:.2g} px (p99) over "
            f"{self.pixels} pixels; certainty by {self.certainty:.2g} at most"
        )


def agreement(
    network: Any, backend: Any, card: ModelCard, images: list[Any] | None = None
) -> Agreement:
    """Both on one pair, of smooth noise if none is given; at pixels that torch is sure of."""
    from l2m_ros.engines.torch import TorchBackend

    images = images or smooth_pair(*card.input.size)
    truth, got = (_outputs(runner, images) for runner in (TorchBackend(network), backend))
    if METRIC_RESULTS[0] in truth:
        return _metric_agreement(truth, got)
    size = np.array([card.input.width, card.input.height]).reshape(1, 2, 1, 1)
    error = np.linalg.norm((got["warp"] - truth["warp"]) * size / 2, axis=1, keepdims=True)
    probability = [1 / (1 + np.exp(-np.clip(o["certainty"], -50, 50))) for o in (truth, got)]
    sure = probability[0] > 0.5
    error = error[sure] if sure.any() else error.ravel()
    return Agreement(
        float(np.median(error)),
        float(np.percentile(error, 99)),
        float(np.abs(probability[0] - probability[1]).max()),
        int(error.size),
    )


def head_agreement(network: Any, backend: Any, card: ModelCard) -> dict[str, float]:
    """Largest difference of each output of a depth head, on features of noise."""
    from l2m_ros.engines.torch import TorchBackend

    rng = np.random.default_rng(0)
    stand_ins = network.feature_stand_ins(card.input.height, card.input.width)
    inputs = {
        name: rng.standard_normal(tuple(t.shape)).astype(np.float32)
        for name, t in stand_ins.items()
    }
    truth, got = (
        runner.to_host(runner.run("depth", inputs)) for runner in (TorchBackend(network), backend)
    )
    return {name: float(np.abs(got[name] - truth[name]).max()) for name in HEAD_RESULTS}


def _metric_agreement(truth: Mapping[str, Any], got: Mapping[str, Any]) -> Agreement:
    """By the keyframe's keypoint that each mutual pair of torch's names, in pixels."""
    partner, back = (truth[name][0].astype(int) for name in METRIC_RESULTS[:2])
    sure = back[partner] == np.arange(len(partner))
    sure &= truth["query_score"][0, 0] > 0
    there = [
        outputs["keyframe_keypoints"][0][:, outputs["partner"][0].astype(int)[sure]]
        for outputs in (truth, got)
    ]
    error = np.linalg.norm(there[0] - there[1], axis=0)
    apart = np.abs(truth["probability"] - got["probability"])[0][sure]
    return Agreement(
        float(np.median(error)), float(np.percentile(error, 99)), float(apart.max()), error.size
    )


def smooth_pair(width: int, height: int, seed: int = 0) -> list[Any]:
    """Two (1, 3, H, W) windows of one picture of smooth noise, some pixels apart."""
    import cv2

    noise = np.random.default_rng(seed).random((height + 16, width + 16, 3), np.float32)
    picture = sum(cv2.GaussianBlur(noise, (0, 0), s) * s for s in (1.5, 4.0, 12.0))
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    windows = (picture[:height, :width], picture[6 : 6 + height, 11 : 11 + width])
    return [np.ascontiguousarray(w.transpose(2, 0, 1)[None], np.float32) for w in windows]


def _outputs(backend: Any, images: list[Any]) -> dict[str, Any]:
    query, keyframe = (backend.run("encode", {"image": image}) for image in images)
    reference = backend.run("reference", keyframe)
    inputs = match_inputs(query, reference)
    measured = [f"{side}_{name}" for side in ("query", "keyframe") for name in MEASURED]
    outputs = dict(backend.run("match", inputs))
    outputs |= {name: inputs[name] for name in measured if name in inputs}
    return {name: np.asarray(a, np.float32) for name, a in backend.to_host(outputs).items()}
