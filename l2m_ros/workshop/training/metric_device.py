"""Batches of pairs made on the GPU: the images lie in its memory, a step names which."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from l2m_ros.geometry.se3 import inverse
from l2m_ros.types import FloatArray
from l2m_ros.workshop.training.data import Schedule, SizeShare
from l2m_ros.workshop.training.metric_data import MetricBatch, PosedFrame, Size
from l2m_ros.workshop.training.metric_pairs import MetricPairs


class DeviceMetricBatches(Schedule):
    """The same pairs in the same order as `MetricBatches`."""

    def __init__(self, pairs: MetricPairs, size: Size, batch: int, seed: int, device: str) -> None:
        super().__init__((SizeShare(*size, batch, 1.0),), seed)
        self.pairs = pairs
        frames = [frame for group in pairs.groups for frame in group]
        self._starts = np.cumsum([0, *(len(group) for group in pairs.groups)])
        self._poses = np.stack([frame.world_from_camera for frame in frames])
        rgb = torch.from_numpy(np.stack([frame.rgb for frame in frames]))
        self._rgb = rgb.permute(0, 3, 1, 2).contiguous().to(device)  # (N, 3, H, W) uint8
        self._depth = torch.from_numpy(np.stack([known_depth(f) for f in frames])).to(device)
        K = np.stack([frame.camera.K for frame in frames]).astype(np.float32)
        self._K = torch.from_numpy(K).to(device)

    def batch(self, step: int, *, rank: int, count: int, difficulty: float) -> MetricBatch:
        part = self.part_of(self.sizes[0], count)
        start = step * self.sizes[0].batch + rank * part
        drawn = [self.pairs.ends(index, difficulty) for index in range(start, start + part)]
        group, first, second = np.array(drawn).T
        ends = [self._starts[group] + first, self._starts[group] + second]
        poses = [inverse(self._poses[b]) @ self._poses[a] for a, b in zip(*ends, strict=True)]
        device = self._rgb.device
        at = [torch.from_numpy(end).to(device) for end in ends]
        moved = torch.from_numpy(np.stack(poses).astype(np.float32)).to(device)
        return MetricBatch(
            *(self._images(k) for k in at), *(self._K[k] for k in at), moved,
            *(self._depth[k][:, None].float() for k in at), start, difficulty,
        )  # fmt: skip

    def _images(self, at: Tensor) -> Tensor:
        return self._rgb[at].float() / 255.0


def known_depth(frame: PosedFrame) -> FloatArray:
    """(H, W) float16 metres, NaN = unknown; half the memory, and good to half a thousandth."""
    if frame.depth is None:
        return np.full(frame.rgb.shape[:2], np.nan, np.float16)
    return np.where(frame.depth < 6e4, frame.depth, np.nan).astype(np.float16)
