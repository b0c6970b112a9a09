"""`l2m splat build`: which views are held out is a choice, and a scene that is there stays."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.gaussians import build as building
from l2m_ros.workshop.gaussians.captures import HoldOut
from l2m_ros.workshop.gaussians.record import read_record

VIEWS, WIDTH, HEIGHT = 6, 64, 48
SHORT = ["--size", "64", "--gaussians", "60", "--steps", "4", "--rasterizer", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wall at 3 m, seen by cameras in a row."""
    root = tmp_path_factory.mktemp("posed") / "wall"
    (root / "images").mkdir(parents=True)
    (root / "depth").mkdir()
    wall = np.full((HEIGHT, WIDTH), 3000, np.uint16)
    rng, cameras = np.random.default_rng(0), {}
    for i in range(VIEWS):
        name, pose = f"{i}.png", np.eye(4)
        pose[0, 3] = 0.3 * i
        cv2.imwrite(str(root / "images" / name), rng.integers(0, 255, (*wall.shape, 3), np.uint8))
        cv2.imwrite(str(root / "depth" / name), wall)
        cameras[name] = {
            "width": WIDTH, "height": HEIGHT, "K": [[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]],
            "world_from_camera": pose.tolist(),
        }  # fmt: skip
    meta = {"metric": True, "depth_scale": 0.001, "cameras": cameras}
    (root / "meta.json").write_text(json.dumps(meta))
    return root


def build(folder: Path, out: Path, *more: str) -> int:
    return cli.main(["splat", "build", str(folder), "--out", str(out), *SHORT, *more])


def test_views_that_are_held_out_are_named_and_checked_and_never_trained_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    begin, seen = building.Fit.__init__, set()

    def noted(self, gaussians, captures, *args):
        seen.update(capture.name for capture in captures)
        begin(self, gaussians, captures, *args)

    monkeypatch.setattr(building.Fit, "__init__", noted)
    out = tmp_path / "room.ply"
    assert build(folder, out, "--hold-out", "3:1") == 0
    record = read_record(out)
    names = sorted(record.cameras)
    assert record.held_out == [names[1], names[4]]
    assert seen == set(names) - set(record.held_out)
    assert [c.name for c in record.captures().held_out] == record.held_out
    capsys.readouterr()
    assert cli.main(["splat", "check", str(out), "--rasterizer", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] == 2


def test_a_scene_of_an_earlier_version_held_out_every_eighth(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "room.ply"
    assert build(folder, out, "--no-plain") == 0
    path = out.with_suffix(".json")
    record = json.loads(path.read_text())
    names = sorted(record["cameras"])
    assert record.pop("held_out_names") == [names[4]]
    path.write_text(json.dumps(record))
    assert [c.name for c in read_record(out).captures().held_out] == [names[4]]
    path.write_text(json.dumps({**record, "held_out_names": ["no such view"]}))
    with pytest.raises(InvalidInput, match=r"held_out_names .*no such view"):
        read_record(out)


@pytest.mark.parametrize("text", ["1:0", "3:3", "8", "8:-1", "-8:4", "a:b", "8:4:2", ""])
def test_a_rule_that_holds_out_everything_or_nothing_is_refused(
    folder: Path, tmp_path: Path, text: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build(folder, tmp_path / "room.ply", f"--hold-out={text}")
    assert stopped.value.code == 2
    assert "EVERY:FIRST" in capsys.readouterr().err


def test_too_few_views_to_train_on_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert build(folder, tmp_path / "room.ply", "--views", "3", "--hold-out", "2:0") == 2
    assert "of 3 views 2 are held out: hold out fewer" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="5:5"):
        HoldOut(5, 5)


def test_a_scene_that_is_there_is_overwritten_by_force_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "room.ply"
    written = [tmp_path / name for name in ("room.ply", "room.plain.ply", "room.json")]
    for path in written:  # each alone is worth keeping
        path.write_text("mine")
        assert build(folder, out) == 2
        assert f"{path} exists already: name another output or add" in capsys.readouterr().err
        assert path.read_text() == "mine"
        path.unlink()
    assert build(folder, out) == 0
    assert all(path.is_file() for path in written)
    # Another fit's plain scene beside it would be compared with.
    assert build(folder, out, "--force", "--no-plain", "--seed", "1") == 0
    assert not written[1].exists()


def test_a_build_that_was_killed_at_its_end_goes_on_over_what_it_wrote(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "room.ply"

    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "STORE_EVERY_S", 0.0)
        patch.setattr(building, "write_record", killed)
        assert build(folder, out) == 130
    assert out.is_file() and not out.with_suffix(".json").exists()
    assert build(folder, out) == 0
    assert out.with_suffix(".json").is_file()
