"""Matchers without a network: RootSIFT, ORB, AKAZE between points, DIS flow for every pixel.

They need no model and no engine, so they are the baseline of every measurement and the fallback
of a robot without weights. Points are described once per image; a keyframe's are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.matcher import check_owner
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, Features, Reference

Array = npt.NDArray[Any]
TwoNearest = Callable[[Array, Array], tuple[Array, Array, Array]]

MAX_POINTS = 4096
RATIO = 0.85  # Lowe's test: distance to the nearest over distance to the second nearest
ROWS_AT_ONCE = 1024  # of the similarity matrix: 16 MB instead of 64
CONSISTENT_PX = 1.0  # sigma of the flow's forward-backward error
LIKE_GREY = 16.0  # grey levels: how much one surface may differ between two frames
WINDOW_PX = 9
FLAT_GREY = 0.5  # grey levels per px: the slope that sensor noise leaves after smoothing
TEXTURE_WINDOW_PX = 31  # size of the window in which texture is measured
DIS_MIN_PX = 32  # DIS refuses smaller images: its pyramid would be empty


@dataclass(frozen=True, eq=False)
class Described:
    """The points of one image."""

    px: Array  # (N, 2) float64
    descriptors: Array  # (N, D): float32 of length 1, or uint8 bits


class _PointMatcher:
    """Detect and describe once per image; nearest neighbours that pass the ratio test.

    mutual: each must be the other's nearest, so that no point is matched twice. On the evaluation
    scenes it helps where matches are many and hurts where they are few (docs/benchmarks.md).
    """

    name = "points"
    _two_nearest: TwoNearest

    def __init__(self, detector: Any, max_points: int, ratio: float, mutual: bool) -> None:
        if max_points < 1 or not 0 < ratio <= 1:
            raise InvalidInput(
                f"max_points must be positive and ratio in (0, 1], got {max_points}, {ratio}"
            )
        self._detector, self._max_points = detector, max_points
        self._ratio, self._mutual = ratio, mutual

    def encode(self, rgb: ByteArray) -> Features:
        keypoints, descriptors = self._detector.detectAndCompute(_grey(rgb), None)
        strongest = np.argsort([-k.response for k in keypoints], kind="stable")[: self._max_points]
        points = Described(
            np.array([keypoints[i].pt for i in strongest], np.float64).reshape(-1, 2),
            np.zeros((0, 1), np.uint8) if descriptors is None else descriptors[strongest],
        )
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), self._prepared(points))

    def _prepared(self, points: Described) -> Described:
        return points

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        return Reference(self.name, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> Correspondences:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        a, b = query.data, reference.data
        if len(a.px) < 2 or len(b.px) < 2:  # the ratio test needs a second nearest
            return Correspondences.empty()
        nearest, first, second = type(self)._two_nearest(a.descriptors, b.descriptors)
        kept = np.flatnonzero(first < self._ratio * second)
        if self._mutual:
            back = type(self)._two_nearest(b.descriptors[nearest[kept]], a.descriptors)[0]
            kept = kept[back == kept]
        confidence = 1.0 - first[kept] / second[kept]
        return Correspondences(a.px[kept], b.px[nearest[kept]], confidence)


class SiftMatcher(_PointMatcher):
    """SIFT with RootSIFT descriptors (square root of the L1-normalised histogram).

    contrast: blobs fainter than this are left out; OpenCV's own value, as in published baselines.
    Half of it finds twice the points in rooms with little texture (docs/benchmarks.md).
    """

    name = "sift"

    def __init__(
        self,
        max_points: int = MAX_POINTS,
        ratio: float = RATIO,
        mutual: bool = True,
        contrast: float = 0.04,
    ) -> None:
        detector = cv2.SIFT_create(  # type: ignore[attr-defined]
            nfeatures=max_points, contrastThreshold=contrast
        )
        super().__init__(detector, max_points, ratio, mutual)

    @staticmethod
    def _two_nearest(a: Array, b: Array) -> tuple[Array, Array, Array]:
        return two_nearest_unit(a, b)

    def _prepared(self, points: Described) -> Described:
        total = np.maximum(points.descriptors.sum(axis=1, keepdims=True), 1e-9)
        return Described(points.px, np.sqrt(points.descriptors / total, dtype=np.float32))


class _BitMatcher(_PointMatcher):
    @staticmethod
    def _two_nearest(a: Array, b: Array) -> tuple[Array, Array, Array]:
        return two_nearest_bits(a, b)


class OrbMatcher(_BitMatcher):
    """ORB: fast, 256-bit descriptors."""

    name = "orb"

    def __init__(
        self, max_points: int = MAX_POINTS, ratio: float = RATIO, mutual: bool = True
    ) -> None:
        detector = cv2.ORB_create(nfeatures=max_points)  # type: ignore[attr-defined]
        super().__init__(detector, max_points, ratio, mutual)


class AkazeMatcher(_BitMatcher):
    """AKAZE with its 486-bit M-LDB descriptors."""

    name = "akaze"

    def __init__(
        self, max_points: int = MAX_POINTS, ratio: float = RATIO, mutual: bool = True
    ) -> None:
        super().__init__(cv2.AKAZE_create(), max_points, ratio, mutual)  # type: ignore[attr-defined]


class DisMatcher:
    """DIS optical flow: every pixel, but only for small motion between similar images.

    The flow needs both images at once: of a keyframe its grey image and texture are kept.
    Certainty = consistency (the flow there and back returns) times likeness (the colours agree)
    times texture (there was something to track): on a blank wall any flow is consistent.
    """

    name = "dis"

    def __init__(self, preset: str = "medium") -> None:
        if preset not in DIS_PRESETS:
            raise InvalidInput(f"unknown DIS preset {preset!r}: use {', '.join(DIS_PRESETS)}")
        self._flow = cv2.DISOpticalFlow_create(DIS_PRESETS[preset])  # type: ignore[attr-defined]

    def encode(self, rgb: ByteArray) -> Features:
        if min(rgb.shape[:2]) < DIS_MIN_PX:
            raise InvalidInput(
                f"image is {rgb.shape[1]}x{rgb.shape[0]}: DIS needs {DIS_MIN_PX} px each way"
            )
        grey = _grey(rgb)
        return Features(self.name, (rgb.shape[1], rgb.shape[0]), (grey, textured(grey)))

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        return Reference(self.name, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> DenseMatch:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        size, keyframe_size = query.image_size, reference.image_size
        grey, texture = query.data
        other, other_texture = reference.data
        if size != keyframe_size:  # DIS compares images of one size
            other, other_texture = (cv2.resize(x, size) for x in reference.data)
        forward = self._flow.calc(grey, other, None)
        backward = self._flow.calc(other, grey, None)
        warp, certainty = consistent_warp(forward, backward)
        certainty *= likeness(grey, other, warp) * texture * _fetched(other_texture, warp)
        scale = np.array(keyframe_size, np.float32) / np.array(size, np.float32)
        warp_px = np.asarray((warp + 0.5) * scale - 0.5, np.float32)
        return DenseMatch(warp_px, certainty, size, keyframe_size)


DIS_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


def two_nearest_unit(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """For each a, the index of its nearest b, its distance, and the distance of the second nearest.

    Unit vectors: a (N, D), b (M, D) with M > 1.

    |a - b|^2 = 2 - 2 a.b
    """
    index = np.empty(len(a), np.int64)
    similar = np.empty((2, len(a)), np.float32)
    for start in range(0, len(a), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        product = a[rows] @ b.T
        each, best = np.arange(len(product)), product.argmax(axis=1)
        index[rows], similar[0, rows] = best, product[each, best]
        product[each, best] = -np.inf
        similar[1, rows] = product.max(axis=1)
    first, second = np.sqrt(np.maximum(2.0 - 2.0 * similar, 0.0))
    return index, first, np.maximum(second, 1e-9)


def two_nearest_bits(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """The same by the Hamming distance of binary descriptors: uint8, a (N, bytes), b (M, bytes)."""
    if not len(a):
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    distance, index = cv2.batchDistance(a, b, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2)
    bits = distance.astype(np.float64)
    return index[:, 0].astype(np.int64), bits[:, 0], np.maximum(bits[:, 1], 1e-9)


def consistent_warp(forward: Array, backward: Array) -> tuple[Array, Array]:
    """Flows (h, w, 2) there and back -> warp (h, w, 2) in pixels and consistency (h, w).

    exp(-e^2 / 2) of the forward-backward error e in units of CONSISTENT_PX; 0 off the image.
    """
    h, w = forward.shape[:2]
    u, v = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    warp = np.stack([u, v], axis=-1) + forward
    error = np.linalg.norm(forward + _fetched(backward, warp), axis=-1) / CONSISTENT_PX
    inside = (warp >= 0).all(axis=-1) & (warp <= (w - 1, h - 1)).all(axis=-1)
    return warp, np.where(inside, np.exp(-0.5 * error**2), 0.0).astype(np.float32)


def likeness(query: Array, keyframe: Array, warp: Array) -> Array:
    """exp(-d^2 / 2), d = mean grey difference around a pixel in units of LIKE_GREY levels."""
    difference = cv2.absdiff(query, _fetched(keyframe, warp))
    difference = cv2.blur(difference, (WINDOW_PX, WINDOW_PX))
    return np.asarray(np.exp(-0.5 * (difference.astype(np.float32) / LIKE_GREY) ** 2))


def textured(grey: Array) -> Array:
    """1 - exp(-g / FLAT_GREY), g = mean absolute gradient around a pixel in grey levels per px."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0).astype(np.float32)
    slope = cv2.magnitude(
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8),
        cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8),
    )
    around = cv2.blur(slope, (TEXTURE_WINDOW_PX, TEXTURE_WINDOW_PX))
    return np.asarray(1.0 - np.exp(-around / FLAT_GREY))


def _fetched(image: Array, warp: Array) -> Array:
    """The image's values at warp (h, w, 2), float32 pixels."""
    return np.asarray(
        cv2.remap(image, warp, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def _grey(rgb: ByteArray) -> ByteArray:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise InvalidInput(f"expected (H, W, 3) uint8 RGB, got {rgb.shape} of {rgb.dtype}")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY), np.uint8)
