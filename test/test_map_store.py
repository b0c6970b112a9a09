"""Both stores by the same tests; then what only a file can suffer."""

import dataclasses
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import tempfile
import threading
import time

import numpy as np
import pytest
from fakes import postgres_server
from fakes.keyframes import CAMERA, features, map_keyframe, stored_cells
from fakes.scenes import PATH, write_relief

from l2m_ros import cli
from l2m_ros.errors import InvalidInput, L2MError, MapError
from l2m_ros.files import without_password
from l2m_ros.geometry.camera import unproject
from l2m_ros.mapping import codec, export, sql, sqlite
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.repair import problems
from l2m_ros.mapping.store import open_map
from l2m_ros.matching.catalogue import load_matcher
from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.captures import _colmap_camera, _nerfstudio_camera

try:
    from l2m_ros.mapping import postgres as postgres_store
except ModuleNotFoundError:  # without psycopg
    postgres_store = sqlite

T = np.array([[0.0, -1, 0, 0.1], [1, 0, 0, 0.2], [0, 0, 1, 0.3], [0, 0, 0, 1]])
P = np.diag([1.0, 2, 3, 4, 5, 6]) * 1e-4
KILLS = 30


@pytest.fixture(scope="module")
def postgres():
    pytest.importorskip("psycopg")
    if postgres_server.find("initdb") is None:
        pytest.skip("no PostgreSQL here: apt install postgresql, or pip install pgserver")
    folder = tempfile.mkdtemp(prefix="l2m")  # pytest's own paths are too long for a socket
    try:
        with postgres_server.server(folder) as address:
            yield address
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgres"])
def address(request, tmp_path):
    if request.param == "sqlite":
        return str(tmp_path / "office.l2m")
    schema = f"map{abs(hash(str(tmp_path)))}"
    return request.getfixturevalue("postgres") + f"&options=-csearch_path%3D{schema}"


@pytest.fixture
def store(address):
    opened = open_map(address, create=True)
    yield opened
    opened.close()


def test_keyframe_comes_back_as_it_was_stored(store):
    id = store.add(
        map_keyframe(3, map_from_camera=T, covariance=P, truth=np.eye(4), run=7, name="a.jpg")
    )
    kept = store.keyframe(id)
    assert (kept.stamp_ns, kept.run, kept.name) == (13, 7, "a.jpg")
    assert np.array_equal(kept.map_from_camera, T) and np.array_equal(kept.covariance, P)
    assert np.array_equal(kept.truth, np.eye(4))
    frame, given = kept.frame(), map_keyframe(3)
    assert frame.camera.size == CAMERA.size and np.array_equal(frame.camera.K, CAMERA.K)
    depth = codec.decode_depth(given.depth, 0.001)
    assert np.array_equal(frame.depth, depth, equal_nan=True) and np.isnan(depth[0]).all()


def test_one_call_stores_all_of_a_keyframe(store):
    a = store.add(map_keyframe(1))
    b = store.add(map_keyframe(2), [Edge(a, 0, T, P)], features(), np.arange(4.0))
    (edge,) = store.edges()
    assert (edge.a, edge.b, edge.kind) == (a, b, "odometry")
    assert np.array_equal(edge.a_from_b, T) and np.array_equal(edge.covariance, P)
    ids, matrix = store.descriptors()
    assert ids == [b] and np.allclose(matrix, [np.arange(4)])
    kept = store.features(b, "toy", "abc")
    assert np.allclose(kept.arrays["coarse"], features().arrays["coarse"], atol=2e-3)
    assert kept.arrays["coarse"].dtype == np.float32


def test_features_of_another_model_or_other_weights_are_not_given(store):
    a = store.add(map_keyframe(1), features=features())
    assert store.features(a, "toy", "other weights") is None
    assert store.features(a, "another", "abc") is None
    store.put_features(a, features(1, checksum="new"))  # replaces the old model's
    assert store.features(a, "toy", "abc") is None
    assert store.features(a, "toy", "new") is not None


