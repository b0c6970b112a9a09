"""`l2m parity --precision`: how far the warp moves where the model is certain."""

import json

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file

from l2m_ros import cli
from l2m_ros.engines import torch as engine
from l2m_ros.engines.model_card import InputSpec
from l2m_ros.errors import InvalidInput
from l2m_ros.networks.l2m.network import TINY
from l2m_ros.networks.registry import build
from l2m_ros.networks.shared.named_weights import fill
from l2m_ros.workshop.parity.precision import Comparison, _moved_px, image_pairs, run_precision


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A thin L2M that is certain everywhere."""
    monkeypatch.setenv(engine.LARGE_PAGES, "0")
    monkeypatch.setattr(engine, "cpu_capabilities", lambda: {"avx512_bf16": True})
    network = fill(build("l2m", **TINY), "precision: ")
    for refiner in network.decoder.conv_refiner.values():
        refiner.out_conv.bias[2] += 20.0
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(network.state_dict(), folder / "thin.safetensors")
    card = "name: thin\narchitecture: l2m\ninput: {width: 84, height: 56, multiple: 14}\n"
    files = "files: {weights: {path: thin.safetensors}}\n"
    (folder / "card.yaml").write_text(f"{card}config: {TINY}\n{files}")
    return folder / "card.yaml"


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(3):
        picture = draw.integers(0, 255, (60, 90, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
    return folder


def test_only_certain_pixels_within_the_keyframe_are_compared():
    spec = InputSpec(width=40, height=20)
    exact = {"warp": np.zeros((1, 2, 2, 2)), "certainty": np.array([[[[3.0, -3.0], [3.0, 3.0]]]])}
    exact["warp"][0, 0, 1, 1] = 1.01  # beyond the right edge
    other = {"warp": exact["warp"] + [[[[0.003]], [[0.004]]]]}
    other["warp"][0, :, 1, 0] = np.nan
    moved, certain = _moved_px(spec, exact, other)
    assert certain.tolist() == [[True, False], [True, False]]
    assert moved[0, 0] == pytest.approx(np.hypot(0.003 * 20, 0.004 * 10))
    assert np.isinf(moved[1, 0])


def test_it_passes_with_99_of_100_pixels_within_a_tenth():
    def of(far):
        moved = np.array([0.5] * far + [0.01] * (100 - far))
        return Comparison("thin", "bf16", 1, 400, [2.0, 1.0], [moved])

    assert of(1).passed and not of(2).passed
    assert "passed: 99.00%" in of(1).table() and "FAILED: 98.00%" in of(2).table()
    found = of(2).as_dict()
    assert found["certain_share"] == 0.25 and found["moved_px"]["p50"] == 0.01
    assert found["frame_cpu_s"] == {"fp32": 2.0, "bf16": 1.0}
    nothing = Comparison("thin", "bf16", 1, 400, [2.0, 1.0], [np.empty(0)])
    assert not nothing.passed and "0.00%" in nothing.table() and not nothing.as_dict()["passed"]


def test_pictures_of_a_folder_are_matched_against_the_one_before(pictures):
    pairs = list(image_pairs(pictures))
    read = [cv2.imread(str(pictures / f"{i}.png"))[..., ::-1] for i in range(3)]
    assert len(pairs) == 2 and len(list(image_pairs(pictures, 1))) == 1
    for (query, keyframe), before, after in zip(pairs, read, read[1:], strict=False):
        assert np.array_equal(query, after) and np.array_equal(keyframe, before)
    (pictures / "1.png").unlink()
    (pictures / "2.png").unlink()
    with pytest.raises(InvalidInput, match="two pictures or more"):
        list(image_pairs(pictures))


def test_the_command_compares_a_model_with_itself_in_bf16(model, pictures, capsys):
    order = ["parity", str(pictures), "--model", str(model), "--precision", "bf16", "--json"]
    code = cli.main([*order, "--limit", "1"])
    found = json.loads(capsys.readouterr().out)
    assert found["pairs"] == 1 and found["certain_share"] > 0.5
    assert 0 < found["moved_px"]["p50"] <= found["moved_px"]["p99"]
    assert code == (0 if found["passed"] else 1)
    assert cli.main([*order, "--input", "56x56"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["pairs"] == 2


def test_a_cpu_without_such_products_has_nothing_to_compare(model, pictures, monkeypatch, capsys):
    monkeypatch.setattr(engine, "cpu_capabilities", dict)
    order = ["parity", str(pictures), "--model", str(model), "--precision", "bf16"]
    assert cli.main(order) not in (0, 1)
    assert "fp32 only" in capsys.readouterr().err


def test_golden_data_takes_no_options_of_precisions(tmp_path, capsys):
    assert cli.main(["parity", str(tmp_path), "--limit", "3"]) != 0
    assert "--limit goes with --precision" in capsys.readouterr().err
    assert cli.main(["parity", str(tmp_path), "--model", "roma"]) != 0
    assert "known: l2m, tinyroma" in capsys.readouterr().err


def test_nothing_is_loaded_for_a_folder_without_pictures(tmp_path):
    with pytest.raises(InvalidInput, match="holds no photographs"):
        run_precision(tmp_path, "l2m", "bf16")


def test_scenes_give_the_pairs_that_they_list(tmp_path):
    scene = tmp_path / "scenes" / "one"
    (scene / "images").mkdir(parents=True)
    for name in "abc":
        cv2.imwrite(
            str(scene / "images" / f"{name}.png"), np.full((40, 60, 3), ord(name), np.uint8)
        )
    (scene / "meta.json").write_text("{}")
    pair = {"a": "c.png", "b": "a.png", "H_b_a": np.eye(3).tolist()}
    (scene / "pairs.json").write_text(json.dumps([pair]))
    for folder in (scene, scene.parent):
        ((query, keyframe),) = image_pairs(folder)
        assert query[0, 0, 0] == ord("c") and keyframe[0, 0, 0] == ord("a")


def test_it_needs_a_folder(tmp_path):
    with pytest.raises(InvalidInput, match="no such folder"):
        run_precision(tmp_path / "none", "l2m", "bf16")
