"""One network, graphs of several shapes: each image goes through those that fit it.

A 16:9 image in a 4:3 input is stretched by a third and costs a third more, and an upright one must
be laid on its side, which a network matches worse. A card may name graphs of other shapes
(`shapes`); an image whose own shape is within a tenth of one of them takes it, an upright one that
nearest to its own, all others the card's own. Two images of different shapes meet in the card's
own: the one that took other graphs keeps its picture for that, and is encoded again when it
happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import InvalidInput
from l2m_ros.matching.matcher import check_owner
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.types import ByteArray, DenseMatch, Features, Reference

Size = tuple[int, int]  # (width, height)
NEAR = math.log(1.1)  # ratio of the image's shape to the graphs'


class ShapedFeatures(Features):
    """Features by graphs of another shape than the card's own."""

    __slots__ = ("inner", "rgb", "shape")
    inner: Features
    rgb: ByteArray
    shape: Size

    def __init__(self, inner: Features, shape: Size, rgb: ByteArray) -> None:
        super().__init__(inner.model, inner.image_size, inner.data)
        self.inner, self.shape, self.rgb = inner, shape, rgb


class ShapedReference(Reference):
    """The same, of a keyframe."""

    __slots__ = ("inner", "rgb", "shape")
    inner: Reference
    rgb: ByteArray
    shape: Size

    def __init__(self, inner: Reference, shape: Size, rgb: ByteArray) -> None:
        super().__init__(inner.model, inner.image_size, inner.data)
        self.inner, self.shape, self.rgb = inner, shape, rgb


class ShapedMatcher:
    """A `Matcher` over the shapes of a card; `load` opens one of them when it is first needed."""

    def __init__(self, card: ModelCard, load: Callable[[ModelCard], NetworkMatcher]) -> None:
        self.card, self.name = card, card.name
        self.own = load(card)
        self.backend = self.own.backend
        # An engine of TensorRT takes minutes to build: not in the middle of a run.
        self._shapes = () if self.backend.name == "tensorrt" else card.shapes
        self._of = lru_cache(None)(lambda shape: load(card.resized(*shape)))

    def encode(self, rgb: ByteArray) -> Features:
        shape = self._fitting((rgb.shape[1], rgb.shape[0])) if rgb.ndim == 3 else None
        if shape is None:
            return self.own.encode(rgb)
        return ShapedFeatures(self._of(shape).encode(rgb), shape, rgb)

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        if isinstance(features, ShapedFeatures):
            inner = self._of(features.shape).reference(features.inner)
            return ShapedReference(inner, features.shape, features.rgb)
        return self._matcher_of(features).reference(features)

    def match(self, query: Features, reference: Reference) -> DenseMatch:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        one, other = self._matcher_of(query), self._matcher_of(reference)
        if one is other:
            return one.match(_inner(query), _inner_reference(reference))
        query = query if one is self.own else self.own.encode(_picture(query))
        if other is not self.own:
            reference = self.own.reference(self.own.encode(_picture(reference)))
        return self.own.match(query, reference)

    def _matcher_of(self, features: Features) -> NetworkMatcher:
        """By the image's size: features that were stored and read again know no more."""
        shape = self._fitting(features.image_size)
        return self.own if shape is None else self._of(shape)

    def _fitting(self, image: Size) -> Size | None:
        """The shape that fits an image, None where the card's own serves."""
        own = self.card.input.size
        shapes = [shape.size for shape in self._shapes]
        alike = [shape for shape in (own, *shapes) if _upright(shape) == _upright(image)]
        near = [shape for shape in alike if _stretch(image, shape) < NEAR]
        if near:
            found = min(near, key=lambda shape: _stretch(image, shape))
        elif own in alike:
            return None
        elif alike:  # stretched, but not laid on its side: matching knows up from down
            found = min(alike, key=lambda shape: _stretch(image, shape))
        else:
            turned = [shape for shape in shapes if _stretch(image[::-1], shape) < NEAR]
            found = turned[0] if turned and self.card.input.turn else own
        return None if found == own else found


def is_shaped(features: Features) -> bool:
    return isinstance(features, ShapedFeatures | ShapedReference)


def _upright(size: Size) -> bool:
    return size[1] > size[0]


def _stretch(image: Size, shape: Size) -> float:
    return abs(math.log(image[0] * shape[1] / (max(image[1], 1) * shape[0])))


def _inner(features: Features) -> Features:
    return features.inner if isinstance(features, ShapedFeatures) else features


def _inner_reference(reference: Reference) -> Reference:
    return reference.inner if isinstance(reference, ShapedReference) else reference


def _picture(features: Features) -> ByteArray:
    if isinstance(features, ShapedFeatures | ShapedReference):
        return features.rgb
    raise InvalidInput(
        f"the two images have other shapes ({features.image_size[0]}x{features.image_size[1]} is "
        "one), and these stored features are of graphs of one shape: encode the image again"
    )
