"""Maps, posed images and scenes of Gaussians from elsewhere, and outputs that would destroy them.

Only a refusal may come out of them; each case here once ended in a traceback, a hang, gigabytes
of memory, or a lost input.
"""

import contextlib
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes.keyframes import map_keyframe

from l2m_ros import cli
from l2m_ros.bags.recording import open_recording
from l2m_ros.errors import InvalidInput, MapError
from l2m_ros.mapping.meta import model_of
from l2m_ros.mapping.store import open_map
from l2m_ros.workshop.jobs.runners import runner_of
from l2m_ros.workshop.jobs.store import store_of

EYE = np.eye(4).tolist()
K = [[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]


def bomb(side: int = 60_000) -> bytes:
    """A PNG whose header promises gigabytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(bytes(99)), b"IEND"]
    packed = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


# ---- maps ----------------------------------------------------------------------------------------


@pytest.fixture
def office(tmp_path):
    pytest.importorskip("faiss")
    path = tmp_path / "office.l2m"
    store = open_map(str(path), create=True)
    store.add(map_keyframe(1, name="a", map_from_camera=np.eye(4), covariance=np.eye(6) * 1e-4))
    store.close()
    return path


def changed(path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("image", 10**10),  # bytes(10**10) would be ten gigabytes
        ("image", "a text"),
        ("camera", "{"),
        ("camera", "{}"),
        ("camera", json.dumps({"width": "x", "height": 2, "K": 3, "distortion": 4, "D": 5})),
        ("stamp_ns", "noon"),
        ("pose", b"12345678"),
        ("covariance", 7),
    ],
)
def test_rows_of_any_kind_are_refused_in_words(office, column, value, capsys):
    changed(office, f"UPDATE keyframe SET {column} = ?", value)
    with open_and_closed(office) as store, pytest.raises(MapError, match="--repair"):
        store.keyframe(1)
    assert cli.main(["map", "check", str(office)]) == 1
    assert "keyframe 1" in capsys.readouterr().out


def test_a_bomb_as_a_keyframe_is_refused_by_its_header(office):
    changed(office, "UPDATE keyframe SET image = ?", bomb())
    with open_and_closed(office) as store, pytest.raises(InvalidInput, match="pixels"):
        store.keyframe(1).frame()


def test_poses_edges_and_descriptors_of_other_sizes(office):
    changed(office, "UPDATE keyframe SET pose = x'00'")
    changed(office, "INSERT INTO edge VALUES (1, 1, 'prior', x'00', x'00')")
    changed(office, "INSERT INTO descriptor VALUES (1, x'00')")
    with open_and_closed(office) as store:
        for read in (store.poses, store.edges, store.descriptors):
            with pytest.raises(MapError, match="--repair"):
                read()


def test_a_schema_whose_names_are_no_text(office):
    """Found by coverage-guided fuzzing: Python's sqlite3 fails over its own message."""
    content = office.read_bytes()
    at = content.index(b"CREATE TABLE keyframe") + len("CREATE TABLE ")
    office.write_bytes(content[:at] + b"keyfr\xa3\xa3e" + content[at + 8 :])
    with pytest.raises(MapError):
        store = open_map(str(office))
        store.info()


class open_and_closed:
    """`with` for a map."""

    def __init__(self, path):
        self.store = open_map(str(path))

    def __enter__(self):
        return self.store

    def __exit__(self, *exception):
        self.store.close()


def test_a_map_names_no_file_to_be_loaded():
    assert model_of({"model": "orb"}, "lite") == "orb"
    assert model_of({}, "lite") == "lite"
    for name in ("/evil", "../evil", "./evil", "~/evil", "a\\b"):
        with pytest.raises(InvalidInput, match="--model"):
            model_of({"model": name}, "lite")


@pytest.mark.parametrize("address", ["mysql://x/y", "s3://bucket/a.l2m", "://"])
def test_other_addresses_are_no_maps(address, tmp_path, monkeypatch):
    """They once became folders named mysql: in the working directory."""
    monkeypatch.chdir(tmp_path)
    for create in (False, True):
        with pytest.raises(MapError, match="postgresql"):
            open_map(address, create=create)
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_no_map(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MapError, match="regular file"):
        open_map(str(tmp_path / "pipe"))


# ---- posed images --------------------------------------------------------------------------------


@pytest.fixture
def posed(tmp_path):
    """Four pictures with poses; `meta.json` is written by the tests."""
    folder = tmp_path / "posed"
    (folder / "images").mkdir(parents=True)
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels)
    return folder


