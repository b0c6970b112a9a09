"""The verbs of `l2m` and the disk: inputs are never overwritten, a full disk is one line."""

import contextlib
import importlib
import json
import re
import resource
import types
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from l2m_ros import cli
from l2m_ros.commands import features
from l2m_ros.commands.options import as_json
from l2m_ros.errors import InvalidInput
from l2m_ros.files import parse_yaml, read_yaml
from l2m_ros.images import write_figure, write_rgb
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("bags") / "room.mcap"
    options = SimulationOptions(frames=2, width=96, height=64, stereo=False)
    write_bag(path, simulate(options))
    return path


def l2m(capsys, *argv):
    try:
        code = cli.main(list(map(str, argv)))
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    return code, said.out, said.err


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*")}


def test_replay_never_destroys_its_input(bag, capsys, tmp_path):
    before = listing(bag.parent)
    link = tmp_path / "same.mcap"
    link.symlink_to(bag)
    for out in (bag, link, bag / "poses.mcap"):
        argv = ["replay", bag, "--model", "sift", "--out-bag", out, "--force"]
        code, _, err = l2m(capsys, *argv)
        assert code == 2 and "would overwrite the input" in err and err.count("\n") == 1
    assert listing(bag.parent) == before


def test_convert_never_destroys_its_input(capsys, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    content = path.read_bytes()
    code, _, err = l2m(capsys, "weights", "convert", path)
    assert code == 2 and "would overwrite the input" in err
    assert path.read_bytes() == content


def test_a_view_of_a_bag_is_written_whole_or_not_at_all(bag, capsys, tmp_path, monkeypatch):
    """Rerun writes the file by itself: on a full disk it was torn, and the verb said nothing."""
    view = pytest.importorskip("rerun") and importlib.import_module("l2m_ros.bags.rerun_view")
    out = tmp_path / "view.rrd"
    argv = ["view", bag, "--model", "sift", "--save", out]
    assert l2m(capsys, *argv)[0] == 0
    assert out.read_bytes().startswith(b"RRF") and out.stat().st_size > 10_000
    out.unlink()
    full = types.SimpleNamespace(free=1 << 20)
    monkeypatch.setattr(view.shutil, "disk_usage", lambda _: full)
    code, _, err = l2m(capsys, *argv)
    assert code == 2 and "disk is full (1 MB free)" in err
    assert not list(tmp_path.iterdir())


def test_outputs_are_checked_before_the_work_begins(bag, capsys, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for argv in (
        ["replay", bag, "--model", "sift", "--out", blocked / "x" / "poses.tum"],
        ["replay", bag, "--model", "sift", "--out-bag", tmp_path / "poses.bag"],
        ["simulate", "--out", blocked / "run.mcap", "--frames", "3"],
        ["simulate", "--out", blocked / "scene", "--frames", "3"],
    ):
        code, _, err = l2m(capsys, *argv)
        assert code == 2 and err.count("\n") == 1, err
        assert "rendering" not in err and "tracking" not in err


@pytest.mark.parametrize(
    "kind",
    ["run.db3", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("run.mcap", "scene"))],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(kind, capsys, tmp_path):
    argv = ["simulate", "--out", tmp_path / kind, "--frames", "4", "--size", "160x120"]
    with small_disk(6_000 if kind == "scene" else 60_000):
        code, _, err = l2m(capsys, *argv, "--scene", "bare")
    assert code == 2, err
    assert "Traceback" not in err and "disk is full" in err
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def small_disk(bytes_allowed: int):
    """The kernel refuses larger files; in this process, for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_allowed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


class Figure:
    """What `write_figure` needs of matplotlib's."""

    def savefig(self, file, **how):
        file.write(NOISE.tobytes())


@pytest.mark.parametrize(
    "write", [lambda path: write_rgb(path, NOISE), lambda path: write_figure(path, Figure())]
)
def test_a_picture_on_a_full_disk_leaves_the_old_one(write, tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"old")
    with small_disk(2_000), pytest.raises(InvalidInput, match="disk is full"):
        write(path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write(path)
    assert path.stat().st_size > 2_000


def test_features_on_a_full_disk_is_one_line(capsys, tmp_path, monkeypatch):
    maps = types.SimpleNamespace(values=np.random.default_rng(0).normal(size=(8, 30, 40)))
    eyes = types.SimpleNamespace(label="middle", features=lambda image: maps)
    monkeypatch.setattr(features, "_eyes", lambda name, args: eyes)
    picture, out = tmp_path / "in.png", tmp_path / "out.png"
    write_rgb(picture, NOISE)
    with small_disk(2_000):
        code, _, err = l2m(capsys, "features", picture, "--out", out)
    assert code == 2 and "disk is full" in err and err.count("\n") == 1, err
    assert list(tmp_path.iterdir()) == [picture]
    code, _, err = l2m(capsys, "features", picture, "--out", picture / "out.png")
    assert code == 2 and "cannot be written" in err


def test_every_picture_is_written_whole():
    """OpenCV returns False on a full disk, matplotlib leaves half a file."""
    past = [
        path.name
        for path in (ROOT / "l2m_ros").rglob("*.py")
        if re.search(r"imwrite\(|savefig\((?!picture|buffer)", path.read_text())
    ]
    assert past == []


def test_json_is_valid_whatever_was_measured():
    figures = {"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": (1, None, "x")}}
    assert json.loads(as_json(figures)) == {"a": None, "b": [1.0, None], "c": {"d": [1, None, "x"]}}


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00\x01",
        b"l2m: [1, 2",
        b"l2m: {ros__parameters: 3}",
        b"l2m: {ros__parameters: [1]}",
        b"/**: 2021-99-99",
        b"- 1",
        b"",
        b"a: &a [x, x]\nb: &b [*a, *a]\n" + b"".join(
            b"%c: &%c [*%c, *%c, *%c, *%c]\n" % (98 + i, 98 + i, *(4 * [97 + i]))
            for i in range(1, 20)
        ),
        b"a: &a\n  b: *a\n",
        pytest.param(b"[" * 1000, id="deep"),
        b"l2m: {ros__parameters: {model: {a: {b: 1}}}}",
        b"l2m: {ros__parameters: {model: 5}}",
    ],
)  # fmt: skip
def test_parameter_files_that_are_none(content, bag, capsys, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    code, _, err = l2m(capsys, "replay", bag, "--params-file", path)
    assert code == 2 and err.count("\n") == 1 and len(err) < 1000, err


@pytest.mark.parametrize("text", ["model:=[1", "model:={}", "tracking.max_sigma_m:=x", "a:=*b"])
def test_broken_parameters_on_the_command_line(text, bag, capsys):
    code, _, err = l2m(capsys, "replay", bag, "-p", text)
    assert code == 2 and err.count("\n") == 1, err


def test_whole_numbers_serve_as_fractions(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"x": 1}
    assert parse_yaml("2", "x") == 2


@pytest.mark.parametrize(
    "line",
    [
        "1.0 nan 0 0 0 0 0 1",
        "1.0 1e308 0 0 0 0 0 1",
        "1.0 0 0 0 0 0 0 0",
        "1.0 0 0 0 0 0 0 1e300",
        "nan 0 0 0 0 0 0 1",
        "1e300 0 0 0 0 0 0 1",
        "1.0 0 0",
    ],
)
def test_truth_files_that_are_none(line, bag, capsys, tmp_path):
    path = tmp_path / "truth.tum"
    path.write_text(line + "\n")
    code, _, err = l2m(capsys, "replay", bag, "--model", "sift", "--truth", path)
    assert code == 2 and "truth.tum" in err and err.count("\n") == 1, err


def test_truth_of_a_topic_that_holds_no_poses(bag, capsys):
    argv = ["replay", bag, "--model", "sift", "--truth", "/camera/image_raw"]
    code, _, err = l2m(capsys, *argv)
    assert code == 2 and "holds no poses" in err and err.count("\n") == 1
    code, _, err = l2m(capsys, "replay", bag, "--model", "sift", "--image", "/odom")
    assert code == 2 and "--image takes" in err and err.count("\n") == 1
