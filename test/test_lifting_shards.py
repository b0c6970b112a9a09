"""`l2m lift`: what is written, that a run resumes, and how bad input is refused."""

import errno
import json
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from test_lifting_views import photograph

from l2m_ros import cli
from l2m_ros.errors import BackendUnavailable, InvalidInput, ModelError
from l2m_ros.image_header import header_size
from l2m_ros.workshop.lifting import depth, holes, shards
from l2m_ros.workshop.lifting.lift import LiftOptions, lift_folder
from l2m_ros.workshop.lifting.motion import centred
from l2m_ros.workshop.lifting.photographs import read_photograph

RNG = np.random.default_rng(0)
SMALL = LiftOptions(width=96, height=64, photographs_per_shard=2, workers=1, homographies=0.0)


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(["a.png", "b.jpg", "more/c.png", "more/d.webp"]):
        cv2.imwrite(str(folder / name), photograph(i, (120, 90)))
    return folder


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_every_photograph_becomes_views(photographs, tmp_path):
    out = tmp_path / "out"
    report = lift_folder(photographs, out, LiftOptions(views=3, **_small()))
    assert (report.photographs, report.shards_written, report.skipped) == (4, 2, [])
    samples = [s for path in sorted(out.glob("*.tar")) for s in shards.read_shard(path)]
    assert [s.meta["photograph"] for s in samples] == [
        "a.png",
        "b.jpg",
        "more/c.png",
        "more/d.webp",
    ]
    for sample in samples:
        assert set(sample.images) == {"photo", "view0", "view1", "view2"}
        assert sample.images["view1"].shape == (64, 96, 3)
        assert sample.arrays["depth"].shape == (90, 120)
        assert {f"warp_{p}" for p in ("0_1", "1_0", "1_2", "2_1")} <= set(sample.arrays)


def _small():
    return {"width": 96, "height": 64, "photographs_per_shard": 2, "homographies": 0.0}


def test_stored_correspondences_follow_from_stored_depth_and_poses(photographs, tmp_path):
    lift_folder(photographs, tmp_path / "out", SMALL)
    (sample, *_) = shards.read_shard(tmp_path / "out" / "shard-000000.tar")
    views, arrays = sample.meta["views"], sample.arrays
    K = [np.array(view["K"]) for view in views]
    T = [np.array(view["view_from_photograph"]) for view in views]
    v, u = np.nonzero(arrays["visible_0_1"])
    assert len(u) > 500
    rays = np.linalg.inv(K[0]) @ np.stack([u, v, np.ones(len(u))])
    points = rays * arrays["depth_0"][v, u]
    b_from_a = T[1] @ np.linalg.inv(T[0])
    in_b = K[1] @ (b_from_a[:3, :3] @ points + b_from_a[:3, 3:])
    warp = shards.pixels(arrays["warp_0_1"])[v, u]
    assert np.abs(in_b[:2] / in_b[2] - warp.T).max() < 0.1
    source = shards.pixels(arrays["source_0"])[v, u]
    in_photograph = np.array(sample.meta["K"]) @ T[0][:3, :3].T @ points
    assert np.abs(in_photograph[:2] / in_photograph[2] - source.T).max() < 0.05


def test_homographies_are_stored_as_such(photographs, tmp_path):
    lift_folder(photographs, tmp_path / "out", LiftOptions(**{**_small(), "homographies": 1.0}))
    (sample, *_) = shards.read_shard(tmp_path / "out" / "shard-000000.tar")
    assert sample.meta["kind"] == "homography" and "depth" not in sample.arrays
    H = [np.array(view["photograph_from_view"]) for view in sample.meta["views"]]
    v, u = np.nonzero(sample.arrays["visible_0_1"])
    px = np.stack([u, v], -1)[None].astype(float)
    expected = cv2.perspectiveTransform(px, np.linalg.inv(H[1]) @ H[0])[0]
    assert np.abs(shards.pixels(sample.arrays["warp_0_1"])[v, u] - expected).max() < 0.02


