"""Metres from a single image: a depth map of a keyframe by a metric network, with what it errs.

    reader = load_depth_reader("runs/metric/model")
    depth = reader.read(rgb, camera)          MonoDepth of the whole image

Any matcher may then have metres: this one reads the keyframe, another one matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.matching.metric_matcher import MetricMatcher
from l2m_ros.types import ByteArray, Camera, FloatArray

FARTHEST_RATIO = 20.0  # from the median depth: beyond, the network does not mean it


@dataclass(frozen=True, eq=False)
class MonoDepth:
    """Depth of one image and how far it errs, all sigmas relative."""

    depth: FloatArray  # (H, W) float32 metres, NaN = unknown
    pixel_sigma: float  # each on its own
    scale_sigma: float  # all together


class DepthReader(Protocol):
    """Reads metres from an image (H, W, 3) of that camera."""

    def read(self, rgb: ByteArray, camera: Camera) -> MonoDepth: ...


class MetricDepthReader:
    """By a network with one keypoint and depth in each cell (`mickey`, `l2m train metric`)."""

    def __init__(self, matcher: MetricMatcher) -> None:
        self.name, self._matcher = matcher.name, matcher

    def read(self, rgb: ByteArray, camera: Camera) -> MonoDepth:
        _, depth, good = self._matcher.cells(self._matcher.encode(rgb))
        if self._matcher.per_focal:
            depth = depth * np.sqrt(camera.K[0, 0] * camera.K[1, 1])
        rows, columns = self._matcher.grid()
        known = good & np.isfinite(depth) & (depth > 0)
        middle = float(np.median(depth[known])) if known.any() else np.nan
        known &= (depth < FARTHEST_RATIO * middle) & (depth > middle / FARTHEST_RATIO)
        cells = np.where(known, depth, np.nan).astype(np.float32).reshape(rows, columns)
        # NaN spreads to its neighbours, as it should.
        full = cv2.resize(cells, camera.size, interpolation=cv2.INTER_LINEAR)
        sigmas = self._matcher.sigmas()
        scale = float(np.hypot(sigmas["scale_sigma"], sigmas["image_sigma"]))
        return MonoDepth(full, sigmas["depth_sigma"], scale)


def load_depth_reader(name: str, **options: Any) -> MetricDepthReader | None:
    """By a model's name or folder, "" = none; `options` are those of `load_matcher`."""
    if not name:
        return None
    matcher = load_matcher(name, **options)
    if not isinstance(matcher, MetricMatcher):
        raise InvalidInput(
            f"mono_depth is {name!r}, which reads no metres: name a model of `l2m train metric`, "
            "or mickey"
        )
    return MetricDepthReader(matcher)
