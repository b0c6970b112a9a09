"""Every path that a verb takes, as a pipe, as nothing, as what it is not: one line, nothing harmed.

A line below is a call of `l2m` with one path under test, IN (read) or OUT (written); the others are
good. A test holds the lines against the parsers: a new option needs a line here.
"""

import argparse
import importlib
import logging
import os
import signal
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes.keyframes import map_keyframe
from fakes.scenes import PATH, write_relief
from fakes.texture import texture

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.mapping.store import open_map

pytest.importorskip("torch")
pytest.importorskip("faiss")
pytest.importorskip("rosbags")

# Outputs by what happens to what is there (docs/use.md); any other one is refused without --force.
DRAWN_ANEW = ("match --out", "view-pair --out", "features --out", "lift --picture",
              "splat build --picture", "splat pairs --picture")  # fmt: skip
GOES_ON = ("evaluate --keep", "train --out", "splat pairs --out", "lift --out")
UPDATED = ("export --card",)
SUFFIXES = {
    "replay --out": ".tum", "replay --out-bag": ".mcap", "localize --out": ".tum",
    "view --save": ".rrd", "map view --save": ".rrd", "map export --ply": ".ply",
    "evaluate --submission": ".zip", "splat build --out": ".ply",
}  # fmt: skip
FOLDERS = ("evaluate --plots", "export --out", "map export --colmap", "map export --nerfstudio",
           "demo --out")  # fmt: skip

LIMIT_S = 120  # of one call: a pipe that is waited for never comes
IN, OUT = "IN", "OUT"
LINES = """
simulate --out OUT --frames 2
match IN {b} --model orb
match {a} IN --model orb
match {a} {b} --model orb --out OUT
match {a} {b} --model orb --camera 90,90,48,36 --depth-a IN
match {a} {b} --model orb --camera 90,90,48,36 --depth-b IN
export lite --out OUT
export lite --out {out} --card OUT
export lite --out {out} --ops IN
export lite --size 96x64 --shape-of IN
evaluate IN --matcher orb
evaluate {relief} --matcher orb --json OUT
evaluate {relief} --matcher orb --markdown OUT
evaluate {relief} --matcher orb --plots OUT
evaluate {relief} --matcher orb --keep OUT
evaluate --map-free IN
evaluate --map-free {relief} --submission OUT
view-pair IN {b} --matcher orb --out {out}.png
view-pair {a} {b} --matcher orb --out OUT
train decoder --photographs IN --out {out}
train decoder --photographs {photographs} --out OUT
train decoder --config IN --out {out}
train decoder --start IN --out {out}
train decoder --xfeat IN --out {out}
train decoder --carry IN --out {out}
train decoder --align IN --out {out}
train decoder --scenes IN --out {out}
train decoder --photographs {photographs} --pairs IN --out {out}
train metric --sequences IN --out {out}
train depth --measure IN --out {out}
train depth --start IN --out {out}
train encoder --photographs {photographs} --depth IN --out {out}
train encoder --photographs {photographs} --depth-model IN --out {out}
splat build IN --out {out}.ply
splat build {relief} --out OUT
splat build {relief} --out {out}.ply --picture OUT
splat check IN
splat check {out}.ply --source IN
splat pairs IN --out {out}
splat pairs {out}.ply --out OUT
splat pairs {out}.ply --out {out} --source IN
splat pairs {out}.ply --out {out} --picture OUT
scene import tum IN --out {out}
scene import tum {relief} --out OUT
lift IN --out {out}
lift {photographs} --out OUT
lift {photographs} --out {out} --disparity IN
parity IN --precision bf16
lift {photographs} --out {out} --depth-model IN
lift {photographs} --out {out} --sky-model IN
lift {photographs} --out {out} --picture OUT
teach IN --out {out}
teach {photographs} --out OUT
features IN --out {out}.png
features {a} --out OUT
features {a} --out {out}.png --pairs 1 --photographs IN
features {a} --out {out}.png --pairs 1 --photographs {photographs} --depth IN
features {a} --out {out}.png --pairs 1 --sequence IN
replay IN --model orb
replay {bag} --model orb --params-file IN
replay {bag} --model orb --out OUT
replay {bag} --model orb --out-bag OUT
replay {bag} --model orb --report OUT
calibrate IN --model orb
calibrate {bag} --model orb --params-file IN
calibrate {bag} --model orb --out OUT
view IN --model orb --save {out}.rrd
view {bag} --model orb --params-file IN
view {bag} --model orb --save OUT
map build IN --model orb --out {out}
map build {bag} --model orb --out {out} --params-file IN
map build {relief} --model orb --out OUT
map info IN
map check IN
map merge IN {map} --out {out}
map merge {map} IN --out {out}
map merge {map} {other_map} --out OUT
map thin IN --keep 2
map export IN --ply {out}
map export {map} --ply OUT
map export {map} --colmap OUT
map export {map} --nerfstudio OUT
map view IN --save {out}.rrd
map view {map} --save OUT
localize IN {relief}
localize {map} IN
localize {map} {relief} --out OUT
localize {map} {relief} --mask IN
parity IN
weights convert IN --out {out}
weights convert {a} --out OUT
demo --out OUT
"""
CALLS = [line.split() for line in LINES.strip().splitlines()]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Inputs that every verb would take."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "photographs").mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / "photographs" / f"{number}.png"), texture(96, 72, number))
    write_relief(folder / "relief", PATH[:2])
    for name in ("wall.l2m", "other.l2m"):
        store = open_map(str(folder / name), create=True)
        store.add(map_keyframe(1, name="a", map_from_camera=np.eye(4), covariance=np.eye(6) * 1e-4))
        store.close()
    bag = folder / "run.mcap"
    assert cli.main(["simulate", "--out", str(bag), "--frames", "1", "--size", "32x24"]) == 0
    first, second = sorted((folder / "photographs").iterdir())
    names = {"a": first, "b": second, "relief": folder / "relief", "map": folder / "wall.l2m"}
    names["other_map"] = folder / "other.l2m"
    return {**names, "bag": bag, "photographs": folder / "photographs"}


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.png")
    return folder / "pipe.png"


