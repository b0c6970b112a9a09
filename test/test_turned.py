"""Upright images in a landscape network: turned, matched, and every pixel back in its place."""

import numpy as np
import pytest

from l2m_ros.engines.model_card import InputSpec, ModelCard
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.types import Reference

CARD = ModelCard(
    name="fake", architecture="lite", input=InputSpec(width=64, height=32, multiple=32, turn=True)
)


class Shifting:
    """An engine whose warp is the identity plus a fixed step of the input, and precision known."""

    def __init__(self) -> None:
        self.encoded = 0

    def run(self, stage, tensors):
        if stage == "encode":
            self.encoded += 1
            return {"image": tensors["image"]}
        if stage == "reference":
            return dict(tensors)
        y, x = np.meshgrid(
            (np.arange(8) + 0.5) / 4 - 1, (np.arange(16) + 0.5) / 8 - 1, indexing="ij"
        )
        warp = np.stack([x + 2 * 2 / 64, y + 2 * 1 / 32]).astype(
            np.float32
        )  # 2 px right, 1 px down
        factor = np.stack([np.full((8, 16), v, np.float32) for v in (1.0, 0.5, 2.0)])
        certainty = np.full((1, 1, 8, 16), 3.0, np.float32)
        return {"warp": warp[None], "certainty": certainty, "precision": factor[None]}

    def to_host(self, outputs):
        return outputs


def _image(width, height):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_an_upright_pair_comes_back_in_its_own_pixels():
    matcher = NetworkMatcher(CARD, Shifting())
    upright = _image(32, 64)
    query = matcher.encode(upright)
    seen = query.data["image"][0].transpose(1, 2, 0) * 255
    np.testing.assert_allclose(seen, np.rot90(upright), atol=1e-3)  # the right edge on top
    match = matcher.match(query, matcher.reference(query))
    assert (match.query_size, match.keyframe_size) == ((32, 64), (32, 64))
    assert match.certainty.shape == (16, 8)
    step = (match.warp_px - match.grid_px())[match.certainty > 0]
    # 2 right and 1 down in the turned image are 2 down and 1 to the left in the upright one.
    np.testing.assert_allclose(step, [[-1.0, 2.0]] * len(step), atol=1e-4)
    factor = np.array([[1.0, 0.0], [0.5, 2.0]])
    x_turned = factor @ factor.T  # of (x', y') = (v, W - 1 - u)
    expected = [[x_turned[1, 1], -x_turned[1, 0]], [-x_turned[0, 1], x_turned[0, 0]]]
    np.testing.assert_allclose(match.precision[3, 3], expected, atol=1e-5)


@pytest.mark.parametrize("first, second", [((32, 64), (64, 32)), ((64, 32), (32, 64))])
def test_a_mixed_pair_is_matched_as_it_is(first, second):
    engine = Shifting()
    matcher = NetworkMatcher(CARD, engine)
    query = matcher.encode(_image(*first))
    reference = matcher.reference(matcher.encode(_image(*second)))
    match = matcher.match(query, reference)
    assert engine.encoded == 3  # the upright one twice
    assert (match.query_size, match.keyframe_size) == (first, second)
    assert isinstance(reference, Reference)


def test_landscape_and_cards_without_turn_are_left_alone():
    matcher = NetworkMatcher(CARD, Shifting())
    image = _image(64, 32)
    seen = matcher.encode(image).data["image"][0].transpose(1, 2, 0) * 255
    np.testing.assert_allclose(seen, image, atol=1e-3)
    stays = ModelCard(name="fake", architecture="lite",
                      input=InputSpec(width=64, height=32, multiple=32))  # fmt: skip
    assert NetworkMatcher(stays, Shifting()).encode(_image(32, 64)).data["image"].shape[-1] == 64
