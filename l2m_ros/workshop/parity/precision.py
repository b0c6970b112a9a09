"""How far the warp moves when a model runs in another precision: `l2m parity --precision bf16`.

Torch runs it twice on one CPU, in single precision and in the other one. Compared are the pixels of
which single precision is certain, in pixels of the network's input.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from l2m_ros.engines.backend import Backend, BackendOptions, load_backend, match_inputs
from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.matching.catalogue import find_card
from l2m_ros.matching.network_matcher import sigmoid
from l2m_ros.matching.preprocess import network_input
from l2m_ros.types import ByteArray
from l2m_ros.workshop.evaluation.scenes import find_scenes, is_scene
from l2m_ros.workshop.lifting.photographs import find_photographs, read_photograph

NEAR_PX = 0.1
LEAST_SHARE = 0.99  # of the certain pixels that must lie so near
CERTAIN = 0.5  # probability
PERCENTILES = (50, 90, 99)

ImagePair = tuple[ByteArray, ByteArray]  # query, keyframe


@dataclass
class Comparison:
    """One model in two precisions; a frame is encode and match, the keyframe's part left out."""

    model: str
    precision: str
    pairs: int = 0
    pixels: int = 0
    cpu_s: list[float] = field(default_factory=lambda: [0.0, 0.0])  # fp32, the other one
    moved_px: list[np.ndarray] = field(default_factory=list)  # of the certain pixels, by pair

    @property
    def moved(self) -> np.ndarray:
        return np.concatenate(self.moved_px)

    @property
    def near(self) -> float:
        """Share of the certain pixels that moved by less than NEAR_PX."""
        return float((self.moved < NEAR_PX).mean()) if self.moved.size else 0.0

    @property
    def passed(self) -> bool:
        return self.near >= LEAST_SHARE

    def as_dict(self) -> dict[str, Any]:
        moved = self.moved
        return {
            "model": self.model,
            "precision": self.precision,
            "pairs": self.pairs,
            "certain_share": moved.size / self.pixels,
            "moved_px": {
                f"p{p}": float(np.percentile(moved, p)) if moved.size else None for p in PERCENTILES
            },
            f"within_{NEAR_PX}px": self.near,
            "frame_cpu_s": {
                name: seconds / self.pairs
                for name, seconds in zip(("fp32", self.precision), self.cpu_s, strict=True)
            },
            "passed": self.passed,
        }

    def table(self) -> str:
        moved, (exact_s, other_s) = self.moved, (s / self.pairs for s in self.cpu_s)
        lines = [
            f"{self.model} in {self.precision} against fp32, {self.pairs} pairs",
            f"certain of {moved.size} of {self.pixels} pixels ({moved.size / self.pixels:.1%})",
        ]
        if moved.size:
            figures = ", ".join(f"{np.percentile(moved, p):.4f} ({p} %)" for p in PERCENTILES)
            lines.append(f"the warp moves there by px of the input: {figures}")
        lines += [
            f"a frame takes {other_s:.2f} instead of {exact_s:.2f} s of processor time",
            f"{'passed' if self.passed else 'FAILED'}: {self.near:.2%} of the certain pixels move "
            f"by less than {NEAR_PX} px, {LEAST_SHARE:.0%} are asked for",
        ]
        return "\n".join(lines)


def compare_precisions(
    card: ModelCard, precision: str, pairs: Iterable[ImagePair], weights: str | None = None
) -> Comparison:
    """Every pair by both; two copies of the network are in memory."""
    options = BackendOptions(device="cpu", weights=weights)
    runners = [
        load_backend("torch", card, o) for o in (options, replace(options, precision=precision))
    ]
    if runners[1].precision != precision:  # type: ignore[attr-defined]
        raise BackendUnavailable(
            f"this CPU runs {card.name} in fp32 only: nothing to compare {precision} with"
        )
    found = Comparison(card.name, precision)
    for pair in pairs:
        images = [network_input(card.input, rgb) for rgb in pair]
        outputs = []
        for index, runner in enumerate(runners):
            output, seconds = _matched(runner, *images)
            outputs.append(output)
            found.cpu_s[index] += seconds
        moved, certain = _moved_px(card.input, *outputs)
        found.pairs += 1
        found.pixels += moved.size
        found.moved_px.append(moved[certain])
    return found


def image_pairs(folder: Path, limit: int | None = None) -> Iterator[ImagePair]:
    """The pairs of a scene (or a folder of scenes); of any other folder each picture with the one
    before it. limit: at most so many of each scene, spread over its list."""
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: no such folder of pictures or scenes")
    if is_scene(folder) or any(is_scene(path) for path in folder.iterdir() if path.is_dir()):
        scenes = [scene.limited(limit) for scene in find_scenes([folder])]
        named = [(scene, pair) for scene in scenes for pair in scene.pairs]
        return ((scene.view(pair.a).rgb, scene.view(pair.b).rgb) for scene, pair in named)
    pictures = find_photographs(folder)
    if len(pictures) < 2:
        raise InvalidInput(f"{folder}: two pictures or more are needed to make a pair")
    follow = list(pairwise(pictures))[:limit]
    return ((read_photograph(after), read_photograph(before)) for before, after in follow)


def run_precision(
    folder: Path,
    model: str,
    precision: str,
    *,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    weights: str | None = None,
) -> Comparison:
    """`model` (a name or a folder) on the folder's pairs; size is (width, height) of its input."""
    pairs = image_pairs(folder, limit)  # what is missing is said before networks are loaded
    card = find_card(model)
    card = card if size is None else card.resized(*size)
    return compare_precisions(card, precision, pairs, weights)


def _matched(runner: Backend, query: Any, keyframe: Any) -> tuple[dict[str, Any], float]:
    """What it gives on the host, and the processor time of the query's part."""
    reference = runner.run("reference", runner.run("encode", {"image": keyframe}))
    started = time.process_time()
    features = runner.run("encode", {"image": query})
    outputs = runner.run("match", match_inputs(features, reference))
    return runner.to_host(outputs), time.process_time() - started


def _moved_px(
    spec: InputSpec, exact: dict[str, Any], other: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) how far each pixel's place moved, and where `exact` is certain and within the image.

    A NaN of `other` counts as infinitely far.
    """
    half = np.array(spec.size, np.float32)[:, None, None] / 2
    moved = np.linalg.norm((other["warp"][0] - exact["warp"][0]) * half, axis=0)
    inside = (np.abs(exact["warp"][0]) <= 1).all(axis=0)
    certain = inside & (sigmoid(exact["certainty"][0, 0]) > CERTAIN)
    return np.where(np.isfinite(moved), moved, np.inf), certain
