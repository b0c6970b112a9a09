"""A second look at two images: turned alike, at one scale, and only what both of them see.

    first match -> unsure? the query turned by quarters, the surest is taken
                -> similarity between the images -> both cut to what they share, the query laid on
                   the keyframe -> match once more -> pixels of the images
    pairs: half by the first match, half by the second

A network sees a small overlap with few of its pixels, another scale with other features, and an
image that is rolled by a right angle hardly at all. It costs about two more
frames (encode twice, keyframe, match; five where the first match is unsure), so it is for pictures
and for a map that does not find an image otherwise, and never for every frame of a camera.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.matching.mask import mask_at
from l2m_ros.matching.matcher import Matcher
from l2m_ros.matching.sampling import LIMIT, correspondences
from l2m_ros.matching.subpixel import refined_pairs
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, FloatArray, Reference

Size = tuple[int, int]  # (width, height)
GREY = (114, 114, 114)  # where a canvas shows nothing
BORDER_PX = 3  # of a canvas's picture: half interpolated, not matched


@dataclass(frozen=True)
class SecondLookOptions:
    """Chosen on five scenes of their own and on graf, redkitchen, fox (docs/benchmarks.md)."""

    unsure: float = 0.05  # mean certainty below which the query is tried in other turns too
    canvas_px: int = 640  # longest side of what is matched once more
    fewest: int = 30  # pairs of the first match
    agree_px: float = 25.0  # of the similarity, at 640 px: parallax is no mistake
    margin: float = 0.15  # about the shared part, of its size
    zoom: float = 4.0  # at most


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image laid on a canvas: canvas pixel = canvas_from_image @ image pixel."""

    rgb: ByteArray
    shown: npt.NDArray[np.bool_]  # (h, w) where the image is
    canvas_from_image: FloatArray  # 3x3

    def to_image(self, px: FloatArray) -> FloatArray:
        back = np.linalg.inv(self.canvas_from_image)
        return np.asarray(px @ back[:2, :2].T + back[:2, 2])

    @property
    def scale(self) -> float:
        """Canvas pixels per image pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.canvas_from_image[:2, :2]))))


@dataclass(frozen=True, eq=False)
class CanvasMatch:
    """A match between two canvases: it knows the way back to the images."""

    match: DenseMatch
    query: Canvas
    keyframe: Canvas

    def pairs(
        self, limit: int, *, subpixel: bool, seed: int | None, method: str
    ) -> Correspondences:
        """In pixels of the images, refined on the canvases if asked."""
        pairs = correspondences(self.match, limit, seed=seed, method=method)
        if subpixel:
            pairs = refined_pairs(self.match, pairs, self.query.rgb, self.keyframe.rgb)
        precision = pairs.precision
        return replace(
            pairs,
            query_px=self.query.to_image(pairs.query_px),
            keyframe_px=self.keyframe.to_image(pairs.keyframe_px),
            precision=None if precision is None else precision * self.keyframe.scale**2,
        )


def second_look(
    matcher: Matcher,
    first: DenseMatch,
    reference: Reference,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    limit: int = LIMIT,
    *,
    subpixel: bool = True,
    seed: int | None = 0,
    method: str = "cells",
    options: SecondLookOptions = SecondLookOptions(),
) -> Correspondences:
    """At most `limit` pairs of two looks, in pixels of the images.

    first, reference: what the matcher said of the two images, and the keyframe's reference.
    """
    drawn: dict[str, Any] = {"subpixel": subpixel, "seed": seed, "method": method}
    whole = CanvasMatch(first, _untouched(query_rgb), _untouched(keyframe_rgb))
    if first.certainty.mean() < options.unsure:
        whole = _surest([whole, *_quarters(matcher, reference, query_rgb, keyframe_rgb)])
    pairs = whole.pairs(limit, **drawn)
    closer = _closer(matcher, pairs, query_rgb, keyframe_rgb, options)
    if closer is None or limit < 2:
        return pairs
    half = limit // 2
    return _both(whole.pairs(limit - half, **drawn), closer.pairs(half, **drawn))


def _surest(matches: list[CanvasMatch]) -> CanvasMatch:
    return max(matches, key=lambda each: float(each.match.certainty.mean()))


def _quarters(
    matcher: Matcher, reference: Reference, query_rgb: ByteArray, keyframe_rgb: ByteArray
) -> list[CanvasMatch]:
    """The query turned by one, two and three quarters, on a canvas of the keyframe's size."""
    keyframe, found = _untouched(keyframe_rgb), []
    for quarters in (1, 2, 3):
        turn = turned_to_fit(_size(query_rgb), _size(keyframe_rgb), quarters)
        query = _laid(query_rgb, turn, _size(keyframe_rgb))
        match = matcher.match(matcher.encode(query.rgb), reference)
        assert isinstance(match, DenseMatch)
        found.append(CanvasMatch(_shown_only(match, query, keyframe), query, keyframe))
    return found