def test_cells_come_back_to_a_byte_and_go_with_their_keyframe(store):
    given = stored_cells()
    a, b = store.add(map_keyframe(1), cells=given), store.add(map_keyframe(2))
    kept = store.cells(a, "toy", "abc").grid
    step = np.ptp(given.grid, axis=(0, 1)) / 255
    assert kept.shape == given.grid.shape and (np.abs(kept - given.grid) <= 0.51 * step).all()
    assert store.cells(a, "toy", "other weights") is store.cells(b, "toy", "abc") is None
    store.put_cells(a, stored_cells(1, checksum="new"))
    assert store.cells(a, "toy", "abc") is None and store.cells(a, "toy", "new") is not None
    store.remove([a])
    assert store.cells(a, "toy", "new") is None
    with store.transaction(write=True) as cursor:
        cursor.execute(sql.ADD_CELLS, (b, "toy", "abc", features_as_bytes()))
    with pytest.raises(MapError, match="repair"):
        store.cells(b, "toy", "abc")
    store.set_meta({"model": "toy", "checksum": "abc"})
    assert any("cells of keyframe" in line for line in problems(store.address))


def features_as_bytes():
    return codec.encode_arrays({"codes": np.zeros((3, 4)), "least": np.zeros(4)})


def test_failed_keyframe_leaves_nothing(store):
    store.add(map_keyframe(1))
    with pytest.raises(MapError):
        store.add(map_keyframe(2), [Edge(99, 0, T, P)])  # no keyframe 99
    assert len(store.ids()) == 1 and store.edges() == []


def test_removed_keyframe_takes_its_edges_along(store):
    a, b, c = (store.add(map_keyframe(i), features=features(i)) for i in range(3))
    store.add_edges([Edge(a, b, T, P), Edge(b, c, T, P, "loop")])
    store.remove([b], [Edge(a, c, T @ T, 2 * P)])
    assert store.ids() == [a, c]
    (bridge,) = store.edges()
    assert (bridge.a, bridge.b) == (a, c)
    assert store.info().with_features == {"toy": 2}
    assert store.add(map_keyframe(5)) > c  # an id is never given twice


def test_poses_change_together_and_can_be_taken_away(store):
    a, b = store.add(map_keyframe(1)), store.add(map_keyframe(2))
    store.set_poses({a: (T, P), b: (np.eye(4), P)})
    assert sorted(store.poses()) == [a, b]
    store.set_poses({b: None})
    assert list(store.poses()) == [a] and store.info().placed == 1
    assert np.array_equal(store.poses()[a][0], T)


def test_new_vocabulary_replaces_all_descriptors(store):
    a, b = store.add(map_keyframe(1), descriptor=np.ones(3)), store.add(map_keyframe(2))
    store.put_descriptors(b"words", {b: np.zeros(8)})
    assert store.vocabulary() == b"words"
    ids, matrix = store.descriptors()
    assert ids == [b] and matrix.shape == (1, 8) and a not in ids


def test_readers_see_what_a_writer_commits(store, address):
    reader = open_map(address)
    try:
        before = reader.version()
        assert not reader.wait(0.05)
        timer = threading.Timer(0.1, lambda: store.add(map_keyframe(1)))
        timer.start()
        assert reader.wait(5.0)
        timer.join()
        assert reader.version() != before and len(reader.ids()) == 1
        with pytest.raises(MapError, match="read"):
            reader.set_meta({"world": "x"})
    finally:
        reader.close()


def test_own_changes_are_no_news(store):
    before = store.version()
    store.add(map_keyframe(1))
    assert store.version() == before


def test_meta_and_depth(store):
    store.set_meta({"world": "office"})
    store.set_meta({"world": "kitchen"})
    a = store.add(map_keyframe(1, depth=None))
    store.set_depth(a, map_keyframe(1).depth, 0.001, "triangulated")
    assert store.meta() == {"world": "kitchen"}
    assert store.keyframe(a).depth_source == "triangulated" and store.info().with_depth == 1


def test_unknown_keyframe_and_edge_kind(store):
    with pytest.raises(MapError, match="keyframe 5"):
        store.keyframe(5)
    with pytest.raises(InvalidInput, match="edge kind"):
        Edge(1, 2, T, P, "guess")


def test_map_that_is_not_there(address):
    with pytest.raises(MapError, match="l2m map build"):
        open_map(address)


