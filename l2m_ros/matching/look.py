"""A look: two canvases matched there and, if asked for, back; its pairs in pixels of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from l2m_ros.matching.canvas import Canvas
from l2m_ros.matching.pairs import Drawing, pairs_of
from l2m_ros.matching.subpixel import jacobian_at
from l2m_ros.types import Correspondences, DenseMatch, FloatArray


@dataclass(frozen=True, eq=False)
class Look:
    """A match between two canvases: it knows the way to the images."""

    there: DenseMatch  # from the query's canvas into the keyframe's
    query: Canvas
    keyframe: Canvas
    back: DenseMatch | None = None  # from the keyframe's canvas into the query's

    @property
    def certainty(self) -> float:
        return float(self.there.certainty.mean())

    @property
    def ways(self) -> int:
        return 1 if self.back is None else 2

    def agreement(self, within_px: float) -> float:
        """Mean certainty, counted where a pixel comes back to within so many; of both ways."""
        if self.back is None:
            return 0.0
        ways = (self.there, self.back), (self.back, self.there)
        return float(np.mean([_returning(*way, within_px) for way in ways]))

    def pairs(self, limit: int, drawing: Drawing) -> Correspondences:
        """At most `limit`, as many by either way; in pixels of the images."""
        images = self.query.rgb, self.keyframe.rgb
        if self.back is None or limit < 2:
            return self._in_images(pairs_of(self.there, *images, limit, drawing))
        there = pairs_of(self.there, *images, limit - limit // 2, drawing)
        back = pairs_of(self.back, *images[::-1], limit // 2, drawing)
        return self._in_images(joined([there, _exchanged(self.back, back)]))

    def _in_images(self, pairs: Correspondences) -> Correspondences:
        precision = pairs.precision
        if precision is not None:
            slope = self.keyframe.canvas_from_image[:2, :2]
            precision = slope.T @ precision @ slope
        return replace(
            pairs,
            query_px=self.query.to_image(pairs.query_px),
            keyframe_px=self.keyframe.to_image(pairs.keyframe_px),
            precision=precision,
        )


def joined(parts: Sequence[Correspondences]) -> Correspondences:
    precisions = [part.precision for part in parts if part.precision is not None]
    return Correspondences(
        np.concatenate([part.query_px for part in parts]),
        np.concatenate([part.keyframe_px for part in parts]),
        np.concatenate([part.confidence for part in parts]),
        np.concatenate(precisions) if len(precisions) == len(parts) else None,
    )


def _exchanged(match: DenseMatch, pairs: Correspondences) -> Correspondences:
    """Pairs of `match`, query and keyframe exchanged, with the precision of the new keyframe's px.

    The old keyframe's moves by J where the new one's moves by 1: new precision = J^T old J.
    """
    if pairs.precision is None:
        return pairs.reversed()
    slope = jacobian_at(match, pairs.query_px).astype(np.float64)
    precision = slope.transpose(0, 2, 1) @ pairs.precision @ slope
    return replace(pairs.reversed(), precision=precision)


def _returning(there: DenseMatch, back: DenseMatch, within_px: float) -> float:
    """Mean certainty, 0 where a pixel goes there and comes back to elsewhere."""
    returned = _at(back.warp_px, there.warp_px, back.query_size)
    with np.errstate(invalid="ignore"):
        same = np.linalg.norm(returned - there.grid_px(), axis=2) < within_px
    return float(np.where(same, there.certainty, 0.0).mean())


def _at(field: FloatArray, px: FloatArray, size: tuple[int, int]) -> FloatArray:
    """A field over an image of (width, height), between its cells, at pixels (h, w, 2)."""
    rows, columns = field.shape[:2]
    u = ((px[..., 0] + 0.5) * columns / size[0] - 0.5).astype(np.float32)
    v = ((px[..., 1] + 0.5) * rows / size[1] - 0.5).astype(np.float32)
    values = np.ascontiguousarray(field, np.float32)
    return np.asarray(cv2.remap(values, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
