"""Matchers that need no network: RootSIFT, ORB, AKAZE (sparse) and DIS optical flow (dense).

They are what a network has to beat, and what runs where no model is at hand. All of a keyframe's
share, descriptors sorted for searching, is done once in `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.types import (
    ByteArray,
    Correspondences,
    DenseMatch,
    Features,
    FloatArray,
    Reference,
)

KEYPOINTS = 4096
RATIO = 0.85  # Lowe's test, kept by the anchors in the published comparisons too


@dataclass(frozen=True, eq=False)
class _Keypoints:
    """Pixels (N, 2) and descriptors (N, D) of one image."""

    pixels: FloatArray
    descriptors: Any


class SparseMatcher:
    """Detect and describe; the two nearest by distance, ratio test, mutual."""

    def __init__(self, name: str, detector: Any, *, norm: int, root: bool = False) -> None:
        self.name = name
        self._detector, self._root = detector, root
        self._search = cv2.BFMatcher(norm)

    def encode(self, rgb: ByteArray) -> Features:
        grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        keypoints, descriptors = self._detector.detectAndCompute(grey, None)
        pixels = cv2.KeyPoint_convert(keypoints).reshape(-1, 2)
        if descriptors is None:
            descriptors = np.zeros((0, 1), np.uint8)
        if len(pixels) > KEYPOINTS:  # AKAZE has no limit of its own; SIFT can exceed it
            best = np.argsort([-k.response for k in keypoints], kind="stable")[:KEYPOINTS]
            pixels, descriptors = pixels[best], descriptors[best]
        if self._root and len(pixels):
            descriptors = np.sqrt(descriptors / (descriptors.sum(axis=1, keepdims=True) + 1e-7))
        return Features(self.name, rgb.shape[1::-1], _Keypoints(pixels, descriptors))

    def reference(self, features: Features) -> Reference:
        return Reference(features.model, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> Correspondences:
        _same_model(self.name, query, reference)
        a, b = query.data, reference.data
        if min(len(a.pixels), len(b.pixels)) < 2:
            return Correspondences.empty()
        there = self._search.knnMatch(a.descriptors, b.descriptors, k=2)
        back = np.array([m.trainIdx for m in self._search.match(b.descriptors, a.descriptors)])
        nearest = np.array([(m.trainIdx, m.distance, n.distance) for m, n in there])
        index = nearest[:, 0].astype(int)
        ratio = nearest[:, 1] / np.maximum(nearest[:, 2], 1e-9)
        kept = (ratio < RATIO) & (back[index] == np.arange(len(index)))
        return Correspondences(
            a.pixels[kept], b.pixels[index[kept]], np.clip(1 - ratio[kept], 0, 1)
        )


def _same_model(name: str, query: Features, reference: Reference) -> None:
    for features in (query, reference):
        if features.model != name:
            raise InvalidInput(f"{name} cannot match what {features.model} has encoded")


class SiftMatcher(SparseMatcher):
    """RootSIFT."""

    def __init__(self) -> None:
        detector = cv2.SIFT_create(KEYPOINTS)
        super().__init__("sift", detector, norm=cv2.NORM_L2, root=True)


class OrbMatcher(SparseMatcher):
    def __init__(self) -> None:
        super().__init__("orb", cv2.ORB_create(KEYPOINTS), norm=cv2.NORM_HAMMING)


class AkazeMatcher(SparseMatcher):
    def __init__(self) -> None:
        super().__init__("akaze", cv2.AKAZE_create(), norm=cv2.NORM_HAMMING)


class DisMatcher:
    """Dense inverse search: optical flow, for views that differ little."""

    name = "dis"
    CONSISTENT_PX = 1.5  # forward-backward; certainty falls to exp(-1/2) there

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def encode(self, rgb: ByteArray) -> Features:
        grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        return Features(self.name, rgb.shape[1::-1], grey)

    def reference(self, features: Features) -> Reference:
        return Reference(features.model, features.image_size, features.data)

    def match(self, query: Features, reference: Reference) -> DenseMatch:
        _same_model(self.name, query, reference)
        if query.image_size != reference.image_size:
            raise InvalidInput(
                f"dis needs images of one size, got {query.image_size} and {reference.image_size}"
            )
        forward = self._flow.calc(query.data, reference.data, None)
        backward = self._flow.calc(reference.data, query.data, None)
        h, w = query.data.shape
        grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(np.float32)
        warp = grid + forward
        returned = cv2.remap(backward, warp, None, cv2.INTER_LINEAR, borderValue=np.inf)
        with np.errstate(invalid="ignore"):
            gap = np.linalg.norm(forward + returned, axis=2) / self.CONSISTENT_PX
            certainty = np.exp(-0.5 * gap**2)
        inside = ((warp >= 0) & (warp <= (w - 1, h - 1))).all(axis=2)
        certainty = np.where(inside & np.isfinite(certainty), certainty, 0)
        return DenseMatch(warp, certainty, query.image_size, reference.image_size)
