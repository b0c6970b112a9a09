"""Model cards: what is written is read, what is wrong is refused in one line that helps."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from l2m_ros.engines.model_card import (
    InputSpec,
    ModelCard,
    ModelFile,
    Solve,
    card_from_dict,
    load_card,
    write_card,
)
from l2m_ros.errors import ModelError
from l2m_ros.matching import portable
from l2m_ros.networks.checkpoint import read_state, weights_id

SHIPPED = Path(__file__).parent.parent / "models"
MINIMAL = {"name": "m", "architecture": "lite", "input": {"width": 64, "height": 32}}


def test_a_card_survives_writing_and_reading(tmp_path):
    card = ModelCard(
        name="m",
        architecture="l2m",
        input=InputSpec(64, 32, 8, "letterbox", "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
        config={"depth": 3, "widths": [1, 2]},
        files={"encoder": ModelFile("e.onnx", "ab" * 32), "weights": ModelFile("w.safetensors")},
        precision="fp16",
        trained=False,
        keep={"fine": "p1"},
        solve=Solve("K", "F", "x"),
        licence="Apache-2.0",
        accuracy={"scene": {"AUC@5": 12.5}},
        parameters=7,
    )
    write_card(card, tmp_path / "card.yaml")
    read = load_card(tmp_path / "card.yaml")
    for name in ("input", "config", "files", "precision", "trained", "keep", "solve", "accuracy"):
        assert getattr(read, name) == getattr(card, name), name
    assert read.folder == tmp_path
    assert [p.name for p in tmp_path.iterdir()] == ["card.yaml"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecure": "lite"}, "did you mean architecture"),
        ({"precision": "fp8"}, "known: fp32, fp16"),
        ({"input": {"width": 64, "height": 32, "resise": "stretch"}}, "did you mean resize"),
        ({"input": {"width": 64, "height": 32, "resize": "letterbx"}}, "did you mean letterbox"),
        ({"input": {"width": 60, "height": 32, "multiple": 32}}, "multiple of 32: take 32 or 64"),
        ({"input": {"width": 64}}, "lacks 'height'"),
        ({"input": None}, "must hold"),
        ({"input": {"width": 64, "height": 32, "std": [1, 1, 0]}}, "three numbers"),
        ({"files": {"decodr": {"path": "x"}}}, "did you mean decoder"),
        ({"files": {"encoder": {"sha256": "x"}}}, "lacks 'path'"),
        ({"folder": "/etc"}, "unknown key"),
    ],
)
def test_wrong_cards_are_refused(tmp_path, change, words):
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **change}))
    with pytest.raises(ModelError, match=words) as refusal:
        load_card(path)
    assert "\n" not in str(refusal.value) and str(path) in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"just words", b"\xff\xfe\x00", b"- a\n- b\n"])
def test_what_is_no_card_is_refused(tmp_path, content):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a model card"):
        load_card(path)


def test_files_are_verified(tmp_path):
    whole = b"weights of a network"
    (tmp_path / "w").write_bytes(whole)
    entry = {"path": "w", "sha256": hashlib.sha256(whole).hexdigest()}
    card = card_from_dict({**MINIMAL, "files": {"weights": entry}}, folder=tmp_path)
    assert card.file("weights") == tmp_path / "w"
    (tmp_path / "w").write_bytes(whole[:-1])
    with pytest.raises(ModelError, match="truncated or of another model"):
        card.file("weights")
    (tmp_path / "w").write_bytes(b"")
    with pytest.raises(ModelError, match="is empty"):
        card.file("weights")
    (tmp_path / "w").unlink()
    assert not card.has("weights")
    with pytest.raises(ModelError, match="l2m weights get m"):
        card.file("weights")
    with pytest.raises(ModelError, match="l2m export m --size 32x64"):
        card.file("encoder")


def test_files_are_found_in_other_folders(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "w").write_bytes(b"x")
    raw = {**MINIMAL, "files": {"weights": {"path": "w"}}}
    card = card_from_dict(raw, folder=tmp_path, search=(tmp_path / "cache",))
    assert card.file("weights") == tmp_path / "cache" / "w"


def test_another_size_leaves_the_graphs_behind():
    files = {"encoder": {"path": "e"}, "decoder": {"path": "d"}, "weights": {"path": "w"}}
    card = card_from_dict({**MINIMAL, "files": files})
    assert set(card.resized(64, 32).files) == set(files)
    other = card.resized(128, 96)
    assert set(other.files) == {"weights"} and other.input.size == (128, 96)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_cards_are_whole(path):
    card = load_card(path)
    assert card.name == path.stem
    assert card.licence != "unknown" and card.source
    for role, entry in card.files.items():
        if (path.parent / entry.path).is_file():
            assert entry.sha256, f"{role} of {path.name} ships without a checksum"
            card.file(role)
            if role == "weights" and card.weights_id is not None:
                assert card.weights_id == weights_id(read_state(card.file(role)))


def test_maps_know_the_weights_and_not_the_files():
    card = ModelCard("m", "lite", InputSpec(64, 32), weights_id="ab" * 8)
    again = replace(card, files={"encoder": ModelFile("e.onnx", "cd" * 32)}, precision="fp16")
    known = [portable.checksum(SimpleNamespace(card=c)) for c in (card, again)]
    assert known[0] == known[1]
    for other in (
        replace(card, weights_id="cd" * 8),
        replace(card, input=InputSpec(128, 32)),
        replace(again, weights_id=None),
    ):
        assert portable.checksum(SimpleNamespace(card=other)) != known[0]