def device(folder: Path) -> Path:
    """/dev/null under another name: as root, a file renamed over it would take its place."""
    try:
        os.mknod(folder / "null.png", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    return folder / "null.png"


def junk(folder: Path) -> Path:
    (folder / "junk").write_bytes(np.random.default_rng(0).bytes(3000))
    return folder / "junk"


def below_a_file(folder: Path) -> Path:
    return junk(folder) / "x.png"


def missing(folder: Path) -> Path:
    return folder / "nowhere" / "x"


READ = (pipe, device, junk, missing)
WRITTEN = (pipe, device, below_a_file)


def ends(argv: list[str]) -> int:
    """The exit code, argparse's included; TimeoutError where a call waits for a pipe."""
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_S)
    try:
        return cli.main(argv)
    except SystemExit as ended:
        return int(ended.code)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _too_long(*_: object) -> None:
    raise RuntimeError("the call does not end")


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_a_path_that_cannot_be_is_one_line(call, good, tmp_path, capsys, monkeypatch):
    # Handlers of earlier calls keep the stderr that pytest has closed since.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    before = {path: path.read_bytes() for path in good["map"].parent.rglob("*") if path.is_file()}
    for make in WRITTEN if OUT in call else READ:
        folder = tmp_path / make.__name__
        folder.mkdir()
        odd = make(folder)
        there = sorted(folder.iterdir())
        given = {**good, "out": folder / "made" / "out"}
        words = [str(odd) if word in (IN, OUT) else word.format(**given) for word in call]
        capsys.readouterr()
        # 1: a photograph that cannot be read is skipped in words, and none is left.
        assert ends(words) == (1 if call[:2] == ["lift", IN] and make is junk else 2), make.__name__
        said = capsys.readouterr().err.splitlines()
        assert said and said[-1].startswith(f"l2m {call[0]}"), said
        assert not [line for line in said if "Traceback" in line], said
        assert sorted(path for path in folder.iterdir() if path.name != "made") == there
        if make in (pipe, device):
            assert not odd.is_file()
    assert {path: path.read_bytes() for path in before} == before


