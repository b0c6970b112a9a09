"""Pairs of images whose relative pose is known, in metres, for the metric network.

    frames_of_worlds(options)     rendered worlds, each with another field of view
    posed_recordings.py           folders and bags

Frames come in groups; the two images of a pair are of one group. Depth is taken along where there
is one, for the option to learn from it as well; the pose alone decides which images make a pair.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry.se3 import angle_rad, inverse
from l2m_ros.networks.mickey.solver import Views
from l2m_ros.types import ByteArray, Camera, FloatArray
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.metric_losses import TALLEST_PX, Truth

Size = tuple[int, int]  # (width, height)
MOST_RENDERERS = 4  # processes, unless more are asked for
SCENES = ("room", "corridor", "yard")
PATHS = ("handheld", "drive", "loop")


@dataclass(frozen=True, eq=False)
class PosedFrame:
    rgb: ByteArray  # (H, W, 3)
    camera: Camera
    world_from_camera: FloatArray  # 4x4, metres
    depth: FloatArray | None = None  # (H, W) metres, NaN = unknown


Group = Sequence[PosedFrame]


@dataclass(frozen=True, eq=False)
class MetricPair:
    first: PosedFrame
    second: PosedFrame

    @property
    def second_from_first(self) -> FloatArray:
        return inverse(self.second.world_from_camera) @ self.first.world_from_camera

    @property
    def way_m(self) -> float:
        return float(np.linalg.norm(self.second_from_first[:3, 3]))

    @property
    def turn_deg(self) -> float:
        return float(np.degrees(angle_rad(self.second_from_first[:3, :3])))


def resized(frame: PosedFrame, size: Size) -> PosedFrame:
    """Image, camera and depth together."""
    if frame.camera.size == size:
        return frame
    rgb = cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA)
    depth = frame.depth
    if depth is not None:
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return PosedFrame(rgb, frame.camera.resized(*size), frame.world_from_camera, depth)


# --- sources ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorldOptions:
    """Rendered worlds; a world takes 4 to 12 s to build, each of its frames 20 ms.

    A head on `lite` learns from drafts (`posed_views`) instead, a second each: of those, only
    worlds, first_seed and the last three count.
    """

    worlds: int = 9
    frames: int = 32  # of each world
    first_seed: int = 100  # of the worlds, whose look and furniture follow from it
    hfov_deg: tuple[float, float] = (55.0, 85.0)
    rate_hz: float = 2.0
    height_m: float | None = None  # of a robot's camera above the floor; None: carried anyhow
    pitch_deg: float = 0.0  # of that camera, up
    renderers: int = 1  # processes of 0.7 GB; 0: one a core, 4 at most

    def __post_init__(self) -> None:
        if self.renderers < 0:
            raise InvalidInput(f"renderers: 0 or more processes, got {self.renderers}")

    def processes(self) -> int:
        return self.renderers or min(len(os.sched_getaffinity(0)), MOST_RENDERERS)


def frames_of_worlds(options: WorldOptions, size: Size) -> Iterator[Group]:
    """One group a world, rendered when it is asked for."""
    for k in range(options.worlds):
        seed = options.first_seed + k
        rng = np.random.default_rng(seed)
        run = SimulationOptions(
            scene=SCENES[k % len(SCENES)], path=PATHS[k // len(SCENES) % len(PATHS)],
            frames=options.frames, rate_hz=options.rate_hz, width=size[0], height=size[1],
            hfov_deg=float(rng.uniform(*options.hfov_deg)), stereo=False, seed=seed,
            scene_seed=seed,
        )  # fmt: skip
        yield [
            PosedFrame(shot.frame.rgb, shot.frame.camera, shot.world_from_camera, shot.true_depth_m)
            for shot in simulate(run)
        ]


# --- batches ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MetricBatch:
    """Both images of each pair, their cameras, and the truth between them."""

    first: Tensor  # (B, 3, H, W) in [0, 1]
    second: Tensor
    K_first: Tensor  # (B, 3, 3)
    K_second: Tensor
    second_from_first: Tensor  # (B, 4, 4)
    depth_first: Tensor  # (B, 1, H, W) metres, NaN = unknown
    depth_second: Tensor
    seed: int  # of the draws
    difficulty: float

    def to(self, device: str) -> MetricBatch:
        moved = [getattr(self, name) for name in self.__dataclass_fields__]
        return MetricBatch(*(v.to(device) if isinstance(v, Tensor) else v for v in moved))


def collate(pairs: Sequence[MetricPair], seed: int, difficulty: float) -> MetricBatch:
    sides = [[p.first for p in pairs], [p.second for p in pairs]]

    def image(frames: list[PosedFrame]) -> Tensor:
        stack = np.stack([frame.rgb for frame in frames])
        return torch.from_numpy(stack).permute(0, 3, 1, 2).float().div_(255.0)

    def depth(frames: list[PosedFrame]) -> Tensor:
        unknown = np.full(frames[0].rgb.shape[:2], np.nan, np.float32)
        maps = [unknown if f.depth is None else f.depth for f in frames]
        return torch.from_numpy(np.stack(maps).astype(np.float32))[:, None]

    def cameras(frames: list[PosedFrame]) -> Tensor:
        return torch.from_numpy(np.stack([f.camera.K for f in frames]).astype(np.float32))

    poses = np.stack([pair.second_from_first for pair in pairs]).astype(np.float32)
    return MetricBatch(
        *(image(s) for s in sides), *(cameras(s) for s in sides), torch.from_numpy(poses),
        *(depth(s) for s in sides), seed, difficulty,
    )  # fmt: skip


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


def depth_at(depth: Tensor, points: Tensor) -> Tensor:
    """(B, n) the nearest pixel's; NaN where there is none."""
    height, width = depth.shape[-2:]
    x = points[:, 0].round().long().clamp(0, width - 1)
    y = points[:, 1].round().long().clamp(0, height - 1)
    return depth.flatten(1).gather(1, y * width + x)


class PairSource(Protocol):
    def pair(self, index: int, difficulty: float) -> MetricPair: ...


class MetricBatches(Schedule):
    """Batches of a step, drawn from (seed, step) alone."""

    def __init__(self, pairs: PairSource, size: Size, batch: int, seed: int) -> None:
        super().__init__((SizeShare(*size, batch, 1.0),), seed)
        self.pairs = pairs

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> Any:
        part = self.part_of(self.sizes[0], count)
        first = step * self.sizes[0].batch + rank * part
        drawn = [self.pairs.pair(index, difficulty) for index in range(first, first + part)]
        return collate(drawn, seed=first, difficulty=difficulty)
