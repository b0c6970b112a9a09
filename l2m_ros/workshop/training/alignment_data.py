"""What alignment learns from: views of scenes, and the voxel of Gaussians that each patch sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.encoder.patch_encoders import image_tensor
from l2m_ros.workshop.gaussians.moving import moved
from l2m_ros.workshop.gaussians.pairs import seen
from l2m_ros.workshop.gaussians.point_encoder import PointConfig, Voxels, attributes, voxels_of
from l2m_ros.workshop.gaussians.seen import dominant_gaussians, voxels_seen
from l2m_ros.workshop.gaussians.views import SceneViews, ViewPair
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.loop import LoopOptions

PATCH_PX = 16  # a coarse cell of `lite2`

Eyes = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> features (B, C, H / 16, W / 16)


@dataclass(frozen=True)
class AlignOptions:
    """An alignment; a config file gives any of these by name."""

    width: int = 320
    height: int = 256
    batch: int = 1  # pairs of views a step
    relight: float = 0.3  # share of views under new light
    voxel_patches: float = 1.0  # edge of a voxel: what so many patches see at the scene's depth
    held_out: int = 12  # pairs of views that are only measured on
    points: PointConfig = field(default_factory=PointConfig)
    loop: LoopOptions = field(default_factory=lambda: LoopOptions(steps=400))

    def __post_init__(self) -> None:
        if self.width % 32 or self.height % 32 or min(self.width, self.height) < 64:
            raise InvalidInput(
                f"views of {self.width}x{self.height}: sides are multiples of 32, at least 64"
            )


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two views of a scene and what each of their patches sees of it."""

    eyes: Tensor  # (2, C, h, w)
    values: Tensor  # (N, 59) of the Gaussians that touch a view
    voxels: Voxels
    seen: Tensor  # (2 h w,) voxel of each patch, -1 = none

    def to(self, device: str) -> Aligned:
        v = self.voxels
        voxels = Voxels(v.index.to(device), v.places.to(device), v.size)
        return Aligned(self.eyes.to(device), self.values.to(device), voxels, self.seen.to(device))


@dataclass(frozen=True, eq=False)
class AlignBatch:
    samples: list[Aligned]

    def to(self, device: str) -> AlignBatch:
        return AlignBatch([sample.to(device) for sample in self.samples])


class SeenScenes:
    """Pairs of views of scenes with what their patches see; number i is always the same."""

    def __init__(
        self, scenes: Sequence[SceneViews], eyes: Eyes, options: AlignOptions, seed: int
    ) -> None:
        if not scenes:
            raise InvalidInput("alignment takes scenes of Gaussians: name some by --pairs X.ply")
        self.scenes, self.eyes, self.options, self.seed = list(scenes), eyes, options, seed
        self.effects = EffectOptions()

    def views(self, index: int, difficulty: float) -> tuple[SceneViews, ViewPair, list[ByteArray]]:
        """A scene, two views of it, and their images under their own light and cameras."""
        options, rng = self.options, np.random.default_rng((self.seed, 10, index))
        scene = self.scenes[int(rng.integers(len(self.scenes)))]
        hard = difficulty * rng.random() ** 0.5
        made = scene.pair(rng, options.width, options.height, hard)
        images = [seen(rng, view, options.relight, self.effects, hard) for view in made.views]
        return scene, made, images

    def sample(self, index: int, difficulty: float) -> Aligned:
        return self.looked_at(index, *self.views(index, difficulty))

    def looked_at(
        self, index: int, scene: SceneViews, made: ViewPair, images: list[ByteArray]
    ) -> Aligned:
        """What the patches of the images see of the scene, which is turned anew."""
        rng = np.random.default_rng((self.seed, 11, index))
        looked = [
            dominant_gaussians(scene.rasterizer, scene.gaussians, view.view) for view in made.views
        ]
        touched = looked[0][1] | looked[1][1]
        number = np.cumsum(touched) - 1  # among the touched ones
        values, voxels = self._points(rng, scene, made, touched)
        index_of = voxels.index.numpy()
        patches = [
            voxels_seen(np.where(dominant >= 0, number[dominant.clip(0)], -1), index_of, PATCH_PX)
            for dominant, _ in looked
        ]
        with torch.no_grad():
            eyes = self.eyes(torch.stack([image_tensor(rgb) for rgb in images]))
        return Aligned(eyes, values, voxels, torch.from_numpy(np.stack(patches).reshape(-1)))

    def _points(
        self, rng: np.random.Generator, scene: SceneViews, made: ViewPair, touched: FloatArray
    ) -> tuple[Tensor, Voxels]:
        """The touched Gaussians, turned and shifted anew, lengths in depths of the anchor."""
        some = scene.gaussians.select(torch.from_numpy(touched))
        turn = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix()
        middle = some.means.median(dim=0).values.numpy().astype(np.float64)
        scale = 1.0 / made.distance
        there = moved(some, turn, rng.normal(0.0, 0.2, 3) - scale * turn @ middle, scale)
        focal = np.mean([view.view.camera.K[0, 0] for view in made.views])
        size = self.options.voxel_patches * PATCH_PX / float(focal)
        return attributes(there), voxels_of(there.means, size)


class AlignBatches(Schedule):
    """Drawn from (seed, step) alone."""

    def __init__(self, scenes: SeenScenes, options: AlignOptions) -> None:
        size = SizeShare(options.width, options.height, options.batch, 1.0)
        super().__init__((size,), options.loop.seed)
        self.scenes = scenes

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Any:
        part = self.part_of(self.sizes[0], count)
        first = step * self.sizes[0].batch + rank * part
        return AlignBatch([self.scenes.sample(i, difficulty) for i in range(first, first + part)])