def test_every_path_of_every_verb_has_a_line():
    tested = set()
    for call in CALLS:
        for name, parser in parsers(call[0]):
            words = name.split()
            if call[: len(words)] != words:
                continue
            try:
                args = parser.parse_args(call[len(words) :])
            except SystemExit:
                pytest.fail(" ".join(call))
            for dest, value in vars(args).items():
                values = value if isinstance(value, list) else [value]
                tested |= {(name, dest) for one in values if str(one) in (IN, OUT)}
    known = {
        (name, action.dest)
        for verb in cli.VERBS
        for name, parser in parsers(verb)
        for action in parser._actions
        if getattr(action.type, "__name__", "") in ("Path", "place")
    }
    # A folder of what is fetched, and one that only `weights get` writes.
    assert known - tested <= {("weights get", "dir")}


def parsers(verb: str):
    parser = argparse.ArgumentParser(prog=verb)
    importlib.import_module(f"l2m_ros.commands.{verb.replace('-', '_')}").add_arguments(parser)
    return list(_leaves(parser, verb))


def _leaves(parser: argparse.ArgumentParser, name: str):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                yield from _leaves(inner, f"{name} {word}")
            return
    yield name, parser


def test_an_empty_argument_is_no_path(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["evaluate", ""])
    assert ended.value.code == 2 and "variable of the shell" in capsys.readouterr().err


def output_of(call: list[str]) -> str:
    """`map export --ply` of a line with OUT."""
    names = [name for name, _ in parsers(call[0]) if name.split() == call[: len(name.split())]]
    return f"{names[0]} {call[call.index(OUT) - 1]}"


KEPT = [
    call
    for call in CALLS
    if OUT in call and output_of(call) not in (*DRAWN_ANEW, *GOES_ON, *UPDATED)
]


@pytest.mark.parametrize("call", KEPT, ids=" ".join)
def test_earlier_work_stays_without_force(call, good, tmp_path, capsys):
    name = output_of(call)
    there = tmp_path / f"out{SUFFIXES.get(name, '')}"
    kept = there / "images" / "work" if name in FOLDERS else there
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("of an hour")
    given = {**good, "out": tmp_path / "made"}
    words = [str(there) if word == OUT else word.format(**given) for word in call]
    capsys.readouterr()
    assert ends(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert f"{there}" in said[-1] and "exists already" in said[-1] and "--force" in said[-1], said
    assert kept.read_text() == "of an hour" and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("match {a} {b} --model orb --out OUT.png", "."),
        ("match {a} {b} --model orb --out OUT", "matches.png"),
        ("view-pair {a} {b} --matcher orb --out OUT.png", "."),
        ("map export {map} --colmap OUT --force", "sparse/0/images.txt"),
        ("simulate --out OUT --frames 2 --size 32x24 --pairs 0 --force", "meta.json"),
    ],
)
def test_a_picture_is_drawn_anew_and_earlier_work_goes_by_force(line, written, good, tmp_path):
    words = [word.replace(OUT, str(tmp_path / "out")).format(**good) for word in line.split()]
    target = next(Path(word) for word in words if word.startswith(str(tmp_path)))
    file = target / written
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("old")
    assert ends(words) in (0, 1)
    assert file.read_bytes() != b"old"


def test_a_demo_goes_on_in_the_folder_of_a_demo(tmp_path, monkeypatch, capsys):
    def begun(options):
        raise InvalidInput("begun")

    monkeypatch.setattr("l2m_ros.commands.demo._simulated", begun)
    (tmp_path / "room.l2m").write_text("a map of mine")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "--force" in capsys.readouterr().err
    (tmp_path / "corridor_drive_160_0.mcap").write_text("of a demo")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 2
    assert "begun" in capsys.readouterr().err