def test_server_that_is_not_there(tmp_path):
    pytest.importorskip("psycopg")
    with pytest.raises(MapError, match="server does not answer") as refused:
        open_map(f"postgresql://robot:secret@/x?host={tmp_path}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://robot:s3cr%%t@127.0.0.1:1/maps",  # libpq quotes what it cannot decode
        "postgresql://robot:a%40s3cr@127.0.0.1:1/maps",
        "postgresql://robot@127.0.0.1:1/maps?password=s3cr%%t",
        "postgresql://127.0.0.1:1/maps?sslpassword=s3cr@t",
        "mysql://robot:s3cr@host/maps",
    ],
)
def test_no_password_is_shown(address):
    pytest.importorskip("psycopg")
    with pytest.raises(MapError) as caught:
        open_map(address)
    assert "s3cr" not in str(caught.value)
    assert without_password(address).partition("://")[2].count("s3cr") == 0


def test_a_server_out_of_reach_is_noticed(postgres):
    store = open_map(f"{postgres}&keepalives_idle=7", create=True)
    used = store._connection.info.get_parameters()
    assert (used["keepalives_idle"], used["tcp_user_timeout"]) == ("7", "30000")
    store.close()


def test_newer_format_in_postgres(postgres):
    address = postgres + "&options=-csearch_path%3Dnewer"
    store = open_map(address, create=True)
    with store.transaction(write=True) as cursor:
        cursor.execute("UPDATE l2m_format SET format = 99")
    store.close()
    with pytest.raises(MapError, match="update l2m_ros"):
        open_map(address)


@pytest.mark.parametrize("format", [1, 2])
def test_an_older_map_is_read_as_it_is_and_brought_up_to_date_by_writing(
    address, monkeypatch, format
):
    for module in (sqlite, postgres_store):
        monkeypatch.setattr(module, "MIGRATIONS", sql.MIGRATIONS[:format])
        monkeypatch.setattr(module, "FORMAT", format)
    store = open_map(address, create=True)
    a = store.add(map_keyframe(1))
    b = store.add(map_keyframe(2), [Edge(a, 0, T, P)])
    store.close()
    monkeypatch.undo()
    older = open_map(address)
    assert older.info().format == format and older.keyframe(b).name == map_keyframe(2).name
    assert older.cells(a, "toy", "abc") is None and len(older.edges()) == 1
    older.close()
    store = open_map(address, write=True)
    assert store.info().format == sql.FORMAT
    store.add_edges([Edge(a, b, T, P, "motion")])
    store.put_cells(a, stored_cells())
    assert store.cells(b, "toy", "abc") is None
    assert sorted(edge.kind for edge in store.edges()) == ["motion", "odometry"]
    store.remove([a])
    assert not store.edges()
    store.close()


# --- files -----------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "office.l2m"
    store = open_map(str(path), create=True)
    a = store.add(map_keyframe(1), features=features())
    store.add(map_keyframe(2), [Edge(a, 0, T, P)])
    store.close()
    return path


def test_closed_map_is_one_file(path):
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + b"\0" * 300])
def test_foreign_files(tmp_path, content):
    path = tmp_path / "x.l2m"
    path.write_bytes(content)
    with pytest.raises(MapError):
        open_map(str(path))


def test_sqlite_file_of_another_program(tmp_path):
    path = tmp_path / "places.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE keyframe (id INTEGER)")
    connection.close()
    with pytest.raises(MapError, match="another program"):
        open_map(str(path), write=True)


def test_truncated_file(path):
    path.write_bytes(path.read_bytes()[:-20000])
    with pytest.raises(MapError, match=r"cut short.*--repair"):
        open_map(str(path))


def test_newer_format(path):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(MapError, match="newer l2m_ros"):
        open_map(str(path), write=True)


def test_damaged_page(path):
    content = bytearray(path.read_bytes())
    content[8192 * 1 : 8192 * 2] = os.urandom(8192)
    path.write_bytes(content)
    try:
        store = open_map(str(path))
    except MapError:
        return
    assert store.problems()
    store.close()


