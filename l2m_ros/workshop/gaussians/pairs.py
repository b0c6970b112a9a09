"""Training pairs from a scene of Gaussians: on the fly, or as the shards that `l2m lift` writes.

    maker = SplatPairs(scene_views("scene.ply"), seed=0)
    pair = maker.pair(17, width=320, height=240, difficulty=0.5)    # the same pair, always

The anchor (see `views.py`) takes the photograph's place in a shard; lengths there are the
world's own units.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.progress import progress
from l2m_ros.types import ByteArray, resized_K
from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.labels import label_between
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.ply import read_ply
from l2m_ros.workshop.gaussians.record import read_record
from l2m_ros.workshop.gaussians.views import NewView, SceneViews, ViewPair, unlabelled
from l2m_ros.workshop.jobs.runners import HERE, Runner
from l2m_ros.workshop.jobs.store import Store, store_of
from l2m_ros.workshop.lifting.camera_effects import EffectOptions, camera_effects
from l2m_ros.workshop.lifting.checks import check_fractions, check_shards, check_views
from l2m_ros.workshop.lifting.pairs import Pair
from l2m_ros.workshop.lifting.relighting import PRESETS, random_lighting, relight_quickly
from l2m_ros.workshop.lifting.shards import (
    Sample,
    pack,
    quantised,
    shard_name,
)


@dataclass(frozen=True)
class SplatPairOptions:
    """What is made of a scene; two views a pair."""

    views: int = 200
    width: int = 320
    height: int = 240
    difficulty: float = 1.0
    relight: float = 0.3  # share of views under new light
    pairs_per_shard: int = 64
    seed: int = 0
    effects: EffectOptions = field(default_factory=EffectOptions)

    def __post_init__(self) -> None:
        check_views(self.views)
        check_shards(self.width, self.height, self.pairs_per_shard)
        check_fractions(self, "difficulty", "relight")


@dataclass
class SplatPairReport:
    pairs: int = 0
    shards_written: int = 0
    shards_kept: int = 0
    rejected: dict[str, int] = field(default_factory=dict)  # pairs of cameras, by reason
    overlap: float = 0.0  # mean share of labelled pixels


def scene_views(
    scene: Path | str, rasterizer: str = "auto", source: Path | None = None
) -> SceneViews:
    """The scene with the cameras that it was built from (or those of a folder of images)."""
    scene = Path(scene)
    cameras: dict[str, PosedCamera]
    if source is not None:
        from l2m_ros.workshop.gaussians.sources import load_captures

        cameras = {capture.name: capture.view for capture in load_captures(source).items}
    else:
        cameras = read_record(scene).cameras
    return SceneViews(read_ply(scene), cameras, load_rasterizer(rasterizer))


class SplatPairs:
    """Pairs on the fly, as training takes them; pair number i is the same every time."""

    def __init__(
        self,
        scene: SceneViews,
        seed: int = 0,
        relight: float = 0.3,
        effects: EffectOptions | None = None,
    ) -> None:
        self.scene, self.seed, self.relight = scene, seed, relight
        self.effects = effects or EffectOptions()

    def pair(self, index: int, *, width: int, height: int, difficulty: float) -> Pair:
        rng = np.random.default_rng((self.seed, 3, index))
        hard = difficulty * rng.random() ** 0.5  # easy pairs stay in the mixture
        made = self.scene.pair(rng, width, height, hard)
        rgb_a, rgb_b = (seen(rng, v, self.relight, self.effects, hard) for v in made.views)
        ab, ba = made.labels
        a, b = (v.depth / made.distance for v in made.views)
        return Pair(
            rgb_a, rgb_b, ab.warp_px, ab.visible, ab.unknown, ba.warp_px, ba.visible, ba.unknown,
            float(np.sqrt(ab.visible.mean() * ba.visible.mean())), made.cameras, None, a, b,
        )  # fmt: skip


def seen(
    rng: np.random.Generator, view: NewView, relight: float, effects: EffectOptions, hard: float
) -> ByteArray:
    """A view's image under its own light and through its own camera."""
    rgb = view.rgb
    if rng.random() < relight:
        rgb = relit(rng, view)
    return camera_effects(rng, rgb, effects, 0.4 + 0.6 * hard)


def relit(rng: np.random.Generator, view: NewView) -> ByteArray:
    """The view's image under new light."""
    known = view.depth > 0
    if not known.any():
        return view.rgb
    middle = float(np.median(view.depth[known]))
    inverse = np.where(known, middle / np.where(known, view.depth, middle), 0.1).astype(np.float32)
    height, width = inverse.shape
    size = width // 4, height // 4
    K = resized_K(view.view.camera.K, (width, height), size)
    small = cv2.resize(np.clip(inverse, 0.05, 20.0), size)
    preset = str(rng.choice(list(PRESETS), p=[0.7, 0.15, 0.15]))
    return relight_quickly(view.rgb, small, K, random_lighting(rng, preset), rng)