def test_an_interrupted_run_resumes_to_the_same_bytes(photographs, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    lift_folder(photographs, whole, SMALL)

    class Killed(BaseException):
        pass

    def killed(samples):
        if samples[0].meta["photograph"].startswith("more"):
            raise Killed
        return shards.pack(samples)

    monkeypatch.setattr("l2m_ros.workshop.lifting.lift.pack", killed)
    with pytest.raises(Killed):
        lift_folder(photographs, parts, SMALL)
    monkeypatch.undo()
    assert not (parts / "shard-000001.tar").exists()
    report = lift_folder(photographs, parts, SMALL)
    assert (report.shards_kept, report.shards_written) == (1, 1)
    assert contents(parts) == contents(whole)


def test_threads_do_not_change_the_result(photographs, tmp_path):
    for workers in (1, 3):
        options = LiftOptions(**_small(), workers=workers)
        lift_folder(photographs, tmp_path / str(workers), options)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_full_disk_is_said_and_leaves_nothing_half(photographs, tmp_path, monkeypatch):
    real = os.fsync

    def full(descriptor):
        if os.fstat(descriptor).st_size > 5_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InvalidInput, match=r"disk is full.*run the same command again"):
        lift_folder(photographs, tmp_path / "out", SMALL)
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix != ".json"]
    monkeypatch.undo()
    assert lift_folder(photographs, tmp_path / "out", SMALL).photographs == 4


def test_other_options_are_not_mixed_in(photographs, tmp_path):
    lift_folder(photographs, tmp_path / "out", SMALL)
    with pytest.raises(InvalidInput, match="other options"):
        lift_folder(photographs, tmp_path / "out", LiftOptions(**_small(), seed=1))
    for part in ("--no-sky", f"--depth={tmp_path}"):  # what the shards do not hold
        words = ["lift", str(photographs), "--out", str(tmp_path / "parts"), "--views", "2"]
        assert cli.main([*words, "--size", "48x32"]) == 0
        assert cli.main([*words, "--size", "48x32", part]) == 2
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="is a file"):
        lift_folder(photographs, tmp_path / "file", SMALL)


