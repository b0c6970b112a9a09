"""The matcher over a network: images of any size in, pixels of those images out.

The networks' normalised coordinates (-1 = left edge of the left pixel, +1 = right edge of the
right pixel) end here: outside of this file there are only pixels with centres at integers.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from l2m_ros.engines.backend import Array, Backend, match_inputs
from l2m_ros.engines.model_card import ModelCard
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching.matcher import check_owner
from l2m_ros.matching.preprocess import check_rgb, content_size, network_input
from l2m_ros.matching.turned import (
    TurnedFeatures,
    TurnedReference,
    asks_for_turn,
    is_turned,
    turned,
    turned_back,
)
from l2m_ros.types import ByteArray, DenseMatch, Features, Reference

Size = tuple[int, int]  # (width, height)


class NetworkMatcher:
    """A `Matcher` over a network. Thread-safe: a lock lets one call run at a time."""

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.name, self.card, self.backend = card.name, card, backend
        self._turn = threading.Lock()

    def encode(self, rgb: ByteArray) -> Features:
        image = check_rgb(rgb)
        size = (image.shape[1], image.shape[0])
        if asks_for_turn(self.card.input, image):
            return TurnedFeatures(self.name, size, self._encoded(turned(image)), image)
        return Features(self.name, size, self._encoded(image))

    def encode_upright(self, rgb: ByteArray) -> Features:
        """As it is, never turned by a quarter: for what has to tell up from down."""
        image = check_rgb(rgb)
        return Features(self.name, (image.shape[1], image.shape[0]), self._encoded(image))

    def _encoded(self, image: ByteArray) -> dict[str, Any]:
        tensor = network_input(self.card.input, image)
        with self._turn:
            return self.backend.run("encode", {"image": tensor})

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        with self._turn:
            data = self.backend.run("reference", features.data)
        if isinstance(features, TurnedFeatures):
            return TurnedReference(self.name, features.image_size, data, features.rgb)
        return Reference(self.name, features.image_size, data)

    def match(self, query: Features, reference: Reference) -> DenseMatch:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        if not isinstance(reference, Reference):
            raise InvalidInput("match takes a Reference second: matcher.reference(features)")
        query, reference = self._alike(query, reference)
        with self._turn:
            outputs = self.backend.run("match", match_inputs(query.data, reference.data))
            arrays = self.backend.to_host(outputs)
        if is_turned(query):
            sizes = query.image_size[::-1], reference.image_size[::-1]
            return turned_back(self._in_pixels(arrays, *sizes))
        return self._in_pixels(arrays, query.image_size, reference.image_size)

    def _alike(self, query: Features, reference: Reference) -> tuple[Features, Reference]:
        """Both turned or none: of a mixed pair the turned one is encoded as it is."""
        if is_turned(query) == is_turned(reference):
            return query, reference
        if isinstance(query, TurnedFeatures):
            return Features(self.name, query.image_size, self._encoded(query.rgb)), reference
        assert isinstance(reference, TurnedReference)
        features = Features(self.name, reference.image_size, self._encoded(reference.rgb))
        return query, self.reference(features)

    def _in_pixels(self, arrays: dict[str, Array], query: Size, keyframe: Size) -> DenseMatch:
        for name in ("warp", "certainty"):
            if name not in arrays:
                raise ModelError(f"the decoder of {self.name} gives no {name}: not a matcher")
        spec = self.card.input
        grid = _covered(arrays["warp"].shape[2:], spec.size, content_size(spec, query))
        warp = arrays["warp"][0][grid]  # (2, h, w)
        certainty = sigmoid(arrays["certainty"][0, 0][grid[1:]])
        content = content_size(spec, keyframe)
        warp_px = to_pixels(warp, spec.size, content, keyframe)
        outside = ~inside(warp_px, keyframe)  # NaN is outside too
        certainty[outside | ~np.isfinite(certainty)] = 0.0
        precision = None
        if "precision" in arrays:
            scale = (keyframe[0] / content[0], keyframe[1] / content[1])
            precision = precision_matrix(arrays["precision"][0][grid], scale)
        return DenseMatch(warp_px, certainty, query, keyframe, precision)


def _covered(shape: tuple[int, ...], size: Size, content: Size) -> tuple[slice, slice, slice]:
    """The cells of an output grid that lie on the image: all, or without a letterbox's padding."""
    rows, columns = shape[0] * content[1] // size[1], shape[1] * content[0] // size[0]
    return slice(None), slice(0, rows), slice(0, columns)


def to_pixels(warp: Array, size: Size, content: Size, image: Size) -> Array:
    """Normalised (2, h, w) of the network's input -> (h, w, 2) pixels of the image.

    u + 1/2 = (x + 1) / 2 * input * image / content
    """
    out = np.empty((*warp.shape[1:], 2), np.float32)
    for axis in (0, 1):
        half = 0.5 * size[axis] * image[axis] / content[axis]
        out[..., axis] = warp[axis].astype(np.float32) * half + (half - 0.5)
    undefined = ~np.isfinite(out).all(axis=2)
    out[undefined] = np.nan
    return out


def inside(pixels: Array, size: Size) -> Array:
    """Where pixels (h, w, 2) lie on an image of (width, height): its outer edges included."""
    u, v = pixels[..., 0], pixels[..., 1]
    within: Array = (u >= -0.5) & (u <= size[0] - 0.5) & (v >= -0.5) & (v <= size[1] - 0.5)
    return within


def sigmoid(logits: Array) -> Array:
    # By tanh: exp overflows where logits reach -100, which occurs.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float32))), np.float32)


def precision_matrix(factors: Array, scale: tuple[float, float]) -> Array:
    """(3, h, w) entries (a, b, c) of L = [[a, 0], [b, c]] -> (h, w, 2, 2) = S^-1 L L^T S^-1.

    The network's unit is the pixel of its own input; scale = image pixels per input pixel.
    """
    a, b, c = factors.astype(np.float32)
    sx, sy = scale
    out = np.empty((*a.shape, 2, 2), np.float32)
    out[..., 0, 0] = a * a / (sx * sx)
    out[..., 0, 1] = out[..., 1, 0] = a * b / (sx * sy)
    out[..., 1, 1] = (b * b + c * c) / (sy * sy)
    return out
