"""Pairs of posed images as the frozen `lite` sees them, once: features, matches, poses.

    seen = seen_pairs(frames, ends, matcher)      of one world or recording
    seen.save(path), SeenPairs.load(path)

`lite` stays as it is while a head learns metres, so neither its features nor its matches change: a
step of the training then costs the head alone. Everything is in pixels of the matcher's input.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from l2m_ros.engines.backend import Array
from l2m_ros.errors import InvalidInput
from l2m_ros.files import foreign_values, read_file, write_whole
from l2m_ros.images import MAX_BYTES, read_arrays
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.matching.portable import HEAD_FEATURES
from l2m_ros.matching.sampling import correspondences
from l2m_ros.types import Features
from l2m_ros.workshop.training.depth_data import cell_labels
from l2m_ros.workshop.training.metric_data import PosedFrame

MATCHES = 256  # of a pair at most
LEAST_MATCHES = 16  # a pair with fewer teaches nothing


@dataclass(frozen=True, eq=False)
class SeenPairs:
    """N images and P pairs of them; M matches a pair, confidence 0 where there is none."""

    cells: Array  # (N, C, h, w) float16 at 1/16
    context: Array  # (N, C, h / 2, w / 2) float16 at 1/32
    labels: Array  # (N, h, w) float32 log of depth over focal length, NaN = unknown
    K: Array  # (N, 3, 3) of the input
    pose: Array  # (N, 4, 4) world_from_camera
    ends: Array  # (P, 2) images
    px: Array  # (P, M, 4) float32 x, y in the first, x, y in the second image
    confidence: Array  # (P, M) float32

    def __len__(self) -> int:
        return len(self.ends)

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = io.BytesIO()
        np.savez(packed, **{name: getattr(self, name) for name in self.__dataclass_fields__})
        write_whole(path, packed.getvalue())

    @staticmethod
    def load(path: Path) -> SeenPairs:
        with foreign_values(f"{path} (delete it to have it made anew)"):
            kept = read_arrays(read_file(path, MAX_BYTES), MAX_BYTES)
            return SeenPairs(**{name: kept[name] for name in SeenPairs.__dataclass_fields__})


def seen_pairs(frames: Sequence[PosedFrame], ends: Array, matcher: NetworkMatcher) -> SeenPairs:
    """Of those pairs (P, 2) that have matches enough; frames have the size of its input."""
    size = matcher.card.input.size
    if any(frame.camera.size != size for frame in frames):
        raise InvalidInput(f"images must have the matcher's size {size}")
    ends = np.asarray(ends, int).reshape(-1, 2)
    features = {int(k): matcher.encode_upright(frames[k].rgb) for k in np.unique(ends)}
    kept, px, confidence = [], [], []
    for first, second in ends:
        found = _matches(matcher, features[int(first)], features[int(second)])
        if (found[:, 4] > 0).sum() >= LEAST_MATCHES:
            kept.append((first, second))
            px.append(found[:, :4])
            confidence.append(found[:, 4])
    used = np.unique(np.array(kept, int).reshape(-1, 2))
    number = {int(k): at for at, k in enumerate(used)}
    eyes = [matcher.backend.to_host({n: features[int(k)].data[n] for n in HEAD_FEATURES})
            for k in used]  # fmt: skip
    unknown = np.full((size[1] // 16, size[0] // 16), np.nan, np.float32)
    labels = [unknown if (depth := frames[k].depth) is None
              else cell_labels(depth, frames[k].camera.K) for k in used]  # fmt: skip
    return SeenPairs(
        _stacked([e["eyes"][0] for e in eyes], np.float16),
        _stacked([e["eyes_wide"][0] for e in eyes], np.float16),
        _stacked(labels, np.float32),
        _stacked([frames[k].camera.K for k in used], np.float32),
        _stacked([frames[k].world_from_camera for k in used], np.float64),
        np.array([[number[int(a)], number[int(b)]] for a, b in kept], int).reshape(-1, 2),
        _stacked(px, np.float32),
        _stacked(confidence, np.float32),
    )


def _stacked(parts: Sequence[Array], dtype: type) -> Array:
    return np.stack([np.asarray(part, dtype) for part in parts]) if len(parts) else np.zeros(0)


def _matches(matcher: NetworkMatcher, first: Features, second: Features) -> Array:
    """(MATCHES, 5): both pixels and the confidence, the rest zeros."""
    pairs = correspondences(matcher.match(first, matcher.reference(second)), MATCHES)
    out = np.zeros((MATCHES, 5), np.float32)
    rows = np.column_stack([pairs.query_px, pairs.keyframe_px, pairs.confidence])
    out[: len(rows)] = rows
    return out
