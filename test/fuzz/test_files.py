"""Pictures, arrays, shards, scenes, checkpoints and graphs that are damaged or made up: a value of
the promised shape, or an L2MError; never another exception."""

import io
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.budget import share
from fuzz.test_cards import changed, values
from l2m_ros.errors import L2MError
from l2m_ros.images import read_arrays, read_depth, read_rgb
from l2m_ros.workshop.evaluation.scenes import load_scene
from l2m_ros.workshop.lifting.shards import Sample, pack, read_shard

ROOT = Path(__file__).parents[2]
RGB = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
GREY16 = np.random.default_rng(1).integers(0, 65536, (20, 24), np.uint16)


def encoded(suffix: str, pixels) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def saved(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def saved_many(**arrays) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


PICTURES = {suffix: encoded(suffix, RGB) for suffix in (".png", ".jpg", ".bmp", ".tiff", ".webp")}
DEPTHS = {
    ".png": encoded(".png", GREY16),
    ".tiff": encoded(".tiff", GREY16),
    ".npy": saved(GREY16.astype(np.float32)),
}
ARRAYS = saved_many(a=GREY16, b=np.zeros((0, 3)))
SHARD = pack([Sample("000001", {"K": [1.0]}, {"photo": RGB}, {"depth": GREY16})])


@st.composite
def damaged(draw, content: bytes):
    """Some bytes changed, most of them in the head; cut, or with something behind."""
    out = bytearray(content)
    places = st.one_of(st.integers(0, 63), st.integers(0, len(content) - 1))
    for at in draw(st.lists(places, max_size=4)):
        out[at % len(out)] = draw(st.integers(0, 255))
    kept = draw(st.one_of(st.none(), st.integers(0, len(out))))
    return bytes(out[:kept]) + draw(st.binary(max_size=4))


def file_in(tmp_path_factory, name: str, content: bytes) -> Path:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    return path


@settings(max_examples=share(0.05))
@given(st.sampled_from(sorted(PICTURES)).flatmap(lambda s: damaged(PICTURES[s])))
def test_pictures(tmp_path_factory, content):
    try:
        rgb = read_rgb(file_in(tmp_path_factory, "picture", content))
    except L2MError as error:
        assert "\n" not in str(error)
        return
    assert rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.dtype == np.uint8


@settings(max_examples=share(0.05))
@given(st.sampled_from(sorted(DEPTHS)).flatmap(lambda s: st.tuples(st.just(s), damaged(DEPTHS[s]))))
def test_depth_maps(tmp_path_factory, given_file):
    suffix, content = given_file
    try:
        depth = read_depth(file_in(tmp_path_factory, f"depth{suffix}", content))
    except L2MError:
        return
    assert depth.ndim == 2 and depth.dtype == np.float32
    assert (np.isnan(depth) | (depth > 0)).all()


@settings(max_examples=share(0.02))
@given(damaged(ARRAYS))
def test_arrays(content):
    try:
        arrays = read_arrays(content)
    except L2MError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def bomb() -> bytes:
    """A compressed tar: 10 kB that unpack to 10 MB."""
    import gzip

    return gzip.compress(SHARD + bytes(10_000_000))


@settings(max_examples=share(0.02))
@example(bomb())
@given(damaged(SHARD))
def test_shards(tmp_path_factory, content):
    try:
        samples = list(read_shard(file_in(tmp_path_factory, "s.tar", content)))
    except L2MError:
        return
    assert content[:2] != b"\x1f\x8b"
    assert all(isinstance(sample.meta, dict) for sample in samples)


META = {
    "K": [[50.0, 0, 8], [0, 50.0, 6], [0, 0, 1]],
    "depth_scale": 0.001,
    "metric": True,
    "cameras": {"a.png": {"world_from_camera": np.eye(4).tolist(), "width": 24, "height": 20}},
}
PAIR = {"a": "a.png", "b": "b.png", "T_b_a": np.eye(4).tolist(), "metric": True, "overlap": 0.5}


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    for kind, content in (("images", PICTURES[".png"]), ("depth", DEPTHS[".png"])):
        (folder / kind).mkdir()
        for name in ("a.png", "b.png"):
            (folder / kind / name).write_bytes(content)
    (folder / "secret.png").write_bytes(PICTURES[".png"])
    return folder


@settings(max_examples=share(0.05))
@example(META, {**PAIR, "a": "../secret.png"})
@example(META, {**PAIR, "overlap": float("nan")})
@example({**META, "cameras": {"a.png": None}}, PAIR)
@example({**META, "max_depth": "far"}, PAIR)
@example({**META, "depth_scale": 10**400}, PAIR)
@example({**META, "K": [[10**400, 0, 8], [0, 50.0, 6], [0, 0, 1]]}, PAIR)
@given(changed(META) | values, changed(PAIR) | values)
def test_scenes(scene, meta, pair):
    (scene / "meta.json").write_text(json.dumps(meta))
    (scene / "pairs.json").write_text(json.dumps([pair]))
    try:
        read = load_scene(scene)
        views = [read.view(name) for name in (read.pairs[0].a, read.pairs[0].b)]
        moved = read.world_from_camera(read.pairs[0].a)
    except L2MError as error:
        assert len(str(error)) < 2000
        return
    assert ".." not in read.pairs[0].a and 0 <= read.pairs[0].overlap <= 1
    for view in views:
        assert view.camera is None or np.isfinite(view.camera.K).all()
    assert moved is None or np.isfinite(moved).all()


@settings(max_examples=share(0.02))
@given(data=st.data())
def test_checkpoints(tmp_path_factory, data):
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save

    from l2m_ros.networks.checkpoint import read_state

    whole = save({"a.weight": np.ones((2, 3), np.float32), "a.bias": np.zeros(2, np.float16)})
    suffix = data.draw(st.sampled_from([".safetensors", ".pth"]))
    if suffix == ".pth":
        out = io.BytesIO()
        torch.save({"model": {"a.weight": torch.ones(2, 3)}}, out)
        whole = out.getvalue()
    path = file_in(tmp_path_factory, f"w{suffix}", data.draw(damaged(whole)))
    try:
        state = read_state(path)
    except L2MError as error:
        assert "weights_only" not in str(error)
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


@settings(max_examples=share(0.005))
@given(damaged((ROOT / "models" / "lite" / "reference.onnx").read_bytes()))
def test_graphs(tmp_path_factory, content):
    pytest.importorskip("onnxruntime")
    from l2m_ros.engines.onnxruntime import open_session

    try:
        open_session(file_in(tmp_path_factory, "g.onnx", content), threads=1)
    except L2MError as error:
        assert "\n" not in str(error)


def test_an_archive_that_unpacks_to_gigabytes_is_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(2):
            with archive.open(f"{number}.npy", "w") as file:
                for _ in range(20):
                    file.write(bytes(1 << 20))
    with pytest.raises(L2MError, match="unpacks to"):
        read_arrays(out.getvalue(), max_bytes=30 << 20)
