"""Sky by rule and by network, against skies that were put there."""

import cv2
import numpy as np
import pytest
from test_lifting_views import photograph

from l2m_ros.errors import ModelError
from l2m_ros.workshop.lifting.sky import SkyModel, sky_by_rule

SIZE = (320, 240)


def ground(seed):
    """Textured, darker than the sky: leaves, stones, walls."""
    rng = np.random.default_rng(seed)
    grain = rng.integers(-30, 30, (*SIZE[::-1], 1))
    return np.clip(photograph(seed, SIZE) * 0.6 + grain, 0, 255).astype(np.uint8)


def sky(kind, seed):
    """A gradient towards the horizon, with soft clouds if it is blue."""
    rng = np.random.default_rng(seed)
    top, horizon = {
        "blue": ((80, 130, 210), (170, 200, 235)),
        "overcast": ((240, 243, 248), (250, 250, 252)),
    }[kind]
    share = np.linspace(0, 1, SIZE[1])[:, None, None]
    image = np.broadcast_to(
        np.array(top) * (1 - share) + np.array(horizon) * share, (*SIZE[::-1], 3)
    )
    clouds = cv2.resize(rng.random((4, 6)).astype(np.float32), SIZE, interpolation=cv2.INTER_CUBIC)
    cover = np.clip(clouds - 0.7, 0, 0.3)[..., None] if kind == "blue" else 0.0
    noise = rng.normal(0, 1.5, (*SIZE[::-1], 1))
    return np.clip(image + cover * (250 - image) + noise, 0, 255).astype(np.uint8)


def composite(kind, seed):
    """(rgb, truth): a jagged horizon between the two."""
    rng = np.random.default_rng(seed)
    heights = cv2.resize(rng.uniform(0.25, 0.6, (1, 9)).astype(np.float32), (SIZE[0], 1))[0]
    truth = np.arange(SIZE[1])[:, None] < heights[None] * SIZE[1]
    return np.where(truth[..., None], sky(kind, seed), ground(seed)), truth


@pytest.mark.parametrize("kind", ["blue", "overcast"])
def test_the_rule_is_precise_on_composites(kind):
    marked = right = there = 0
    for seed in range(12):
        rgb, truth = composite(kind, seed)
        mask = sky_by_rule(rgb)
        marked, right = marked + mask.sum(), right + (mask & truth).sum()
        there += truth.sum()
    assert right / marked > 0.98
    assert right / there > 0.8


def test_nothing_is_sky_where_there_is_none():
    for seed in range(12):
        assert not sky_by_rule(ground(seed)).any()
    ceiling = np.full((240, 320, 3), (225, 220, 210), np.uint8)
    ceiling[100:] = ground(0)[100:]
    assert not sky_by_rule(ceiling).any()
    water = sky("blue", 0)[::-1].copy()
    water[:140] = ground(1)[:140]
    assert not sky_by_rule(water).any()  # blue and smooth, but below
    assert not sky_by_rule(np.full((240, 320, 3), 255, np.uint8)).any()  # a white page


def network(tmp_path, channels=1):
    """Sky = how blue the normalised image is; any size."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [channels, 3, 1, 1], [-1.0, 0.0, 1.0] * channels
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["score"])],
        "sky",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 320, 320])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [1, channels, 320, 320])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / f"sky{channels}.onnx"
    onnx.save(model, path)
    return path


def test_a_network_decides_where_one_is_given(tmp_path):
    rgb = np.full((100, 200, 3), (200, 150, 60), np.uint8)
    rgb[:40] = 60, 150, 200
    mask = SkyModel(network(tmp_path))(rgb)
    assert mask[:38].all() and not mask[43:].any()
    assert not SkyModel(network(tmp_path))(np.full((50, 60, 3), 99, np.uint8)).any()


def test_networks_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        SkyModel(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="cannot load"):
        SkyModel(tmp_path / "text.onnx")
    with pytest.raises(ModelError, match="one score per pixel"):
        SkyModel(network(tmp_path, channels=2))(np.zeros((50, 60, 3), np.uint8))
