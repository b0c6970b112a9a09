"""Names to matchers: the folders that are searched, and what a robot need not have installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes.exported import exported_toy
from fakes.toy_network import ramp

from l2m_ros.errors import InvalidInput, ModelError
from l2m_ros.matching import catalogue
from l2m_ros.matching.catalogue import card_names, find_card, load_matcher, model_folders
from l2m_ros.types import Correspondences, DenseMatch

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A user's cache, a ROS workspace and a named folder, all empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "ws"))
    monkeypatch.setenv("L2M_MODELS", str(tmp_path / "named"))
    made = {
        "named": tmp_path / "named",
        "cache": tmp_path / "cache/l2m_ros/models",
        "ament": tmp_path / "ws/share/l2m_ros/models",
    }
    for folder in made.values():
        folder.mkdir(parents=True)
    return made


def write_card(folder, name, licence):
    text = f"name: {name}\narchitecture: lite\ninput: {{width: 64, height: 32}}\n"
    (folder / f"{name}.yaml").write_text(text + f"licence: {licence}\n")


def test_folders_in_order(folders):
    found = model_folders()
    assert found[:3] == [folders["named"], folders["cache"], folders["ament"]]
    assert found[3] == Path(sys.prefix) / "share/l2m_ros/models"
    assert found[-1] == ROOT / "models"
    for name in ("ament", "cache", "named"):  # from the last to the first
        write_card(folders[name], "mine", name)
        assert find_card("mine").licence == name
    assert "mine" in card_names()


def test_a_folder_or_a_file_is_a_model_too(tmp_path):
    card = exported_toy("fp32")
    assert find_card(str(card.folder)).name == "toy"
    assert find_card(str(card.folder / "card.yaml")).name == "toy"
    with pytest.raises(ModelError, match=r"holds no card\.yaml"):
        find_card(str(tmp_path))


def test_unknown_names_fail_with_the_nearest():
    with pytest.raises(InvalidInput, match="did you mean sift"):
        load_matcher("sfit")
    with pytest.raises(InvalidInput, match="did you mean threads"):
        load_matcher("lite", thread=2)
    with pytest.raises(InvalidInput, match=r"did you mean onnxruntime\?"):
        load_matcher(str(exported_toy("fp32").folder), backend="onnxruntme")
    with pytest.raises(InvalidInput, match="matcher sift"):
        load_matcher("sift", no_such_option=1)


@pytest.mark.parametrize("name", catalogue.CLASSICAL)
def test_classical_matchers_load_and_match(name):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    image = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    matcher = load_matcher(name, backend="auto", size=(64, 64))
    reference = matcher.reference(matcher.encode(image))
    match = matcher.match(matcher.encode(image), reference)
    assert isinstance(match, Correspondences | DenseMatch)


def test_every_card_of_the_checkout_is_found():
    assert {"lite", "l2m", "tinyroma", "roma_outdoor", "roma_indoor"} <= set(card_names())


RUN = """
import sys
sys.path.insert(0, {root!r})
import numpy as np
from l2m_ros.matching.catalogue import load_matcher
m = load_matcher({folder!r}, backend="onnxruntime")
image = np.zeros((50, 70, 3), np.uint8)
match = m.match(m.encode(image), m.reference(m.encode(image)))
assert match.query_size == (70, 50)
heavy = [n for n in ("torch", "onnx", "onnxscript", "tensorrt") if n in sys.modules]
assert not heavy, heavy
load_matcher("sift")
assert "onnx" not in sys.modules and "torch" not in sys.modules
print("fine")
"""


def test_a_robot_needs_neither_torch_nor_onnx():
    """In a fresh process: graphs, a solve and a classical matcher, without the workshop."""
    code = RUN.format(root=str(ROOT), folder=str(exported_toy("fp32").folder))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "fine", done.stderr


def test_another_size_than_the_graphs_is_refused_with_the_command(monkeypatch):
    folder = str(exported_toy("fp32").folder)
    with pytest.raises(ModelError, match=r"l2m export toy --size 64x64 --out DIR"):
        load_matcher(folder, backend="onnxruntime", size=(64, 64))


def test_the_matcher_of_a_folder_matches():
    matcher = load_matcher(str(exported_toy("fp32").folder), backend="auto", device="cpu")
    assert matcher.backend.name == "onnxruntime"
    query = matcher.encode(ramp(96, 64, x=5))
    match = matcher.match(query, matcher.reference(matcher.encode(ramp(96, 64))))
    inner = match.warp_px[5:-5, 5:-5] - match.grid_px()[5:-5, 5:-5]
    assert np.abs(np.median(inner, axis=(0, 1)) - [5, 0]).max() < 0.5


def test_a_folder_of_the_working_directory_does_not_shadow_what_is_shipped(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "lite").mkdir()
    card = "name: mine\narchitecture: lite\ninput: {width: 64, height: 32}\n"
    (tmp_path / "lite" / "card.yaml").write_text(card)
    monkeypatch.chdir(tmp_path)
    assert find_card("lite").name == "lite"
    assert "say --model ./lite" in caplog.text
    assert find_card("./lite").name == "mine"
    (tmp_path / "lite").rename(tmp_path / "other")
    assert find_card("other").name == "mine"
