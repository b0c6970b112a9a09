"""The map's process: fed by a tracker, killed, started again, and never left behind."""

import collections
import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from fakes.scenes import HEIGHT, WIDTH, K, pose, render

pytest.importorskip("faiss")
pytest.importorskip("gtsam")

from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.mapping import map_process, wire, worker
from l2m_ros.mapping.chaining import components
from l2m_ros.mapping.keyframe_picker import Picked
from l2m_ros.mapping.map_process import DIED, MapProcess, Spec
from l2m_ros.mapping.options import BUILD, LOCALIZE, MapFix, OnlineOptions, PickerOptions
from l2m_ros.mapping.store import open_map
from l2m_ros.mapping.worker import Worker
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.tracking.chain import ChainEvent
from l2m_ros.tracking.odometry import OdometrySample
from l2m_ros.tracking.tracker import Tracker
from l2m_ros.types import Camera, Frame

CAMERA = Camera(WIDTH, HEIGHT, K)
PATH = [pose(x=0.1 * i, turn_deg=-1.0 * i) for i in range(-3, 4)]
SECONDS = 120.0  # on a busy machine


def frame(number):
    rgb, depth = render(PATH[number])
    return Frame(rgb, CAMERA, depth, stamp_ns=1_000_000_000 + number * 200_000_000)


def begun(path, mode):
    options = OnlineOptions(path=str(path), mode=mode, nice=0, picker=PickerOptions(0.05))
    return MapProcess(Spec("sift", {"max_points": 600}, options))


def until(process, asked, count=1):
    """The answers up to the `count`th one to this; a failed one is shown."""
    end, said = time.monotonic() + SECONDS, []
    while sum(m.values["asked"] == asked for m in said) < count:
        assert time.monotonic() < end, [m.values for m in said]
        said += process.answers(0.1)
    return said


def errors(messages):
    return [m.values["error"] for m in messages if "error" in m.values]