def png_bomb(width, height):
    """A PNG of a few bytes whose header promises width x height pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_damaged_photographs_are_reported_and_skipped(photographs, tmp_path, capsys):
    good = (photographs / "b.jpg").read_bytes()
    (photographs / "bomb.png").write_bytes(png_bomb(60_000, 60_000))
    (photographs / "cut.jpg").write_bytes(good[:20])
    (photographs / "empty.jpg").write_bytes(b"")
    (photographs / "text.png").write_text("not an image")
    (photographs / "tiny.png").write_bytes(cv2.imencode(".png", np.zeros((3, 3, 3), np.uint8))[1])
    arguments = ["lift", str(photographs), "--out", str(tmp_path / "out"), "--size", "96x64"]
    assert cli.main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["photographs"] == 4
    reasons = dict(report["skipped"])
    assert set(reasons) == {"bomb.png", "cut.jpg", "empty.jpg", "text.png", "tiny.png"}
    assert "60000x60000" in reasons["bomb.png"] and "is empty" in reasons["empty.jpg"]
    assert "damaged" in reasons["cut.jpg"] and "too small" in reasons["tiny.png"]
    assert "skipped bomb.png" in err
    summary = json.loads((tmp_path / "out" / "shard-000000.json").read_text())
    assert len(summary["skipped"]) == 5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_headers_tell_the_size(suffix):
    for size in ((40, 30), (301, 77)):
        data = cv2.imencode(suffix, photograph(0, size))[1].tobytes()
        assert header_size(data) == size


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_photographs_without_their_end_are_refused(tmp_path, suffix):
    data = cv2.imencode(suffix, photograph(0, (200, 150)))[1].tobytes()
    for share in (0.3, 0.9):
        (tmp_path / f"cut{suffix}").write_bytes(data[: int(share * len(data))])
        with pytest.raises(InvalidInput, match="damaged"):
            read_photograph(tmp_path / f"cut{suffix}")


def test_leftovers_of_a_killed_run_are_removed(photographs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / ".shard-000000.tar.999999999.part").write_bytes(b"half")
    living = out / f".shard-000009.tar.{os.getpid()}.part"
    living.write_bytes(b"of a run that is under way")
    lift_folder(photographs, out, SMALL)
    assert not (out / ".shard-000000.tar.999999999.part").exists() and living.exists()


def test_large_photographs_are_shrunk(tmp_path):
    cv2.imwrite(str(tmp_path / "large.png"), photograph(0, (400, 200)))
    assert read_photograph(tmp_path / "large.png", 100).shape == (50, 100, 3)


def test_words_on_the_command_line(photographs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ([str(tmp_path / "empty")], "holds no photographs"),
        ([str(photographs), "--views", "1"], "at least 2 views"),
        ([str(photographs), "--size", "4000x3000"], "can be stored"),
        ([str(photographs), "--depth-model", "none.onnx"], "No such file"),
        ([str(photographs), "--difficulty", "2"], "difficulty"),
    ):
        assert cli.main(["lift", *arguments, "--out", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err


def lift(source, size=(60, 40), name="a.png"):
    return source.lift(photograph(0, size), name, centred(60.0, *size), RNG)


def test_depth_files(tmp_path):
    true = np.linspace(1, 4, 60 * 40, dtype=np.float32).reshape(40, 60)
    np.save(tmp_path / "a.npy", true)
    cv2.imwrite(str(tmp_path / "b.png"), (true * 1000).astype(np.uint16))
    np.savez(tmp_path / "c.npz", 7.0 / true)
    exact = np.median(true) / true
    assert np.abs(lift(depth.DepthFiles(tmp_path)).inverse_depth - exact).max() < 1e-3
    by_mm = lift(depth.DepthFiles(tmp_path), name="b.jpg")
    assert np.abs(by_mm.inverse_depth - exact).max() < 2e-3
    # Disparity has no known scale nor shift: its order and its straightness remain.
    disparity = lift(depth.DepthFiles(tmp_path, disparity=True), name="c.png")
    assert np.corrcoef(disparity.inverse_depth.ravel(), exact.ravel())[0, 1] > 0.999


def test_unknown_depth_is_closed_and_marked(tmp_path):
    values = np.full((40, 60), 2.0, np.float32)
    values[:, 30:] = 4.0
    values[10:20, 10:20], values[0, 0], values[1, 1] = np.nan, 0.0, -3.0
    np.save(tmp_path / "a.npy", values)
    lifted = lift(depth.DepthFiles(tmp_path))
    assert np.isfinite(lifted.inverse_depth).all() and (lifted.inverse_depth > 0).all()
    assert not lifted.known[10:20, 10:20].any() and not lifted.known[0, 0]
    assert lifted.known.sum() == 40 * 60 - 102
    assert lifted.inverse_depth[15, 15] == lifted.inverse_depth[5, 5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((40, 60), 3.0), "constant"),
        (np.full((40, 60), np.nan), "only 0%"),
        (np.ones((40, 60, 3)), "one number per pixel"),
        (np.linspace(1, 2, 2500).reshape(50, 50), "is 50x50"),
    ],
)
def test_depth_that_cannot_be_used(tmp_path, values, words):
    np.save(tmp_path / "a.npy", values)
    for disparity in (False, True):
        with pytest.raises(InvalidInput, match=words):
            lift(depth.DepthFiles(tmp_path, disparity=disparity))


def test_depth_files_that_are_not_there_or_damaged(tmp_path):
    with pytest.raises(InvalidInput, match="no depth file"):
        lift(depth.DepthFiles(tmp_path))
    (tmp_path / "a.npy").write_bytes(b"not numpy")
    with pytest.raises(InvalidInput, match="damaged"):
        lift(depth.DepthFiles(tmp_path))


def test_depth_of_half_the_size_fits(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(1, 2, 600, dtype=np.float32).reshape(20, 30))
    assert lift(depth.DepthFiles(tmp_path)).inverse_depth.shape == (40, 60)


def monocular(tmp_path, side=None):
    """Disparity = the red channel as it was before normalisation; sides free or fixed."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    sides = [side or "h", side or "w"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 3, 1, 1], [0.229, 0.0, 0.0])
    bias = helper.make_tensor("b", TensorProto.FLOAT, [1], [0.485])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w", "b"], ["map"]),
            helper.make_node("Squeeze", ["map", "axes"], ["disparity"]),
        ],
        "depth",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *sides])],
        [helper.make_tensor_value_info("disparity", TensorProto.FLOAT, [1, *sides])],
        [weight, bias, axes],
    )
    path = tmp_path / f"depth{side}.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("side", [None, 56])
def test_a_monocular_network_is_fed_by_the_convention(tmp_path, side):
    rgb = np.zeros((40, 60, 3), np.uint8)
    rgb[..., 0] = np.linspace(20, 220, 60)[None]
    source = depth.MonocularDepth(monocular(tmp_path, side))
    lifted = source.lift(rgb, "a.png", centred(60.0, 60, 40), RNG)
    expected = np.linspace(0, 1, 60) + depth.DISPARITY_FLOOR
    expected = np.clip(expected / np.median(expected), depth.FARTHEST, depth.NEAREST)
    assert np.abs(lifted.inverse_depth - expected[None])[:, 2:-2].max() < 0.05
    if side is None:
        assert source._size(rgb) == (518, 784)  # multiples of 14


