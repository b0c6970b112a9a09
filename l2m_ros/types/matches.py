"""What a matcher keeps of an image, and what it finds between two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.types.checks import FloatArray, frozen, require, set_fields


class Features:
    """What a matcher keeps of one image; opaque to everyone but that matcher."""

    __slots__ = ("data", "image_size", "model")

    def __init__(self, model: str, image_size: tuple[int, int], data: Any) -> None:
        self.model = model
        self.image_size = image_size  # (width, height) of the image that was encoded
        self.data = data


class Reference(Features):
    """What a matcher keeps of a keyframe: everything that depends on the keyframe alone."""

    __slots__ = ()


@dataclass(frozen=True, eq=False)
class DenseMatch:
    """Where each cell of the query's grid lies in the keyframe."""

    warp_px: FloatArray  # (h, w, 2) pixels of the keyframe; NaN where undefined
    certainty: FloatArray  # (h, w) in [0, 1]; 0 where the warp is NaN
    query_size: tuple[int, int]  # (width, height) of the query image that the grid covers
    keyframe_size: tuple[int, int]
    precision: FloatArray | None = None  # (h, w, 2, 2) inverse covariance, 1 / px^2 of keyframe

    def __post_init__(self) -> None:
        warp, certainty = frozen(self.warp_px, np.float32), frozen(self.certainty, np.float32)
        require(
            warp.ndim == 3 and warp.shape[2] == 2 and warp.size > 0,
            f"warp_px must be (h, w, 2), got {warp.shape}",
        )
        require(
            certainty.shape == warp.shape[:2],
            f"certainty is {certainty.shape} but the warp is {warp.shape[:2]}",
        )
        require(
            np.isfinite(certainty).all() and (certainty >= 0).all() and (certainty <= 1).all(),
            "certainty must lie in [0, 1]",
        )
        undefined = ~np.isfinite(warp).all(axis=2)
        require((certainty[undefined] == 0).all(), "certainty must be 0 where the warp is NaN")
        set_fields(self, warp_px=warp, certainty=certainty)
        if self.precision is not None:
            precision = frozen(self.precision, np.float32)
            require(
                precision.shape == (*certainty.shape, 2, 2),
                f"precision must be (h, w, 2, 2), got {precision.shape}",
            )
            set_fields(self, precision=precision)

    def grid_px(self) -> FloatArray:
        """(h, w, 2): the query pixel at the centre of each cell."""
        h, w = self.certainty.shape
        u = (np.arange(w, dtype=np.float32) + 0.5) * (self.query_size[0] / w) - 0.5
        v = (np.arange(h, dtype=np.float32) + 0.5) * (self.query_size[1] / h) - 0.5
        return np.stack(np.meshgrid(u, v), axis=-1)


@dataclass(frozen=True, eq=False)
class MatchDepths:
    """Depth z at both ends of each match, as a network reads it from the single images.

    Where `per_focal`, values are metres per pixel of the image's focal length: such a network
    does not know its camera, and z = value * focal length.
    """

    query: FloatArray  # (N,) may be NaN or not positive: no depth
    keyframe: FloatArray  # (N,)
    scale_sigma: float  # relative, common to all depths of all images of a place
    image_sigma: float  # relative, common to the depths of one image
    per_focal: bool = False

    def __post_init__(self) -> None:
        query, keyframe = frozen(self.query), frozen(self.keyframe)
        require(
            query.ndim == 1 and query.shape == keyframe.shape,
            f"depths of matches must be (N,), got {query.shape} and {keyframe.shape}",
        )
        require(
            self.scale_sigma > 0 and self.image_sigma > 0,
            f"sigmas of depths must be positive, got {self.scale_sigma}, {self.image_sigma}",
        )
        set_fields(self, query=query, keyframe=keyframe)

    def select(self, index: npt.NDArray[Any]) -> MatchDepths:
        return replace(self, query=self.query[index], keyframe=self.keyframe[index])


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Pairs of pixels with a confidence each."""

    query_px: FloatArray  # (N, 2)
    keyframe_px: FloatArray  # (N, 2)
    confidence: FloatArray  # (N,) in [0, 1]
    precision: FloatArray | None = None  # (N, 2, 2) of keyframe_px, 1 / px^2
    depths: MatchDepths | None = None

    def __post_init__(self) -> None:
        query, keyframe = frozen(self.query_px), frozen(self.keyframe_px)
        confidence = frozen(self.confidence)
        n = len(confidence) if confidence.ndim == 1 else -1
        require(
            query.shape == keyframe.shape == (n, 2),
            f"query_px {query.shape}, keyframe_px {keyframe.shape} and confidence "
            f"{confidence.shape} must be (N, 2), (N, 2), (N,)",
        )
        require(
            np.isfinite(confidence).all() and (confidence >= 0).all() and (confidence <= 1).all(),
            "confidence must lie in [0, 1]",
        )
        set_fields(self, query_px=query, keyframe_px=keyframe, confidence=confidence)
        if self.precision is not None:
            precision = frozen(self.precision)
            require(
                precision.shape == (n, 2, 2), f"precision must be (N, 2, 2), got {precision.shape}"
            )
            set_fields(self, precision=precision)
        if self.depths is not None:
            require(
                len(self.depths.query) == n,
                f"there are {len(self.depths.query)} depths of {n} matches",
            )

    @classmethod
    def empty(cls) -> Correspondences:
        return cls(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0))

    def __len__(self) -> int:
        return len(self.confidence)

    def select(self, index: npt.NDArray[Any]) -> Correspondences:
        """The subset that a boolean mask or an index array names."""
        precision = None if self.precision is None else self.precision[index]
        depths = None if self.depths is None else self.depths.select(index)
        return Correspondences(
            self.query_px[index], self.keyframe_px[index], self.confidence[index], precision, depths
        )

    def reversed(self) -> Correspondences:
        """Query and keyframe exchanged; the precision was the old keyframe's and is dropped."""
        depths = self.depths
        if depths is not None:
            depths = replace(depths, query=depths.keyframe, keyframe=depths.query)
        return Correspondences(self.keyframe_px, self.query_px, self.confidence, None, depths)