def is_running(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_killed_process_is_started_again_and_goes_on_with_the_map(tmp_path, monkeypatch):
    monkeypatch.setattr(map_process, "FIRST_PAUSE_S", 0.0)
    tracker = Tracker(load_matcher("sift", max_points=600))
    results = [tracker.process(frame(i)) for i in range(len(PATH))]
    process = begun(tmp_path / "wall.l2m", BUILD)
    for result in results[:4]:
        process.submit(result)
    assert not errors(until(process, "add", 3))
    killed = process.pid
    os.kill(killed, signal.SIGKILL)
    (words,) = errors(until(process, DIED))
    assert "signal 9" in words and not is_running(killed)
    for result in results[4:]:
        process.submit(result)
    process.ask("save")
    process.ask("show", points=True)
    *said, shown = until(process, "show")
    assert not errors(said) and process.restarts == 1
    assert process.fix is not None and process.fix_of(results[-1]) is process.fix
    pid = process.pid
    process.stop(20.0)
    assert not is_running(pid)
    store = open_map(str(tmp_path / "wall.l2m"))
    assert len(store.ids()) >= 5 and len(components(store.ids(), store.edges())) == 1
    assert shown.arrays["poses"].shape == (len(store.poses()), 4, 4)
    assert len(shown.arrays["xyz"]) == len(shown.arrays["rgb"]) > 1000
    store.close()


def test_node_killed_leaves_no_process_behind():
    program = (
        "import time\nfrom l2m_ros.mapping.map_process import *\n"
        "options = OnlineOptions(mode='localize', path='none.l2m', nice=0)\n"
        "p = MapProcess(Spec('sift', {}, options))\n"
        "print([m.values for m in p.answers(60.0)], p.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline().rsplit(" ", 1)[1])
    assert is_running(pid)
    parent.kill()
    parent.wait()
    end = time.monotonic() + SECONDS
    while is_running(pid):
        assert time.monotonic() < end
        time.sleep(0.02)


def picked(stamp_ns, parent_ns=None):
    rgb = np.full((4, 6, 3), stamp_ns % 256, np.uint8)
    eye = Camera(6, 4, np.array([[5.0, 0, 3], [0, 5, 2], [0, 0, 1]]))
    posed = (
        {} if parent_ns is None else {"keyframe_from_camera": np.eye(4), "covariance": np.eye(6)}
    )
    return Picked(Frame(rgb, eye, stamp_ns=stamp_ns), 3, parent_ns, "frame_depth", **posed)


def tracked(entry, event=None):
    return types.SimpleNamespace(picked=entry, frame=entry.frame, keyframe=None, chain_event=event)


def test_the_robot_s_own_parts_do_not_come_into_the_map():
    """They would look like a place that was seen before."""
    rgb, depth = render(PATH[0])
    used = np.ones(depth.shape, bool)
    used[depth.shape[0] // 2 :] = False
    sent = Picked(Frame(rgb, CAMERA, depth), 7, used=used)
    file = io.BytesIO()
    wire.write(file, wire.picked_message("localize", sent))
    got = wire.picked_from(wire.read(io.BytesIO(file.getvalue()))).frame
    assert np.array_equal(got.rgb[used], rgb[used]) and np.isnan(got.depth[~used]).all()
    assert np.abs(np.diff(got.rgb.astype(int), axis=0))[depth.shape[0] // 2 :].max() < 40
    assert np.array_equal(sent.frame.rgb, rgb)


def test_messages_come_as_they_went():
    rgb, depth = render(PATH[0])
    right = {"right_rgb": rgb, "right_camera": CAMERA, "right_from_camera": pose(x=-0.1)}
    sent = Picked(
        Frame(rgb, CAMERA, depth, **right, stamp_ns=2**60 + 1, frame_id="eye"),
        7, 5, "stereo", pose(0.1), pose(0.2), 0.5 * np.eye(6),
        OdometrySample(2**60 + 2, pose(0.3), 2.0 * np.eye(6), 3.0 * np.eye(6)), pose(0.4),
    )  # fmt: skip
    file = io.BytesIO()
    wire.write(file, wire.picked_message("add", sent))
    whole = file.getvalue()
    got = wire.picked_from(wire.read(io.BytesIO(whole)))
    for name in ("chain", "parent_ns", "scale_source"):
        assert getattr(got, name) == getattr(sent, name)
    for name in ("odom_from_camera", "keyframe_from_camera", "covariance", "base_from_camera"):
        np.testing.assert_array_equal(getattr(got, name), getattr(sent, name))
    for name in ("rgb", "depth", "right_rgb", "right_from_camera"):
        np.testing.assert_array_equal(getattr(got.frame, name), getattr(sent.frame, name))
    for name in ("stamp_ns", "odom_from_base", "covariance", "timing"):
        np.testing.assert_array_equal(getattr(got.odometry, name), getattr(sent.odometry, name))
    assert got.frame.stamp_ns == 2**60 + 1 and got.frame.frame_id == "eye"
    assert wire.read(io.BytesIO(whole[:-1])) is None and wire.read(io.BytesIO()) is None


@pytest.mark.parametrize(
    "head",
    [
        b'{"what": "a", "values": {}, "arrays": [["x", "|O", [1]]]}',
        b'{"what": "a", "values": {}, "arrays": [["x", "|u1", [-1]]]}',
        b'{"what": "a", "values": {}, "arrays": [["x", "|u1", [4294967296]]]}',
    ],
)
def test_arrays_of_objects_or_of_no_size_are_refused(head):
    with pytest.raises(InvalidInput, match="array"):
        wire.read(io.BytesIO(wire.LENGTH.pack(len(head)) + head + bytes(64)))


START = b'{"what": "a", "values": {}, "arrays": '
HEADS = {
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"1e999",
    "nested without end": b"[" * 100_000,
    "no values": b'{"what": "a", "arrays": []}',
    "values are a list": b'{"what": "a", "values": [], "arrays": []}',
    "what is a number": b'{"what": 1, "values": {}, "arrays": []}',
    "arrays are a number": b'{"what": "a", "values": {}, "arrays": 3}',
    "an array of two": b'{"what": "a", "values": {}, "arrays": [["x", "|u1"]]}',
    "a shape of texts": b'{"what": "a", "values": {}, "arrays": [["x", "|u1", ["a"]]]}',
    "a shape of halves": b'{"what": "a", "values": {}, "arrays": [["x", "|u1", [0.5]]]}',
    "a product beyond 64 bits": START + b'[["x", "|u1", [4294967296, 4294967296]]]}',
    "gigabytes together": START + b'[["x", "<f8", [99999999]], ["y", "<f8", [199999999]]]}',
    "bytes that are no text": b"\xff\xfe",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_are_none_are_refused(name):
    content = wire.LENGTH.pack(len(HEADS[name])) + HEADS[name] + bytes(64)
    with pytest.raises(InvalidInput):
        wire.read(io.BytesIO(content))
    with pytest.raises(InvalidInput, match="bytes"):
        wire.read(io.BytesIO(wire.LENGTH.pack(2**32 - 1)))


NO_ANSWERS = {
    "garbage": b"Segmentation fault",
    "nothing asked": {},
    "asked is a list": {"asked": [], "epoch": 0},
    "version is a text": {"asked": "begin", "epoch": 0, "version": "7"},
    "a fix without its pose": {
        "asked": "add", "epoch": 1, "fix": {"stamp_ns": 1, "chain": 1, "words": ""},
    },
    "lost is a number": {"asked": "localize", "epoch": 0, "lost": 3},
}  # fmt: skip


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_a_process_that_answers_nonsense_is_ended_and_another_one_begins(name, monkeypatch):
    """The reader's thread died of it, and the map with it, without a word."""
    said = NO_ANSWERS[name]
    if isinstance(said, dict):
        file = io.BytesIO()
        wire.write(file, wire.Message("answer", said))
        said = file.getvalue()
    monkeypatch.setattr(map_process, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(
        map_process, "COMMAND",
        f"import sys; sys.stdout.buffer.write({said!r}); sys.stdout.flush(); sys.stdin.read()",
    )  # fmt: skip
    process = begun("none.l2m", BUILD)
    (words, *_) = errors(until(process, DIED))
    assert "ended" in words and process.restarts >= 1
    process.stop(5.0)


def test_a_full_disk_is_said_and_what_comes_after_is_kept(tmp_path):
    worker = Worker()
    options = OnlineOptions(path=str(tmp_path / "wall.l2m"), mode=BUILD)
    begin = {"model": "orb", "matcher": {}, "options": dataclasses.asdict(options)}
    assert "error" not in worker.answer(wire.Message("begin", begin)).values
    assert "error" not in worker.answer(wire.Message("open", {"resume": False})).values

    def add(number):
        return worker.answer(wire.picked_message("add", Picked(frame(number), 1))).values

    assert "error" not in add(0)
    connection = worker._online._store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(
        f"PRAGMA max_page_count = {pages}"
    )  # SQLite says then what it says on ENOSPC
    assert "disk is full" in add(1)["error"]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert "error" not in add(2)
    worker.close()
    with contextlib.closing(open_map(options.path)) as store:
        assert [store.keyframe(i).stamp_ns for i in store.ids()] == [
            frame(0).stamp_ns, frame(2).stamp_ns,
        ]  # fmt: skip


def test_options_travel_as_plain_values():
    options = OnlineOptions(path="x", mode=LOCALIZE)

    sent = json.loads(json.dumps(dataclasses.asdict(options)))
    assert wire.filled(OnlineOptions, sent) == options


@pytest.mark.parametrize(
    ("bound", "most"), [("WAITING", 3), ("WAITING_MB", 3.5e-6 * picked(1).frame.rgb.nbytes)]
)
def test_full_queue_drops_the_oldest_that_no_other_was_posed_in(bound, most, monkeypatch):
    monkeypatch.setattr(map_process, bound, most)
    monkeypatch.setattr(MapProcess, "_read", lambda self: None)
    monkeypatch.setattr(MapProcess, "_send", lambda self: None)
    process = begun("none.l2m", BUILD)
    monkeypatch.setattr(process._picker, "pick", lambda result, *_: result.picked)
    for entry in (picked(1), picked(2, 1), picked(3, 1), picked(4, 1), picked(5, 1)):
        process.submit(tracked(entry))
    waiting = [entry.frame.stamp_ns for entry in process._waiting]
    assert waiting == [1, 4, 5] and process.dropped == 2
    process.stop(1.0)


def test_a_bag_that_loops_is_localized_again(monkeypatch):
    """Time went back: the next search was due when the bag came to where the last one was."""
    monkeypatch.setattr(MapProcess, "_read", lambda self: None)
    monkeypatch.setattr(MapProcess, "_send", lambda self: None)
    monkeypatch.setattr(map_process, "known", lambda result: result.picked)
    process = begun("none.l2m", LOCALIZE)

    def searched(second):
        process.submit(tracked(picked(second * 1_000_000_000)))
        return process._newest is not None and bool(process._next())

    assert [searched(second) for second in (100, 100.5, 101, 40, 40.5, 41)] == [
        True, False, True, True, False, True,
    ]  # fmt: skip
    process.stop(1.0)


def test_a_chain_that_is_found_again_and_moved_has_no_fix_until_the_next_one(monkeypatch):
    """It keeps its number, but lies elsewhere in odom: the old fix put the robot where the break
    was, and so did what was on its way."""
    monkeypatch.setattr(MapProcess, "_read", lambda self: None)
    monkeypatch.setattr(MapProcess, "_send", lambda self: None)
    monkeypatch.setattr(map_process, "known", lambda result: result.picked)
    process = begun("none.l2m", LOCALIZE)
    child = types.SimpleNamespace(busy=False, may_be_stopped=False, process=None)

    def answered_fix(message):
        values = {"asked": "localize", "epoch": message.values["epoch"], "found": True}
        values["fix"] = {"stamp_ns": 1, "chain": 3, "words": ""}
        arrays = dict(zip(wire.FIX_ARRAYS, (np.eye(4), np.eye(4), np.eye(6)), strict=True))
        process._take(child, wire.Message("answer", values, arrays))
        return process.fix

    process.submit(tracked(picked(1)))
    assert answered_fix(process._message(process._next())) is not None
    process.submit(tracked(picked(2_000_000_000)))
    under_way = process._message(process._next())
    found_again = ChainEvent(3, 7, 3, "found again", before=9, before_chain=4)
    process.submit(tracked(picked(4_000_000_000), found_again))
    assert process.fix is None and answered_fix(under_way) is None
    assert answered_fix(process._message(process._next())) is not None
    process.stop(1.0)


def test_the_covariance_in_the_map_is_that_of_drawn_errors():
    """Odometry's was added about the axes of odom, and a turn of the fix did not grow with the
    way since: 10 m on, 0.02 rad are 0.2 m."""
    rng = np.random.default_rng(0)
    at_fix = se3.exp(np.array([1.0, 2.0, 0.5, 0.3, -0.2, 1.5]))
    map_from_odom = se3.exp(np.array([3.0, -1.0, 0.0, 0.0, 0.0, 2.0]))  # the robot began turned
    moved = se3.exp(np.array([0.5, 0.0, 10.0, 0.0, 0.2, 0.0]))
    P = np.diag([0.01, 0.02, 0.01, 0.005, 0.02, 0.005]) ** 2
    of_odom = np.diag([0.3, 0.01, 0.01, 0.001, 0.001, 0.01]) ** 2
    fix = MapFix(1, map_from_odom, at_fix, P, 1, "")
    now = at_fix @ moved
    odom_now = np.linalg.inv(map_from_odom) @ now

    def drawn(pose, covariance):
        """t = t0 + dt, R = exp(dphi) R0."""
        d = rng.multivariate_normal(np.zeros(6), covariance)
        turned = se3.exp(np.concatenate([np.zeros(3), d[3:]]))[:3, :3] @ pose[:3, :3]
        return se3.transform(turned, pose[:3, 3] + d[:3])

    def error():
        where = drawn(at_fix, P) @ moved
        drift = drawn(odom_now, of_odom) @ np.linalg.inv(odom_now)  # in odom, about now's place
        turn = map_from_odom[:3, :3]
        where[:3, 3] += turn @ (drift[:3, :3] @ odom_now[:3, 3] + drift[:3, 3] - odom_now[:3, 3])
        where[:3, :3] = turn @ drift[:3, :3] @ turn.T @ where[:3, :3]
        return se3.difference(where, now)

    found = np.cov(np.array([error() for _ in range(4000)]).T)
    stated = fix.covariance_at(now, of_odom)
    sigma = np.sqrt(np.diag(stated))
    np.testing.assert_allclose(np.sqrt(np.diag(found)), sigma, rtol=0.08)
    np.testing.assert_allclose(
        found / np.outer(sigma, sigma), stated / np.outer(sigma, sigma), atol=0.08
    )


def answered(what, **values):
    return wire.Message("answer", {"asked": what, "epoch": 0, **values})


def test_map_gives_way_once_the_robot_is_found(monkeypatch):
    given = []
    monkeypatch.setattr(worker, "_be_nice", given.append)
    begin = {"nice": 15, "nice_at_once": False}
    searching = worker.Priority.of(begin | {"options": {"mode": "localize"}})
    for answer in ("open", "localize", "localize"):
        searching.after(answered(answer, found=False))
    assert given == [0]
    searching.after(answered("localize", found=True))
    searching.after(answered("localize", found=True))
    assert given == [0, 15]
    elsewhere = worker.Priority.of(begin | {"options": {"mode": "localize"}})
    for _ in range(worker.URGENT):
        elsewhere.after(answered("localize", found=False))
    assert given == [0, 15, 0, 15]  # a robot in another house does not search for ever
    building = worker.Priority.of(begin | {"options": {"mode": "build"}})
    building.after(answered("open"))
    building.after(answered("add"))
    assert given[4:] == [0, 15]
    worker.Priority.of({"nice": 15, "nice_at_once": True, "options": {"mode": "build"}})
    assert given[6:] == [15]


def test_map_is_stopped_for_frames_once_it_gives_way_and_keeps_up(monkeypatch):
    process = map_process.MapProcess.__new__(map_process.MapProcess)
    allowed = []
    process.hold = types.SimpleNamespace(allow=allowed.append)
    process.options = OnlineOptions(mode=LOCALIZE)
    process._few_cores, process._searches, process.fix = True, 0, None
    process._waiting = collections.deque()
    process._child = child = map_process._Child("child")
    process._allow()
    child.may_be_stopped = True
    process._allow()  # the robot waits for its place
    process._searches = map_process.SEARCHES
    process._allow()  # not for ever
    process._searches, process.fix = 0, "a place"
    process._allow()
    process._waiting += [picked(n) for n in range(map_process.BEHIND)]
    process._allow()  # it falls behind
    assert allowed == [None, None, "child", "child", None]
