"""Matching a frame against a kept keyframe: the one interface everybody uses.

    features  = matcher.encode(rgb)                 once per frame
    reference = matcher.reference(features)         once per KEYFRAME
    match     = matcher.match(features, reference)  once per frame, query -> keyframe

A keyframe is matched hundreds of times, so all that depends on it alone is in `reference`.
"""

from __future__ import annotations

from typing import Protocol

from l2m_ros.errors import InvalidInput
from l2m_ros.types import ByteArray, Correspondences, DenseMatch, Features, Reference

Match = DenseMatch | Correspondences


class Matcher(Protocol):
    """Images of any size in, matches in pixels of those images out."""

    name: str

    def encode(self, rgb: ByteArray) -> Features:
        """What the matcher needs of one image, (H, W, 3) uint8 RGB."""
        ...

    def reference(self, features: Features) -> Reference:
        """What `match` needs of a keyframe, computed from its features."""
        ...

    def match(self, query: Features, reference: Reference) -> Match:
        """Where each pixel of the query lies in the keyframe, in pixels of both images.

        Dense matchers return a DenseMatch, sparse ones Correspondences.
        """
        ...


def check_owner(features: object, model: str) -> None:
    """Refuses what is no Features, and the Features of another model."""
    if not isinstance(features, Features):
        raise InvalidInput(f"expected Features of matcher.encode, got {type(features)}")
    if features.model != model:
        raise InvalidInput(
            f"features of model {features.model!r} were given to {model!r}: "
            "encode the image with this matcher"
        )
