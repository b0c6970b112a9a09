"""The matcher over a network that reads metres: pairs of keypoints with depth at both ends.

The network gives one keypoint, depth and likelihood for each cell of an image, and each cell's
best partner; pairs that are each other's best become correspondences.
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
from l2m_ros.types import ByteArray, Correspondences, Features, MatchDepths, Reference

Size = tuple[int, int]  # (width, height)
MIN_PROBABILITY = 1e-3  # below, a pair is each other's best among cells that fit nothing
# Relative errors of the published network's depth, where a card's `depth` states none: half of the
# 1.59 m median error on the Map-free benchmark, whose places are some 8 m away.
SCALE_SIGMA, IMAGE_SIGMA, DEPTH_SIGMA = 0.15, 0.10, 0.15
NEEDED = ("partner", "back", "probability")


class MetricMatcher:
    """A `Matcher` over a network. Thread-safe: a lock lets one call run at a time."""

    def __init__(self, card: ModelCard, backend: Backend) -> None:
        self.name, self.card, self.backend = card.name, card, backend
        self._turn = threading.Lock()

    def encode(self, rgb: ByteArray) -> Features:
        image = check_rgb(rgb)
        tensor = network_input(self.card.input, image)
        with self._turn:
            data = self.backend.run("encode", {"image": tensor})
        return Features(self.name, (image.shape[1], image.shape[0]), data)

    def reference(self, features: Features) -> Reference:
        check_owner(features, self.name)
        with self._turn:
            data = self.backend.run("reference", features.data)
        return Reference(self.name, features.image_size, data)

    def match(self, query: Features, reference: Reference) -> Correspondences:
        check_owner(query, self.name)
        check_owner(reference, self.name)
        if not isinstance(reference, Reference):
            raise InvalidInput("match takes a Reference second: matcher.reference(features)")
        with self._turn:
            outputs = self.backend.run("match", match_inputs(query.data, reference.data))
            found = self.backend.to_host(outputs)
            ends = [self._cells(side) for side in (query, reference)]
        return self._pairs(found, *ends)

    def cells(self, features: Features) -> tuple[Array, Array, Array]:
        """Of each cell, row-major: pixel (n, 2), depth (n,), whether it lies on the image (n,)."""
        check_owner(features, self.name)
        with self._turn:
            pixels, depth, _ = self._cells(features)
        size = np.array(features.image_size)
        inside = np.all((pixels >= -0.5) & (pixels <= size - 0.5), axis=1)
        return pixels, depth, np.asarray(inside)

    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells of the network's input."""
        cell = int(self.card.config.get("patch", 8 if self.per_focal else 14))
        return self.card.input.height // cell, self.card.input.width // cell

    def _cells(self, features: Features) -> tuple[Array, Array, Array]:
        """Of each cell: pixel of the image (n, 2), depth (n,), whether it may be drawn (n,)."""
        names = ("keypoints", "depth", "score")
        missing = [name for name in names if name not in features.data]
        if missing:
            raise ModelError(f"the encoder of {self.name} gives no {missing[0]}: not a matcher")
        data = self.backend.to_host({name: features.data[name] for name in names})
        spec = self.card.input
        content = content_size(spec, features.image_size)
        ratio = np.array(features.image_size) / np.array(content)
        # Centres at integers here and there: that is how the published cameras were resized.
        pixels = (np.asarray(data["keypoints"][0], np.float64).T + 0.5) * ratio - 0.5
        depth = np.asarray(data["depth"][0, 0], np.float64)
        if self.per_focal:  # by the network's focal length: now by the image's
            depth = depth / np.sqrt(np.prod(ratio))
        size = np.array(features.image_size)
        inside = ((pixels >= -0.5) & (pixels <= size - 0.5)).all(axis=1)
        return pixels, depth, inside & (np.asarray(data["score"][0, 0]) > 0)

    @property
    def per_focal(self) -> bool:
        """Whether depths are over the focal length in pixels of the image."""
        return bool(self.card.config.get("per_focal", False))

    def _pairs(
        self,
        found: dict[str, Array],
        query: tuple[Array, Array, Array],
        keyframe: tuple[Array, Array, Array],
    ) -> Correspondences:
        for name in NEEDED:
            if name not in found:
                raise ModelError(f"the decoder of {self.name} gives no {name}: not a matcher")
        partner, back = (np.asarray(found[name][0]).astype(np.intp) for name in NEEDED[:2])
        probability = np.asarray(found["probability"][0], np.float64)
        cells = np.arange(len(partner))
        good = (back[partner] == cells) & np.isfinite(probability) & (probability > MIN_PROBABILITY)
        good &= query[2] & keyframe[2][partner]
        i, j, sigmas = cells[good], partner[good], self.sigmas()
        return Correspondences(
            query[0][i],
            keyframe[0][j],
            np.clip(probability[i], 0.0, 1.0),
            depths=MatchDepths(
                query[1][i], keyframe[1][j], sigmas["scale_sigma"], sigmas["image_sigma"],
                per_focal=self.per_focal,
            ),
        )  # fmt: skip

    def sigmas(self) -> dict[str, float]:
        """Relative errors of its depths: of a place, of an image, of each one."""
        stated: dict[str, Any] = dict(self.card.depth)
        return {
            "scale_sigma": float(stated.get("scale_sigma", SCALE_SIGMA)),
            "image_sigma": float(stated.get("image_sigma", IMAGE_SIGMA)),
            "depth_sigma": float(stated.get("depth_sigma", DEPTH_SIGMA)),
        }
