"""Graphs of several shapes: who takes which, and what happens where two shapes meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from l2m_ros.engines.model_card import InputSpec, ModelCard, ModelFile, Shape, card_from_dict
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.matching.shaped import ShapedMatcher, is_shaped
from l2m_ros.types import Features

WIDE = (64, 32)
CARD = ModelCard(
    name="fake", architecture="lite", input=InputSpec(width=64, height=48, turn=True),
    shapes=(Shape(*WIDE, {"encoder": ModelFile("wide.onnx")}),),
)  # fmt: skip


class Engine:
    """Says where every cell's own place is, and counts what it encodes."""

    name, device = "fake", "cpu"

    def __init__(self, card: ModelCard) -> None:
        self.size, self.encoded = card.input.size, 0

    def run(self, stage, inputs):
        width, height = self.size
        if stage == "encode":
            self.encoded += 1
            assert inputs["image"].shape == (1, 3, height, width)
            return {"image": inputs["image"]}
        if stage == "reference":
            return {"kept": inputs["image"]}
        assert inputs["query_image"].shape == inputs["keyframe_kept"].shape
        x, y = ((np.arange(n // 4) + 0.5) * 8 / n - 1 for n in (width, height))
        warp = np.stack(np.broadcast_arrays(x[None, :], y[:, None]))[None].astype(np.float32)
        return {"warp": warp, "certainty": np.full((1, 1, *warp.shape[2:]), 9.0, np.float32)}

    def to_host(self, tensors):
        return dict(tensors)

    def device_memory_bytes(self):
        return None


@pytest.fixture
def matcher() -> ShapedMatcher:
    return ShapedMatcher(CARD, lambda card: NetworkMatcher(card, Engine(card)))


def image(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("size", "wide"),
    [((640, 480), False), ((640, 352), True), ((352, 640), True), ((1000, 480), True),
     ((752, 480), False), ((1241, 376), False), ((480, 480), False)],
)  # fmt: skip
def test_an_image_takes_the_shape_within_a_tenth_of_its_own(matcher, size, wide) -> None:
    features = matcher.encode(image(*size))
    assert is_shaped(features) == wide
    assert features.image_size == size and features.model == "fake"
    match = matcher.match(features, matcher.reference(features))
    off = np.abs(match.warp_px - match.grid_px()).max()
    assert off < 1e-3 and match.query_size == size and (match.certainty > 0.9).all()


def test_two_shapes_meet_in_the_cards_own(matcher) -> None:
    wide, usual = (matcher.encode(image(*size)) for size in ((640, 352), (640, 480)))
    before = matcher.own.backend.encoded
    for query, other in ((wide, usual), (usual, wide)):
        match = matcher.match(query, matcher.reference(other))
        assert match.query_size == query.image_size and match.keyframe_size == other.image_size
    assert matcher.own.backend.encoded == before + 2


def test_features_that_were_stored_find_their_shape_again(matcher) -> None:
    wide = matcher.encode(image(640, 352))
    read = Features("fake", wide.image_size, wide.data)
    matcher.match(read, matcher.reference(read))
    usual = matcher.encode(image(640, 480))
    with pytest.raises(InvalidInput, match="encode the image again"):
        matcher.match(read, matcher.reference(usual))


def test_an_engine_that_is_built_for_minutes_keeps_to_one_shape() -> None:
    slow = NetworkMatcher(CARD, Engine(CARD))
    slow.backend.name = "tensorrt"
    assert not is_shaped(ShapedMatcher(CARD, lambda card: slow).encode(image(640, 352)))


def test_a_card_holds_its_shapes() -> None:
    raw = {"name": "m", "architecture": "lite", "input": {"width": 64, "height": 48}}
    wide = {"width": 64, "height": 32, "files": {"encoder": {"path": "wide.onnx"}}}
    card = card_from_dict({**raw, "shapes": [wide]})
    assert card.resized(64, 32).files == {"encoder": ModelFile("wide.onnx")}
    assert card.resized(96, 64).files == {} and replace(card, shapes=()).shapes == ()
    with pytest.raises(ModelError, match="shapes: files is 'encodr'"):
        card_from_dict({**raw, "shapes": [{**wide, "files": {"encodr": {"path": "a"}}}]})