def write_pairs(
    scene: SceneViews | SceneFile,
    name: str,
    out: Path | str,
    options: SplatPairOptions = SplatPairOptions(),
    runner: Runner = HERE,
) -> SplatPairReport:
    """Shards of pairs; those that are there are kept, so a run is continued by repeating it.

    `out` is a folder or an address of fsspec's. A runner elsewhere takes a `SceneFile`.
    """
    if isinstance(scene, SceneFile):
        opened(scene)  # a scene that cannot be read claims no place
    store = store_of(out)
    _claim(store, name, options)
    job = PairsJob(scene, name, options, store)
    report, missing = SplatPairReport(), []
    labelled = 0.0
    with progress(options.views // 2, "rendering pairs") as bar:
        for number in range(-(-(options.views // 2) // options.pairs_per_shard)):
            if store.has_shard(f"{shard_name(number)}.tar"):
                report.shards_kept += 1
                bar.update(len(job.indices(number)), "kept")
            else:
                missing.append(number)
        for number, made in runner.run(job, missing):
            report.shards_written += 1
            report.pairs += made.pairs
            labelled += made.overlap * made.pairs
            for reason, count in made.rejected.items():
                report.rejected[reason] = report.rejected.get(reason, 0) + count
            bar.update(made.pairs, shard_name(number))
    report.overlap = labelled / max(report.pairs, 1)
    return report


@dataclass(frozen=True)
class SceneFile:
    """Where a scene is read from; a process that makes pairs opens it once."""

    scene: Path
    rasterizer: str = "auto"
    source: Path | None = None


opened = lru_cache(maxsize=32)(lambda file: scene_views(file.scene, file.rasterizer, file.source))


@dataclass(frozen=True)
class PairsJob:
    """Makes and stores the shard of a number, in whatever process it is called."""

    scene: SceneViews | SceneFile
    name: str
    options: SplatPairOptions
    store: Store

    def indices(self, number: int) -> range:
        """Of the pairs of a shard."""
        step = self.options.pairs_per_shard
        return range(number * step, min((number + 1) * step, self.options.views // 2))

    def __call__(self, number: int) -> SplatPairReport:
        scene = opened(self.scene) if isinstance(self.scene, SceneFile) else self.scene
        report, samples, shares = SplatPairReport(), [], []
        for index in self.indices(number):
            sample, made = sample_of(scene, self.name, index, self.options)
            samples.append(sample)
            shares += [float(label.visible.mean()) for label in made.labels]
            for reason in made.rejected:
                key = reason.partition(":")[0]
                report.rejected[key] = report.rejected.get(key, 0) + 1
        summary = {"scene": self.name, "pairs": [sample.key for sample in samples]}
        name = shard_name(number)
        self.store.write(f"{name}.json", json.dumps(summary, indent=1).encode())
        self.store.write(f"{name}.tar", pack(samples))
        report.pairs, report.overlap = len(samples), float(np.mean(shares))
        return report


def _claim(store: Store, name: str, options: SplatPairOptions) -> None:
    """Prepare the place; refuse to mix two runs in it."""
    text = json.dumps({"scene": name, "options": asdict(options)}, indent=1, sort_keys=True)
    store.prepare()
    other = store.read("splat.json") not in (None, text.encode())
    if other or store.read("lift.json") is not None:
        raise InvalidInput(
            f"{store.name}: holds the shards of another run (splat.json or lift.json says which): "
            "name another --out, or remove it"
        )
    store.write("splat.json", text.encode())


def sample_of(
    scene: SceneViews, name: str, index: int, options: SplatPairOptions
) -> tuple[Sample, ViewPair]:
    """Pair number `index`; depends on nothing else drawn."""
    rng = np.random.default_rng((options.seed, index))
    hard = options.difficulty * rng.random() ** 0.5
    made = scene.pair(rng, options.width, options.height, hard)
    images = {"photo": made.anchor.rgb}
    arrays: dict[str, Any] = {"depth": _with_nan(made.anchor)}
    geometry = []
    anchor = made.anchor.view
    for i, view in enumerate(made.views):
        images[f"view{i}"] = seen(rng, view, options.relight, options.effects, hard)
        geometry.append(
            {
                "K": view.view.camera.K.tolist(),
                "view_from_photograph": (
                    view.view.camera_from_world @ anchor.world_from_camera
                ).tolist(),
            }
        )
        source = label_between(
            view.depth, view.view, made.anchor.depth, anchor, view.sure, made.anchor.sure
        )
        arrays[f"depth_{i}"] = _with_nan(view)
        arrays[f"source_{i}"] = quantised(source.warp_px)
        arrays[f"seen_{i}"], arrays[f"unlabelled_{i}"] = source.visible, unlabelled(view)
    for key, label in zip(("0_1", "1_0"), made.labels, strict=True):
        arrays[f"warp_{key}"] = quantised(label.warp_px)
        arrays[f"visible_{key}"], arrays[f"unknown_{key}"] = label.visible, label.unknown
    meta = {
        "photograph": f"{name}:{made.name}",
        "width": anchor.size[0],
        "height": anchor.size[1],
        "K": anchor.camera.K.tolist(),
        "kind": "scene",
        "views": geometry,
        "world_from_photograph": anchor.world_from_camera.tolist(),
        "steps_per_px": 64,
        "origin_px": -64.0,
    }
    return Sample(f"{index:08d}", meta, images, arrays), made


def _with_nan(view: NewView) -> Any:
    return np.where(view.depth > 0, view.depth, np.nan).astype(np.float32)
