"""Graphs of several shapes: who takes which, and what happens where two shapes meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from l2m_ros.engines.model_card import (
    InputSpec,
    ModelCard,
    ModelFile,
    Shape,
    card_from_dict,
    load_card,
    write_card,
)
from l2m_ros.engines.onnxruntime import open_session
from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.export.shapes import add_shape
from l2m_ros.matching.network_matcher import NetworkMatcher
from l2m_ros.matching.shaped import ShapedMatcher, is_shaped
from l2m_ros.matching.turned import is_turned
from l2m_ros.types import Features

WIDE, TALL = (64, 32), (48, 64)
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


@pytest.mark.parametrize(
    ("size", "input_size"),
    [((480, 640), TALL), ((352, 640), TALL), ((1536, 2048), TALL), ((640, 352), WIDE),
     ((640, 480), None), ((1241, 376), None), ((480, 480), None)],
)  # fmt: skip
def test_an_upright_image_is_not_laid_on_its_side_where_there_are_upright_graphs(
    size, input_size
) -> None:
    card = replace(CARD, shapes=(*CARD.shapes, Shape(*TALL, {"encoder": ModelFile("tall.onnx")})))
    matcher = ShapedMatcher(card, lambda card: NetworkMatcher(card, Engine(card)))
    features = matcher.encode(image(*size))
    assert not is_turned(features)
    assert getattr(features, "shape", None) == input_size
    match = matcher.match(features, matcher.reference(features))
    assert np.abs(match.warp_px - match.grid_px()).max() < 1e-3 and match.query_size == size
    stored = Features("fake", size, features.data)  # of a map: it finds its graphs again
    again = matcher.match(stored, matcher.reference(stored))
    assert np.array_equal(again.warp_px, match.warp_px)


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


def graph_of(weights: np.ndarray, rows: int) -> onnx.ModelProto:
    """y = x @ weights for x of so many rows; a table of that size is in it, too."""
    info = onnx.helper.make_tensor_value_info
    table = np.random.default_rng(rows).random((rows, weights.shape[1]), np.float32)
    held = {"weights": weights, "table": table, "zero": np.zeros(1, np.float32)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "weights"], ["a"]),
         onnx.helper.make_node("Add", ["a", "table"], ["b"]),
         onnx.helper.make_node("Add", ["b", "zero"], ["y"])], "g",
        [info("x", onnx.TensorProto.FLOAT, (rows, weights.shape[0]))],
        [info("y", onnx.TensorProto.FLOAT, (rows, weights.shape[1]))],
        [onnx.numpy_helper.from_array(array, name) for name, array in held.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=8)


def test_graphs_of_another_shape_read_the_weights_of_the_cards_own(tmp_path) -> None:
    weights = np.random.default_rng(0).random((40, 30), np.float32)
    own = ModelCard(name="fake", architecture="lite", input=InputSpec(width=64, height=32),
                    files={"encoder": ModelFile("g/encoder.onnx")},
                    weights_id="0" * 16)  # fmt: skip
    for folder, rows in (("g", 9), ("out", 12)):
        (tmp_path / folder).mkdir()
        onnx.save(graph_of(weights, rows), tmp_path / folder / "encoder.onnx")
    write_card(own, tmp_path / "fake.yaml")
    written = replace(own.resized(32, 64), folder=tmp_path / "out",
                      files={"encoder": ModelFile("encoder.onnx")})  # fmt: skip
    shaped = add_shape(written, tmp_path / "fake.yaml")

    card = load_card(tmp_path / "fake.yaml")
    assert [shape.size for shape in card.shapes] == [(32, 64)] and card.files == own.files
    path = card.resized(32, 64).file("encoder")
    assert path == shaped.file("encoder") == tmp_path / "g" / "encoder_32x64.onnx"
    alone = (tmp_path / "out" / "encoder.onnx").stat().st_size
    assert alone - path.stat().st_size > 0.9 * weights.nbytes
    x = np.random.default_rng(1).random((12, 40), np.float32)
    whole, shared = (
        ort.InferenceSession(str(p)).run(None, {"x": x})[0]
        for p in (tmp_path / "out" / "encoder.onnx", path)
    )
    assert np.array_equal(whole, shared)
    (tmp_path / "linked").mkdir()  # as `colcon build --symlink-install` does
    (tmp_path / "linked" / path.name).symlink_to(path)
    linked = open_session(tmp_path / "linked" / path.name)
    assert np.array_equal(linked.run(None, {"x": x})[0], whole)
    assert add_shape(written, tmp_path / "fake.yaml").input.size == (32, 64)  # again: one, not two
    assert len(load_card(tmp_path / "fake.yaml").shapes) == 1


def test_graphs_of_other_weights_become_no_shape(tmp_path) -> None:
    own = ModelCard(name="fake", architecture="lite", input=InputSpec(width=64, height=32),
                    weights_id="0" * 16)  # fmt: skip
    write_card(own, tmp_path / "fake.yaml")
    with pytest.raises(InvalidInput, match="other weights"):
        add_shape(replace(own.resized(32, 64), weights_id="1" * 16), tmp_path / "fake.yaml")
    with pytest.raises(InvalidInput, match="own input"):
        add_shape(own, tmp_path / "fake.yaml")