def test_networks_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such model"):
        depth.MonocularDepth(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00\x01")
    with pytest.raises(ModelError, match="cannot load"):
        depth.MonocularDepth(tmp_path / "bad.onnx")


def test_holes_are_filled_and_nothing_else_changes():
    rgb, other = photograph(0, (60, 40)), photograph(1, (60, 40))
    hole = np.zeros((40, 60), bool)
    hole[10:14, 20:30] = True
    for fill in holes.FILLERS.values():
        filled = fill(rgb, hole, other)
        assert np.array_equal(filled[~hole], rgb[~hole])
    assert np.array_equal(holes.from_photograph(rgb, hole, other)[hole], other[hole])
    # Inpainting continues what is around: nearer to the truth than a black hole.
    smooth = cv2.GaussianBlur(rgb, (0, 0), 5)
    guess = holes.inpaint(np.where(hole[..., None], np.uint8(0), smooth), hole, other)
    assert np.abs(guess.astype(int) - smooth)[hole].mean() < 25
    large = np.ones((40, 60), bool)
    assert np.array_equal(holes.inpaint(rgb, large, other), other)


def test_a_diffusion_pipeline_paints_holes_only():
    pytest.importorskip("PIL")

    class Pipeline:
        """The call of diffusers' inpainting pipelines; paints everything red."""

        def __call__(self, *, prompt, image, mask_image):
            assert image.size == mask_image.size and all(side % 8 == 0 for side in image.size)
            image.paste((255, 0, 0), (0, 0, *image.size))
            return type("Output", (), {"images": [image]})

    rgb, hole = photograph(0, (60, 40)), np.zeros((40, 60), bool)
    hole[5:20, 5:20] = True
    filled = holes.diffusion(Pipeline())(rgb, hole, rgb)
    assert (filled[hole] == (255, 0, 0)).all() and np.array_equal(filled[~hole], rgb[~hole])


def test_diffusion_without_diffusers_is_refused_with_words():
    try:
        import diffusers  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(BackendUnavailable, match="pip install diffusers"):
            holes.load_diffusion("somewhere")


def test_pixels_survive_quantisation():
    px = np.random.default_rng(0).uniform(-60, 950, (50, 2)).astype(np.float32)
    assert np.abs(shards.pixels(shards.quantised(px)) - px).max() <= 1 / 128 + 1e-4
    assert np.isfinite(shards.pixels(shards.quantised(np.array([1e9, -1e9, np.nan])))).all()


def test_broken_shards_are_refused(tmp_path):
    (tmp_path / "shard.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InvalidInput, match="not a whole shard"):
        list(shards.read_shard(tmp_path / "shard.tar"))


def test_places_in_a_large_photograph_are_stored_whole(tmp_path):
    """Beyond 959 px there are no steps left: such a place was cut off, and called seen."""
    cv2.imwrite(str(tmp_path / "a.png"), photograph(0, (1300, 60)))
    options = LiftOptions(width=900, height=48, workers=1, homographies=1.0, relight=0.0, seed=5)
    lift_folder(tmp_path / "a.png", tmp_path / "out", options)
    (sample,) = shards.read_shard(tmp_path / "out/shard-000000.tar")
    H = np.array(sample.meta["views"][0]["photograph_from_view"])
    v, u = np.nonzero(sample.arrays["seen_0"])
    true = np.stack([u, v, np.ones_like(u)], 1) @ H.T
    stored = shards.pixels(sample.arrays["source_0"])[v, u]
    assert np.abs(true[:, :2] / true[:, 2:] - stored).max() < 0.02


def test_depth_of_another_size_is_that_of_the_pixel_in_the_middle(tmp_path):
    """Thrice as large: pixel u lies on pixel 3 u + 1."""
    large = np.tile(np.arange(300, 480, dtype=np.float32), (120, 1))
    np.save(tmp_path / "a.npy", large)
    w = lift(depth.DepthFiles(tmp_path)).inverse_depth
    found = 1.0 / w[20]
    assert found / found[0] == pytest.approx(large[0, 1::3] / large[0, 1], rel=1e-4)