def test_read_only_file(path):
    path.chmod(0o444)
    if os.access(path, os.W_OK):
        pytest.skip("root may write anything")
    with pytest.raises(MapError, match="read-only"):
        open_map(str(path), write=True)
    assert len(open_map(str(path)).ids()) == 2


def test_full_disk_says_so_and_loses_nothing(path):
    store = open_map(str(path), write=True)
    with store.transaction() as cursor:
        used = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count = {used + 3}")
    with pytest.raises(MapError, match="disk is full"):
        for seed in range(50):
            store.add(map_keyframe(seed))
    kept = len(store.ids())
    assert kept >= 2 and store.problems() == []
    store.close()
    assert len(open_map(str(path)).ids()) == kept


def test_second_writer_waits_then_is_told(path, monkeypatch):
    monkeypatch.setattr("l2m_ros.mapping.sqlite.BUSY_S", 0.1)
    first, second = open_map(str(path), write=True), open_map(str(path), write=True)
    with first.transaction(write=True), pytest.raises(MapError, match="another process"):
        second.set_meta({"a": "b"})
    second.set_meta({"a": "b"})
    first.close(), second.close()


def _write_until_killed(path, pipe):
    """In a child: one keyframe after another; an id goes out once it is stored."""
    store = open_map(path, write=True)
    previous = max(store.ids(), default=0)
    while True:
        edges = [Edge(previous, 0, T, P)] if previous else []
        previous = store.add(map_keyframe(previous % 7), edges, features(), np.ones(16))
        os.write(pipe, f"{previous}\n".encode())


def test_killed_at_any_moment_loses_at_most_the_keyframe_under_way(tmp_path):
    path, rng = str(tmp_path / "k.l2m"), random.Random(0)
    open_map(path, create=True).close()
    told: set[int] = set()
    for kill in range(KILLS):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                _write_until_killed(path, writing)
            finally:
                os._exit(1)
        os.close(writing)
        if kill % 2:  # else killed while it opens the map, on a slow machine
            select.select([reading], [], [], 10.0)
        time.sleep(rng.uniform(0.003, 0.03))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(reading) as pipe:
            told |= {int(line) for line in pipe.read().split("\n") if line}
    store = open_map(path)
    kept = store.ids()
    assert len(told) >= KILLS // 2  # the children did work
    assert told <= set(kept) and len(kept) <= len(told) + KILLS
    assert store.problems() == []
    assert all(store.features(id, "toy", "abc") is not None for id in kept)
    assert len(store.descriptors()[0]) == len(kept) and len(store.edges()) == len(kept) - 1
    store.close()


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n"])
def test_pictures_that_cannot_be_decoded_are_refused_in_words(content):
    for decode in (codec.decode_image, lambda c: codec.decode_depth(c, 0.001)):
        with pytest.raises(L2MError, match="picture"):
            decode(content)
    with pytest.raises(InvalidInput):
        codec.decode_arrays(content)


@pytest.mark.parametrize(
    ("kind", "D"),
    [
        ("none", []),
        ("plumb_bob", [-0.1, 0.02, 0.001, -0.002, 0.03]),
        ("equidistant", [0.1, 0.02, -0.01, 0.004]),
    ],
)
def test_a_lens_goes_to_nerfstudio_and_comes_back(kind, D, tmp_path):
    """A fisheye's numbers went out as those of a plumb bob, and the fifth of a plumb bob not."""
    camera = Camera(CAMERA.width, CAMERA.height, CAMERA.K, kind, np.array(D))
    keyframe = map_keyframe(map_from_camera=np.eye(4), covariance=1e-6 * np.eye(6))
    store = open_map(str(tmp_path / "bent.l2m"), create=True)
    store.add(dataclasses.replace(keyframe, camera=camera))
    export.write_nerfstudio(store, tmp_path / "ns", voxel_m=0.05)
    meta = json.loads((tmp_path / "ns/transforms.json").read_text())
    (frame,) = meta["frames"]
    back = _nerfstudio_camera({**meta, **frame}, keyframe.frame().rgb, "it")
    assert back.distortion == kind and np.allclose(back.K, camera.K)
    assert np.allclose(back.D, camera.D)
    with pytest.raises(InvalidInput, match="undistort first"):
        _nerfstudio_camera({**frame, "camera_model": "EQUIRECTANGULAR"}, keyframe.frame().rgb, "it")
    rational = Camera(CAMERA.width, CAMERA.height, CAMERA.K, "rational_polynomial", np.full(8, 0.1))
    store.add(dataclasses.replace(keyframe, camera=rational))
    with pytest.raises(InvalidInput, match="rectify first"):
        export.write_nerfstudio(store, tmp_path / "ns", voxel_m=0.05)
    store.close()