def meta(**first: object) -> dict[str, object]:
    cameras = {f"{i}.png": {"world_from_camera": EYE, "stamp_s": float(i)} for i in range(4)}
    cameras["0.png"] |= first
    return {"K": K, "cameras": cameras}


BROKEN = {
    "not JSON": "{",
    "a list": [],
    "cameras are a list": {"cameras": [1, 2, 3, 4]},
    "a camera is a number": {"K": K, "cameras": {f"{i}.png": i for i in range(4)}},
    "stamp is a text": meta(stamp_s="noon"),
    "stamp is endless": meta(stamp_s=float("inf")),
    "stamp leaves 64 bits": meta(stamp_s=1e30),
    "K of another shape": meta(K=[1, 2, 3]),
    "K of texts": meta(K=[["a"] * 3] * 3),
    "K of NaN": meta(K=[[float("nan")] * 3] * 3),
    "pose of texts": meta(world_from_camera="here"),
    "pose of NaN": meta(world_from_camera=[[float("nan")] * 4] * 4),
    "pose of zeros": meta(world_from_camera=[[0.0] * 4] * 4),
    "size is a text": meta(width="wide", height="high"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_recording_whose_meta_cannot_be_used(posed, name):
    content = BROKEN[name]
    text = content if isinstance(content, str) else json.dumps(content)
    (posed / "meta.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"meta\.json"), open_recording(posed) as recording:
        list(recording.shots())


def test_a_recording_names_no_pictures_outside_of_it(posed):
    cv2.imwrite(str(posed.parent / "secret.png"), np.zeros((48, 64, 3), np.uint8))
    content = {"K": K, "cameras": {"../../secret.png": {}}}
    (posed / "meta.json").write_text(json.dumps(content))
    with pytest.raises(InvalidInput, match="inside"), open_recording(posed):
        pass


SOURCES = {
    "meta.json": [*map(json.dumps, (meta(K=[1]), meta(world_from_camera="x"), [1])), "{"],
    "transforms.json": [
        "{",
        "[]",
        json.dumps({"frames": [{"file_path": "images/0.png"}] * 4}),
        json.dumps({"frames": 7}),
        json.dumps({"fl_x": 1, "frames": [
            {"file_path": f"../posed/images/{i}.png", "transform_matrix": EYE} for i in range(4)
        ]}),
        json.dumps({"fl_x": 50.0, "frames": [
            {"file_path": f"images/{i}.png", "transform_matrix": np.zeros((4, 4)).tolist()}
            for i in range(4)
        ]}),
    ],
    "cameras.txt": ["1 PINHOLE 64 48 50 50 32 24", "1 PINHOLE", "nonsense", ""],
}  # fmt: skip


@pytest.mark.parametrize("marker", SOURCES)
def test_posed_images_of_other_programs_that_cannot_be_used(posed, marker):
    pytest.importorskip("torch")
    from l2m_ros.workshop.gaussians.sources import load_captures

    rows = "".join(f"{i} 0 0 0 0 0 0 0 {i % 2} {i}.png\n\n" for i in range(4))
    (posed / "images.txt").write_text(rows)
    for content in SOURCES[marker]:
        (posed / marker).write_text(content)
        with pytest.raises(InvalidInput):
            load_captures(posed)


# ---- scenes of Gaussians -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        "element vertex -5\nproperty float x",
        "element vertex 99999999999999999999\nproperty float x",
        "element vertex 5",
        "element vertex many\nproperty float x",
        "element vertex",
        "element vertex 1\nproperty float x\nproperty float x",
        "element vertex 1\nproperty",
    ],
)
def test_a_ply_whose_head_lies(tmp_path, head):
    pytest.importorskip("torch")
    from l2m_ros.workshop.gaussians.ply import read_ply

    path = tmp_path / "scene.ply"
    text = f"ply\nformat binary_little_endian 1.0\n{head}\nend_header\n"
    path.write_bytes(text.encode() + bytes(64))
    with pytest.raises(InvalidInput, match=r"scene\.ply"):
        read_ply(path)


def test_a_pipe_is_no_scene(tmp_path):
    pytest.importorskip("torch")
    from l2m_ros.workshop.gaussians.ply import read_ply

    os.mkfifo(tmp_path / "scene.ply")
    with pytest.raises(InvalidInput, match="regular file"):
        read_ply(tmp_path / "scene.ply")


@pytest.mark.parametrize(
    "record",
    [
        "{", [], {"cameras": 3}, {"cameras": {"a": {"width": 1}}},
        {"cameras": {}, "source": ".", "longest_px": "x", "views": 3},
        {"cameras": {"a": {"width": 64, "height": 48, "K": K, "world_from_camera": [[0] * 4] * 4}}},
    ],
)  # fmt: skip
def test_a_record_beside_a_scene_that_cannot_be_used(tmp_path, record):
    pytest.importorskip("torch")
    from l2m_ros.workshop.gaussians.record import read_record

    text = record if isinstance(record, str) else json.dumps(record)
    (tmp_path / "scene.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"scene\.json"):
        read_record(tmp_path / "scene.ply")


# ---- outputs -------------------------------------------------------------------------------------

OUTPUTS = {
    "map build": ["map", "build", "{posed}", "--out", "{posed}/meta.json", "--force"],
    "map merge": ["map", "merge", "{map}", "{map}", "--out", "{map}", "--force"],
    "map export": ["map", "export", "{map}", "--ply", "{map}"],
    "map view": ["map", "view", "{map}", "--save", "{map}"],
    "localize": ["localize", "{map}", "{posed}", "--out", "{posed}/a.tum"],
    "features": ["features", "{posed}/images/0.png", "--out", "{posed}/images/0.png"],
    "lift": ["lift", "{posed}/images", "--out", "{out}", "--picture", "{posed}/images/0.png"],
    "splat build": ["splat", "build", "{posed}", "--out", "{posed}/meta.json"],
    "splat build picture": [
        "splat", "build", "{posed}", "--out", "{out}.ply", "--picture", "{posed}/images/0.png",
    ],
    "splat pairs": ["splat", "pairs", "{map}", "--out", "{out}", "--picture", "{map}"],
    "scene": ["scene", "import", "7scenes", "{posed}", "--out", "{posed}", "--force"],
    "evaluate": ["evaluate", "{posed}", "--markdown", "{posed}/meta.json"],
    "map-free": ["evaluate", "--map-free", "{posed}", "--submission", "{posed}/meta.json"],
    "teach": ["teach", "{posed}", "--out", "{posed}", "--force"],
    "train": ["train", "depth", "--sequences", "{posed}", "--out", "{posed}"],
}  # fmt: skip


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_verb_destroys_its_input(name, office, posed, tmp_path, capsys):
    pytest.importorskip("torch")
    (posed / "meta.json").write_text(json.dumps(meta()))
    before = {path: path.read_bytes() for path in [office, *posed.rglob("*.*")]}
    given = {"map": office, "posed": posed, "out": tmp_path / "out"}
    assert cli.main([word.format(**given) for word in OUTPUTS[name]]) == 2
    assert "would overwrite the input" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before


def test_folders_that_are_added_to_may_hold_the_input(office, tmp_path):
    assert cli.main(["map", "export", str(office), "--colmap", str(tmp_path)]) == 0
    assert (tmp_path / "sparse" / "0" / "images.txt").is_file() and office.is_file()


NUMBERS = [
    ["map", "build", "{posed}", "--out", "{out}", "--every-m", "nan"],
    ["map", "build", "{posed}", "--out", "{out}", "--every-m", "inf"],
    ["map", "build", "{posed}", "--out", "{out}", "--features-mb", "nan"],
    ["map", "build", "{posed}", "--out", "{out}", "--max-keyframes", "-1"],
    ["map", "build", "{posed}", "--out", "{out}", "--every", "99999999999999999999"],
    ["map", "thin", "{map}", "--keep", "-1"],
    ["localize", "{map}", "{posed}", "--every", "0"],
    ["splat", "build", "{posed}", "--out", "{out}.ply", "--seed", "-1"],
    ["splat", "pairs", "{out}.ply", "--out", "{out}", "--seed", "-1"],
    ["splat", "pairs", "{out}.ply", "--out", "{out}", "--views", "99999999999999999999"],
    ["splat", "pairs", "{out}.ply", "--out", "{out}", "--processes", "99999999999999999999"],
    ["evaluate", "{posed}", "--matcher", "orb", "--seed", "-1"],
    ["features", "{posed}/images/0.png", "--out", "{out}.png", "--pairs", "-1"],
    ["teach", "{posed}", "--out", "{out}", "--seed", "-1"],
    ["match", "{posed}/images/0.png", "{posed}/images/1.png", "--depth-scale", "nan"],
    ["view-pair", "{posed}/images/0.png", "{posed}/images/1.png", "--size", "-1"],
    ["bench", "--model", "lite", "--threads", "1000000"],
    ["bench", "--model", "lite", "--threads", "99999999999999999999"],
    ["map", "export", "{map}", "--ply", "{out}.ply", "--voxel-m", "nan"],
    ["map", "export", "{map}", "--ply", "{out}.ply", "--voxel-m", "-1"],
    ["simulate", "--out", "{out}.mcap", "--frames", "99999999999999999999"],
    ["simulate", "--out", "{out}.mcap", "--rate", "inf"],
    ["simulate", "--out", "{out}.mcap", "--rate", "1e-300"],
    ["simulate", "--out", "{out}.mcap", "--baseline", "inf"],
    ["simulate", "--out", "{out}.mcap", "--scene-seed", "-1"],
    ["simulate", "--out", "{out}", "--least-overlap", "nan"],
    ["train", "decoder", "--taught-share", "nan", "--steps", "1"],
    ["train", "encoder", "--minutes", "nan"],
    ["train", "depth", "--pairs-share", "nan", "--steps", "1"],
    ["train", "metric", "--steps", "0"],
    ["train", "encoder", "--steps", "1", "--seed", "-1"],
]


@pytest.mark.parametrize("words", NUMBERS, ids=" ".join)
def test_numbers_that_cannot_be_are_refused_before_the_work(words, posed, tmp_path, capsys):
    pytest.importorskip("torch")
    (posed / "meta.json").write_text(json.dumps(meta()))
    given = {"posed": posed, "out": tmp_path / "out", "map": tmp_path / "a.l2m"}
    try:
        code = cli.main([word.format(**given) for word in words])
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_view_is_written_whole_or_not_at_all(office, tmp_path, monkeypatch, capsys):
    """Rerun left a torn file on a full disk, and the verb said that all was well."""
    pytest.importorskip("rerun")
    out = tmp_path / "view.rrd"
    assert cli.main(["map", "view", str(office), "--save", str(out)]) == 0
    assert out.read_bytes().startswith(b"RRF") and out.stat().st_size > 2000
    out.unlink()
    code = (
        "import resource, sys; from l2m_ros.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "map", "view", str(office), "--save", str(out)]
    path = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=path)
    assert done.returncode == 2 and "disk is full" in done.stderr
    assert not list(tmp_path.glob("*view*"))


def test_pictures_kept_of_a_world_are_whole_or_said_to_be_damaged(tmp_path):
    pytest.importorskip("torch")
    from l2m_ros.workshop.training.depth_data import Pictures

    path = tmp_path / "world0.npz"
    Pictures([b"abc", b"de"], np.zeros((2, 3)), np.zeros(2)).save(path)
    assert [*tmp_path.iterdir()] == [path] and Pictures.load(path).jpeg == [b"abc", b"de"]
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InvalidInput, match="delete it"):
        Pictures.load(path)


def test_a_map_that_fails_leaves_nothing_beside_its_name(posed, tmp_path):
    (posed / "meta.json").write_text(json.dumps(meta(K=[1])))
    out = tmp_path / "maps" / "a.l2m"
    assert cli.main(["map", "build", str(posed), "--model", "orb", "--out", str(out)]) == 2
    assert not list(out.parent.glob("*")) and not list(out.parent.glob(".*"))


def test_an_address_of_nothing_is_no_place_for_shards():
    for address in ("://", "://x"):
        with pytest.raises(InvalidInput, match="address"):
            store_of(address)


@pytest.mark.parametrize("address", ["", "garbage", "a:b", "host:", "host:1:2"])
def test_addresses_of_no_cluster(address):
    with pytest.raises(InvalidInput, match="HOST:PORT"):
        runner_of(address, 1)


def test_a_cluster_that_does_not_answer_is_said_so_at_once():
    """Ray itself asked for minutes."""
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"):
        with pytest.raises(InvalidInput, match="no cluster answers"):
            next(runner_of(address, 1).run(str, [1]))


@pytest.mark.slow
def test_ctrl_c_ends_processes_without_a_word(tmp_path):
    """Each of them printed a traceback."""
    code = (
        "import signal, time\nfrom l2m_ros.workshop.jobs.runners import Processes\n"
        "if __name__ == '__main__':\n"
        # A shell ignores SIGINT for what it starts in the background, a test run included.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    try:\n"
        "        for done in Processes(2).run(time.sleep, [0, 60, 60]): print(done, flush=True)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    (tmp_path / "work.py").write_text(code)
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "work.py")], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert run.stdout.readline().startswith("(0")
    os.killpg(run.pid, signal.SIGINT)
    try:
        out, err = run.communicate(timeout=40)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)  # nothing is left where the test fails
    assert out == "interrupted\n" and err == "" and run.returncode == 0


def test_no_processes_do_nothing():
    for count in (0, -3):
        with pytest.raises(InvalidInput, match="at least 1"):
            runner_of(None, count)