def _closer(
    matcher: Matcher,
    pairs: Correspondences,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    options: SecondLookOptions,
) -> CanvasMatch | None:
    """What both images see, cut out, the query laid on the keyframe, and matched."""
    size = _size(keyframe_rgb)
    agree_px = options.agree_px * max(size) / 640
    found = similarity(pairs, agree_px, options)
    if found is None:
        return None
    keyframe_from_query, agrees = found
    shrink = min(1.0, options.canvas_px / max(size))
    canvas = round(size[0] * shrink), round(size[1] * shrink)
    zoom = cut_out(pairs.keyframe_px[agrees], size, canvas, options)
    keyframe = _laid(keyframe_rgb, zoom, canvas)
    query = _laid(query_rgb, zoom @ keyframe_from_query, canvas)
    reference = matcher.reference(matcher.encode(keyframe.rgb))
    match = matcher.match(matcher.encode(query.rgb), reference)
    assert isinstance(match, DenseMatch)
    return CanvasMatch(_shown_only(match, query, keyframe), query, keyframe)


def similarity(
    pairs: Correspondences, agree_px: float, options: SecondLookOptions
) -> tuple[FloatArray, npt.NDArray[np.bool_]] | None:
    """(3x3 keyframe px by query px, which pairs agree): turn, scale, shift. None: too few do."""
    if len(pairs) < options.fewest:
        return None
    query, keyframe = np.float32(pairs.query_px), np.float32(pairs.keyframe_px)
    matrix, agrees = cv2.estimateAffinePartial2D(
        query, keyframe, method=cv2.RANSAC, ransacReprojThreshold=agree_px, maxIters=1000
    )
    if matrix is None or int(agrees.sum()) < options.fewest:
        return None
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if not 1 / options.zoom < scale < options.zoom:
        return None
    return np.vstack([matrix, [0.0, 0.0, 1.0]]), agrees.ravel() > 0


def cut_out(points: FloatArray, size: Size, canvas: Size, options: SecondLookOptions) -> FloatArray:
    """3x3 canvas px by keyframe px: the part about the points, a few strays left out."""
    low, high = np.percentile(points, 2, axis=0), np.percentile(points, 98, axis=0)
    grow = options.margin * (high - low)
    low = np.maximum(low - grow, -0.5)
    high = np.minimum(high + grow, np.array(size) - 0.5)
    shrink = min(canvas[0] / size[0], canvas[1] / size[1])
    zoom = min(*(np.array(canvas) / np.maximum(high - low, 1.0)), options.zoom * shrink)
    shift = (np.array(canvas) - 1) / 2 - zoom * (low + high) / 2
    return np.array([[zoom, 0.0, shift[0]], [0.0, zoom, shift[1]], [0.0, 0.0, 1.0]])


def turned_to_fit(size: Size, canvas: Size, quarters: int) -> FloatArray:
    """3x3 canvas px by image px: turned about the middle, as large as the canvas takes it."""
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    turn = np.array([[c, s], [-s, c]], np.float64)  # to the left, as np.rot90
    width, height = np.abs(turn) @ size
    scaled = min(canvas[0] / width, canvas[1] / height) * turn
    shift = (np.array(canvas) - 1) / 2 - scaled @ ((np.array(size) - 1) / 2)
    return np.vstack([np.column_stack([scaled, shift]), [0.0, 0.0, 1.0]])


def _laid(rgb: ByteArray, canvas_from_image: FloatArray, canvas: Size) -> Canvas:
    """The image on a canvas of (width, height); smoothed first where it shrinks."""
    scale = float(np.sqrt(abs(np.linalg.det(canvas_from_image[:2, :2]))))
    smooth = rgb if scale > 0.7 else cv2.GaussianBlur(rgb, (0, 0), 0.4 / scale)
    affine = np.ascontiguousarray(canvas_from_image[:2])
    laid = cv2.warpAffine(smooth, affine, canvas, flags=cv2.INTER_LINEAR, borderValue=GREY)
    full = np.full(rgb.shape[:2], 255, np.uint8)
    shown = cv2.warpAffine(full, affine, canvas, flags=cv2.INTER_NEAREST)
    side = 2 * BORDER_PX + 1
    inner = cv2.erode(shown, np.ones((side, side), np.uint8))
    return Canvas(np.asarray(laid, np.uint8), inner > 0, canvas_from_image)


def _untouched(rgb: ByteArray) -> Canvas:
    return Canvas(rgb, np.ones(rgb.shape[:2], bool), np.eye(3))


def _shown_only(match: DenseMatch, query: Canvas, keyframe: Canvas) -> DenseMatch:
    """Certainty 0 where either canvas shows nothing."""
    seen = mask_at(query.shown, match.grid_px()) & mask_at(keyframe.shown, match.warp_px)
    return replace(match, certainty=np.where(seen, match.certainty, np.float32(0.0)))


def _both(one: Correspondences, other: Correspondences) -> Correspondences:
    known = one.precision is not None and other.precision is not None
    return Correspondences(
        np.concatenate([one.query_px, other.query_px]),
        np.concatenate([one.keyframe_px, other.keyframe_px]),
        np.concatenate([one.confidence, other.confidence]),
        np.concatenate([one.precision, other.precision]) if known else None,
    )


def _size(rgb: ByteArray) -> Size:
    return rgb.shape[1], rgb.shape[0]