@pytest.mark.parametrize(
    ("kind", "D"),
    [
        ("none", []),
        ("plumb_bob", [-0.1, 0.02, 0.001, -0.002, 0.0]),
        ("plumb_bob", [-0.1, 0.02, 0.001, -0.002, 0.03]),
        ("equidistant", [0.1, 0.02, -0.01, 0.004]),
        ("rational_polynomial", [0.3, 0.1, 0.001, -0.002, 0.01, 0.4, 0.05, 0.02]),
    ],
)
def test_a_lens_goes_to_colmap_and_comes_back(kind, D, tmp_path):
    """Its FULL_OPENCV was said not to exist, and fisheyes that we wrote were not read again."""
    camera = Camera(CAMERA.width, CAMERA.height, CAMERA.K, kind, np.array(D))
    rgb = map_keyframe().frame().rgb
    back = _colmap_camera(export._colmap_camera(camera).split(), rgb, "it")
    corners = np.array([[0.0, 0], [CAMERA.width - 1, 0], [CAMERA.width / 3, CAMERA.height - 1]])
    assert np.allclose(back.K, camera.K)
    assert np.allclose(unproject(back, corners), unproject(camera, corners), atol=1e-6)


def test_what_other_programs_cameras_cannot_be_is_refused():
    K = CAMERA.K.copy()
    K[0, 1] = 0.5
    skewed = Camera(CAMERA.width, CAMERA.height, K)
    for written in (export._colmap_camera, export._nerfstudio_lens):
        with pytest.raises(InvalidInput, match="skew"):
            written(skewed)
    frame = {"fl_x": 50.0, "k4": 0.1}
    with pytest.raises(InvalidInput, match="k4: undistort first"):
        _nerfstudio_camera(frame, map_keyframe().frame().rgb, "it")


def test_keyframes_near_a_place_are_those_that_the_map_has_now(tmp_path):
    """One that was taken away was still near, where another had taken its number's place."""
    store = open_map(str(tmp_path / "near.l2m"), create=True)
    for k in range(3):
        moved = np.eye(4)
        moved[0, 3] = k
        store.add(map_keyframe(k, map_from_camera=moved, covariance=1e-6 * np.eye(6)))
    places = Places(store, load_matcher("orb"))
    assert places.near(np.eye(4), 3) == [1, 2, 3]
    places.poses[4] = places.poses.pop(2)
    places.forget([2])
    assert places.near(np.eye(4), 3) == [1, 4, 3]
    store.close()


def test_arrays_beyond_half_precision_are_clipped_not_infinite():
    back = codec.decode_arrays(codec.encode_arrays({"a": np.array([1e9, -1e9, 0.5])}))
    assert np.isfinite(back["a"]).all() and back["a"][2] == 0.5


def test_a_map_that_is_there_is_not_added_to_unasked(address, store, tmp_path, capsys):
    """A server's as little as a file: two buildings in one map are no map."""
    store.add(map_keyframe(1, map_from_camera=T, covariance=P))
    inputs = [str(tmp_path / name) for name in ("a.l2m", "b.l2m")]
    for path in inputs:
        other = open_map(path, create=True)
        other.add(map_keyframe(2, map_from_camera=T, covariance=P))
        other.close()
    write_relief(tmp_path / "relief", PATH[:1])
    for argv in (["merge", *inputs], ["build", str(tmp_path / "relief"), "--model", "orb"]):
        assert cli.main(["map", *argv, "--out", address]) == 2, argv
        said = capsys.readouterr().err
        assert "already" in said and said.count("\n") == 1, said
        assert len(store.ids()) == 1
