"""Views of scenes, rendered once and kept: any two that show the same surface make a pair.

    bank = view_bank([Path("a.ply"), Path("b.ply")], BankOptions(views=200))
    bank = bank.to("cuda")

The views are those of `SceneViews.pair` (curriculum, screening); n of them make up to n (n - 1) / 2
pairs, where rendering on the fly makes n / 2. Light is changed once, when a view is rendered;
camera effects are drawn anew every time that a view is used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.progress import progress
from l2m_ros.workshop.gaussians.model import Gaussians
from l2m_ros.workshop.gaussians.pairs import SceneFile, opened, relit
from l2m_ros.workshop.gaussians.views import NewView, SceneViews
from l2m_ros.workshop.jobs.runners import HERE, Runner
from l2m_ros.workshop.lifting.checks import check_views

PER_JOB = 16  # views of a scene that a process renders in a piece


@dataclass(frozen=True)
class BankOptions:
    """What is rendered of every scene."""

    views: int = 200
    width: int = 320
    height: int = 256
    difficulty: float = 0.9
    relight: float = 0.3  # share of views under new light
    seed: int = 0

    def __post_init__(self) -> None:
        check_views(self.views)


@dataclass(frozen=True, eq=False)
class ViewBank:
    """V views; lengths are the scenes' own."""

    rgb: Tensor  # (V, 3, H, W) uint8
    depth: Tensor  # (V, H, W) 0 = unknown
    sure: Tensor  # (V, H, W) bool: of its depth
    K: Tensor  # (V, 3, 3)
    camera_from_world: Tensor  # (V, 4, 4)
    distance: Tensor  # (V,) median depth of the view's anchor
    scene: Tensor  # (V,) int64
    dominant: Tensor  # (V, H, W) int32 Gaussian of its scene, -1 = none
    drawn: Tensor  # (V, most) bool: Gaussians of its scene that touch the view

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self.depth.shape[2], self.depth.shape[1]

    def to(self, device: str) -> ViewBank:
        return ViewBank(**{name: value.to(device) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def save(self, path: Path) -> None:
        """An .npz, not compressed."""
        np.savez(path, **{name: value.cpu().numpy() for name, value in self.tensors().items()})


def load_bank(path: Path) -> ViewBank:
    with np.load(path, allow_pickle=False) as stored:
        if "sure" not in stored:
            raise InvalidInput(f"{path}: a bank of an earlier version: render it again")
        return ViewBank(
            **{field.name: torch.from_numpy(stored[field.name]) for field in fields(ViewBank)}
        )


def view_bank(
    scenes: Sequence[Path | SceneViews],
    options: BankOptions,
    runner: Runner = HERE,
    seconds: float | None = None,
) -> ViewBank:
    """Rendered by the CPU rasterizer; a runner elsewhere takes scenes by their paths.

    With `seconds` it ends then, with the views that are there (the scenes take turns).
    """
    pieces = -(-options.views // PER_JOB)
    files = tuple(s if isinstance(s, SceneViews) else SceneFile(s, "cpu") for s in scenes)
    job = BankJob(files, options)
    made: dict[int, list[dict[str, Any]]] = {}
    began = time.monotonic()
    with (
        progress(len(scenes) * options.views, "rendering views") as bar,
        closing(runner.run(job, range(len(scenes) * pieces))) as results,  # type: ignore[type-var]
    ):
        for number, views in results:
            made[number] = views
            bar.update(len(views))
            if seconds is not None and time.monotonic() - began > seconds:
                break
    return _bank_of([row for number in sorted(made) for row in made[number]])


def _bank_of(rows: list[dict[str, Any]]) -> ViewBank:
    most = max(len(row["drawn"]) for row in rows)
    for row in rows:
        row["drawn"] = np.pad(row["drawn"], (0, most - len(row["drawn"])))
    return ViewBank(
        **{name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    )


@dataclass(frozen=True)
class BankJob:
    """Renders the views of a piece of a scene, in whatever process it is called."""

    scenes: tuple[SceneFile | SceneViews, ...]
    options: BankOptions

    def __call__(self, number: int) -> list[dict[str, Any]]:
        piece, which = divmod(number, len(self.scenes))
        file = self.scenes[which]
        scene = opened(file) if isinstance(file, SceneFile) else file
        options = self.options
        rng = np.random.default_rng((options.seed, 13, which, piece))
        count = min(PER_JOB, options.views - piece * PER_JOB)
        size = options.width, options.height
        views = scene.views(rng, *size, options.difficulty, count)
        return [self._row(rng, view, which, distance) for view, distance in views]

    def _row(
        self, rng: np.random.Generator, view: NewView, which: int, distance: float
    ) -> dict[str, Any]:
        rgb = relit(rng, view) if rng.random() < self.options.relight else view.rgb
        return {
            "rgb": np.ascontiguousarray(rgb.transpose(2, 0, 1)),
            "depth": view.depth,
            "sure": view.sure,
            "K": view.view.camera.K.astype(np.float32),
            "camera_from_world": view.view.camera_from_world.astype(np.float32),
            "distance": np.float32(distance),
            "scene": np.int64(which),
            "dominant": view.dominant,
            "drawn": view.drawn,
        }


@dataclass(frozen=True, eq=False)
class SceneTable:
    """The Gaussians of several scenes in one table."""

    gaussians: Gaussians
    first: Tensor  # (S,) where each scene begins

    @classmethod
    def of(cls, scenes: Sequence[Gaussians]) -> SceneTable:
        most = max(scene.sh.shape[1] for scene in scenes)
        padded = [
            torch.nn.functional.pad(scene.sh, (0, 0, 0, most - scene.sh.shape[1]))
            for scene in scenes
        ]
        parts = {
            name: torch.cat([getattr(scene, name) for scene in scenes])
            for name in ("means", "log_scales", "quaternions", "opacity_logits")
        }
        counts = torch.tensor([0, *(len(scene) for scene in scenes)])
        return cls(Gaussians(**parts, sh=torch.cat(padded)), counts.cumsum(0)[:-1])

    def to(self, device: str) -> SceneTable:
        moved = {name: value.to(device) for name, value in self.gaussians.tensors()}
        return SceneTable(Gaussians(**moved), self.first.to(device))
