"""Matching a frame against a kept keyframe: the one interface everybody uses.

    features  = matcher.encode(rgb)                 once per frame
    reference = matcher.reference(features)         once per KEYFRAME
    match     = matcher.match(features, reference)  once per frame, query -> keyframe

A keyframe is matched hundreds of times, so all that depends on it alone is in `reference`.
"""

from __future__ import annotations

from typing import Protocol

from l2m_ros.types import ByteArray, Correspondences, DenseMatch, Features, Reference

Match = DenseMatch | Correspondences


class Matcher(Protocol):
    """Images (H, W, 3 uint8, any size) in, correspondences in pixels of those images out."""

    name: str

    def encode(self, rgb: ByteArray) -> Features: ...

    def reference(self, features: Features) -> Reference: ...

    def match(self, query: Features, reference: Reference) -> Match: ...
