"""Processes that are killed while they write: no half-written file, and the next run works."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fakes.keyframes import features, map_keyframe
from test_map_store import _write_until_killed

from l2m_ros.errors import MapError
from l2m_ros.files import whole_folder
from l2m_ros.mapping import sqlite
from l2m_ros.mapping.repair import repair
from l2m_ros.mapping.store import open_map
from l2m_ros.workshop.simulation.bag import write_bag
from l2m_ros.workshop.simulation.sequence import SimulationOptions, simulate

ROOT = Path(__file__).parent.parent
BEGINS_S = 120.0  # for a verb to write its first bytes on a busy machine


def killed(work) -> None:
    """`work` in a child, which is killed where it ends or as soon as it has told something."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work(writing)
        finally:
            os._exit(1)
    os.close(writing)
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)


def folder_half_made(target, pipe):
    with whole_folder(target) as made:
        made.mkdir()
        (made / "half").write_text("half")
        os.write(pipe, b".")
        time.sleep(BEGINS_S)


def test_what_a_killed_process_began_goes_with_the_next_run(tmp_path):
    target, other = tmp_path / "run[1]", tmp_path / "other"
    for one in (target, other):
        killed(lambda pipe, one=one: folder_half_made(one, pipe))
    assert not target.exists() and len(list(tmp_path.iterdir())) == 2
    with whole_folder(target) as made:
        made.mkdir()
    left = [path.name for path in tmp_path.iterdir()]
    assert "run[1]" in left and len(left) == 2  # the other run's is the other run's
    assert not list(target.iterdir())


def test_what_a_living_process_is_making_stays(tmp_path):
    target = tmp_path / "run"
    with whole_folder(target, force=True) as first:
        first.mkdir()
        with whole_folder(target, force=True) as second:
            second.mkdir()
            (second / "second").touch()
        (first / "first").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "first"]


def a_map(path, keyframes: int) -> None:
    store = open_map(str(path), create=True)
    for number in range(keyframes):
        store.add(map_keyframe(number), [], features(), np.ones(16))
    store.close()


@pytest.fixture
def left_open(tmp_path):
    """A map whose writer was killed: its last keyframes lie in the log beside it."""
    path = tmp_path / "office.l2m"
    a_map(path, 1)
    killed(lambda pipe: _write_until_killed(str(path), pipe))
    assert Path(f"{path}-wal").stat().st_size > 0
    return path


def test_the_log_of_a_killed_writer_is_not_read_into_the_map_that_replaces_its(left_open):
    """All of the old map came back under the name of the new one."""
    new = left_open.with_name("new")
    a_map(new, 3)
    sqlite.replace_map(new, left_open)
    store = open_map(str(left_open))
    assert store.ids() == [1, 2, 3] and store.problems() == [] and store.edges() == []
    store.close()
    assert list(left_open.parent.iterdir()) == [left_open]


def test_a_log_that_cannot_be_read_is_not_passed_over(left_open, monkeypatch):
    """In a folder that may not be written, the map was read as it was before its log."""
    monkeypatch.setattr(os, "access", lambda path, how: how != os.W_OK)
    with pytest.raises(MapError, match=r"office.l2m-wal.*copy both files"):
        open_map(str(left_open))


def test_a_killed_repair_leaves_nothing_to_the_next_nor_a_map_that_is_gone(left_open):
    for left in (".office.l2m.copy", ".office.l2m.repaired"):
        for end in ("", "-wal"):
            source = Path(f"{left_open}{end}")
            left_open.with_name(left + end).write_bytes(source.read_bytes())
    left_open.unlink()  # and its log stays
    a_map(left_open, 2)
    assert repair(str(left_open)).keyframes == 2
    assert sorted(path.name for path in left_open.parent.iterdir()) == [
        "office.l2m",
        "office.l2m.broken",
    ]


@pytest.mark.parametrize("change", [lambda new, path: sqlite.replace_map(new, path),
                                    lambda new, path: repair(str(path))])  # fmt: skip
def test_a_map_that_is_being_written_is_not_replaced(change, tmp_path):
    path, new = tmp_path / "office.l2m", tmp_path / "new.l2m"
    a_map(path, 2), a_map(new, 1)
    writer = open_map(str(path), write=True)
    writer.set_meta({"a": "b"})
    with pytest.raises(MapError, match="another process: end that one"):
        change(new, path)
    writer.add(map_keyframe(2), [], features(), np.ones(16))
    writer.close()
    reader = open_map(str(path))
    assert len(reader.ids()) == 3 and new.exists()
    reader.close()


# --- verbs ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "room.mcap"
    write_bag(path, simulate(SimulationOptions(frames=150, width=160, height=120, stereo=False)))
    return path


SIMULATE = ["simulate", "--scene", "bare", "--frames", "60", "--size", "160x120", "--out"]
VERBS = {  # what is written to, and how
    "run.mcap": SIMULATE,
    "run.db3": SIMULATE,
    "scene": SIMULATE,
    "poses.mcap": ["replay", "BAG", "--model", "sift", "--out", "poses.tum", "--out-bag"],
    "map.l2m": ["map", "build", "BAG", "--model", "sift", "--every-m", "0.02", "--out"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_a_verb_that_is_killed_leaves_no_half_and_the_next_run_works(name, recording, tmp_path):
    rng = random.Random(name)
    words = [str(recording) if word == "BAG" else word for word in VERBS[name]]
    command = [sys.executable, "-m", "l2m_ros.cli", *words, name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    for _ in range(2):
        known = set(tmp_path.rglob("*"))

        def begun(known=known) -> bool:  # a writer may keep its first bytes for long
            return any(path.is_file() and path not in known for path in tmp_path.rglob("*"))

        run = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until = time.monotonic() + BEGINS_S
        while not begun() and time.monotonic() < until and run.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.4))
        assert run.poll() is None, run.stderr.read().decode()  # in the middle of its work
        run.kill(), run.wait(10), run.stderr.close()
        assert [path.name for path in tmp_path.iterdir() if path.name[0] != "."] == []
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))  # hours later
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    whole = {name, "poses.tum"} if "poses" in name else {name}
    assert {path.name for path in tmp_path.iterdir()} == whole
