"""l2m match, bench, export and engine as a person types them."""

import json
import struct

import cv2
import numpy as np
import pytest
from fakes.exported import exported_toy
from fakes.toy_network import ramp

from l2m_ros import cli
from l2m_ros.commands.match import _pose_words
from l2m_ros.commands.options import numbers, size_of
from l2m_ros.engines.tensorrt.engine_cache import EngineCache, EngineKey
from l2m_ros.image_header import focal_in_widths
from l2m_ros.images import read_depth, read_rgb, write_rgb
from l2m_ros.types import Correspondences


def l2m(capsys, *words):
    capsys.readouterr()  # what a fixture said
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def toy():
    return exported_toy("fp32").folder


@pytest.fixture
def pair(tmp_path):
    """The ramp's window at (6, 0), and the window at the origin."""
    write_rgb(tmp_path / "a.png", ramp(192, 128, x=6))
    write_rgb(tmp_path / "b.png", ramp(192, 128))
    return tmp_path / "a.png", tmp_path / "b.png"


def test_match_prints_and_draws(capsys, toy, pair, tmp_path):
    out = tmp_path / "out"
    code, text, err = l2m(capsys, "match", *pair, "--model", toy, "--out", out)
    assert code == 0 and "matches" in text and ("b_from_a" in text or "no pose" in text)
    assert "runs by onnxruntime on cpu" in err or "cuda" in err
    assert read_rgb(out / "matches.png").shape[2] == 3
    warped = read_rgb(out / "warped.png")
    a = read_rgb(pair[0])
    assert warped.shape == a.shape
    inside = (slice(30, -30), slice(30, -30))
    assert np.abs(warped[inside].astype(int) - a[inside]).mean() < 12  # B lies on A


def test_match_gives_the_pairs_that_their_pixels_confirm(capsys, toy, pair, tmp_path, monkeypatch):
    def confirmed(pairs, *_):
        return pairs, np.arange(len(pairs)) < 40

    monkeypatch.setattr("l2m_ros.matching.pairs.refined", confirmed)
    words = ("match", *pair, "--model", toy, "--json", "--out", tmp_path / "out")
    found = json.loads(l2m(capsys, *words, "--second-look", "never")[1])
    assert found["matches"] == 40


@pytest.mark.parametrize(
    ("wrong", "certainty", "doubt"),
    [(40, 0.9, ""), (130, 0.9, "fewer than half"), (40, 0.2, "do both pictures show the same")],
)
def test_a_pose_of_few_or_uncertain_matches_is_doubtful(
    capsys, toy, pair, tmp_path, monkeypatch, wrong, certainty, doubt
):
    rng = np.random.default_rng(0)
    for path in pair:  # matches without texture are not asked
        write_rgb(path, rng.integers(0, 255, (128, 192, 3), np.uint8))
    points = rng.uniform([-2, -1.2, 3], [2, 1.2, 7], (200, 3))

    def seen(shift):
        moved = points + shift
        return moved[:, :2] / moved[:, 2:] * 150.0 + [95.5, 63.5]

    here, there = seen([0, 0, 0]), seen([0.5, 0.1, 0.2])
    there[:wrong] = rng.uniform(0, [192, 128], (wrong, 2))
    pairs = Correspondences(here, there, np.full(200, certainty))
    monkeypatch.setattr("l2m_ros.matching.pairs.pairs_of", lambda *_: pairs)
    words = ("match", *pair, "--model", toy, "--second-look", "never", "--out", tmp_path / "out")
    words = (*words, "--camera", "150,150,95.5,63.5")
    found = json.loads(l2m(capsys, *words, "--json")[1])["pose"]
    assert found.get("doubtful") is bool(doubt), found
    out = l2m(capsys, *words)[1]
    assert doubt in out and ("do not trust this pose" in out) == bool(doubt)


def test_a_second_look_takes_no_more_than_the_limit(capsys, toy, pair, tmp_path):
    words = ("match", *pair, "--model", toy, "--limit", "300", "--json", "--out", tmp_path / "out")
    once = json.loads(l2m(capsys, *words, "--second-look", "never")[1])
    code, out, _ = l2m(capsys, *words, "--second-look")
    twice = json.loads(out)
    assert code == 0 and 0 < twice["matches"] <= 300
    assert twice["certain_share"] == once["certain_share"]  # of the first look


@pytest.mark.parametrize(
    ("words", "when"),
    [
        (("A", "B"), "auto"),
        (("A", "B", "--second-look"), "always"),
        (("--second-look", "A", "B"), "always"),  # as scripts of before have it
        (("--second-look", "auto", "A", "B"), "auto"),
        (("--second-look=always", "A", "B"), "always"),
        (("--second-look", "--limit", "300", "A", "B"), "always"),
        (("A", "B", "--second-look", "never"), None),
    ],
)
def test_when_match_looks_twice(capsys, toy, pair, tmp_path, monkeypatch, words, when):
    asked = []
    monkeypatch.setattr(
        "l2m_ros.matching.second_look.second_look",
        lambda *args, when, **options: asked.append(when) or Correspondences.empty(),
    )
    words = [{"A": pair[0], "B": pair[1]}.get(word, word) for word in words]
    l2m(capsys, "match", *words, "--model", toy, "--out", tmp_path / "out")
    assert asked == ([] if when is None else [when])


@pytest.fixture
def wall(tmp_path):
    """A textured wall's window at (6, 0), and the window at the origin."""
    noise = np.random.default_rng(1).integers(0, 256, (128, 198, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    write_rgb(tmp_path / "wall_a.png", np.ascontiguousarray(texture[:, 6:]))
    write_rgb(tmp_path / "wall_b.png", np.ascontiguousarray(texture[:, :192]))
    return tmp_path / "wall_a.png", tmp_path / "wall_b.png"


def test_pose_with_depth_is_metric(capsys, wall, tmp_path):
    """A rough wall at 2 m, 6 px of shift at f = 200: the camera moved 6 cm to the right."""
    relief_mm = np.random.default_rng(0).integers(-15, 16, (128, 192))
    cv2.imwrite(str(tmp_path / "d.png"), (2000 + relief_mm).astype(np.uint16))
    code, text, _ = l2m(
        capsys, "match", *wall, "--model", "sift", "--camera", "200,200,95.5,63.5",
        "--depth-b", tmp_path / "d.png", "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    pose = json.loads(text)["pose"]
    assert code == 0 and pose["metric"] and pose["scale_source"] == "depth"
    assert abs(pose["translation"][0] - 0.06) < 0.04 and pose["rotation_deg"] < 2


def test_sparse_matchers_have_no_warp(capsys, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    image = cv2.resize(noise, (400, 320), interpolation=cv2.INTER_CUBIC)
    write_rgb(tmp_path / "a.png", image)
    code, text, _ = l2m(
        capsys, "match", tmp_path / "a.png", tmp_path / "a.png", "--model", "orb",
        "--out", tmp_path / "o", "--json",
    )  # fmt: skip
    report = json.loads(text)
    assert code == 0 and report["matches"] > 50 and "certain_share" not in report
    assert len(report["pictures"]) == 1


def bad_files(tmp_path):
    good = ramp(64, 48)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    write_rgb(tmp_path / "good.png", good)
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 3])
    cv2.imwrite(str(tmp_path / "deep.png"), good.astype(np.uint16) * 200)
    return {
        "empty.png": "is empty",
        "text.png": "not a PNG",
        "deep.png": "8 bit",
        "missing.png": "No such file",
    }


def test_bad_pictures_are_one_line(capsys, toy, tmp_path):
    for name, words in bad_files(tmp_path).items():
        code, _, err = l2m(capsys, "match", tmp_path / name, tmp_path / "good.png", "--model", toy)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1, name


def test_grey_and_alpha_pictures_are_read(tmp_path):
    colour = ramp(64, 48)
    bgra = np.dstack([colour[..., ::-1], np.full((48, 64), 7, np.uint8)])
    cv2.imwrite(str(tmp_path / "alpha.png"), bgra)
    cv2.imwrite(str(tmp_path / "grey.png"), colour[..., 0])
    assert np.array_equal(read_rgb(tmp_path / "alpha.png"), colour)
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.dstack([colour[..., 0]] * 3))


def test_depth_files(tmp_path):
    values = np.array([[0, 1500], [65535, 1]], np.uint16)
    cv2.imwrite(str(tmp_path / "d.png"), values)
    depth = read_depth(tmp_path / "d.png", 0.001)
    assert np.isnan(depth[0, 0]) and np.allclose(depth[0, 1], 1.5)
    np.save(tmp_path / "d.npy", np.array([[1.0, -2.0, np.inf]]))
    assert np.isfinite(read_depth(tmp_path / "d.npy", 1.0)).tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--camera", "1,2,3"), "holds 3 numbers, not 4"),
        (("--camera", "a,b,c,d"), "could not convert"),
        (("--camera", "-1,2,3,4"), "begins with '-' is written --camera=-..."),
        (("--depth-a", "d.png"), "--camera fx,fy,cx,cy"),
        (("--camera", "200,200,0,0", "--depth-b", "{good}"), "16-bit grey PNG"),
        (("--like-reference",), "--like-reference is for l2m"),
        (("--like-reference", "--second-look"), "--second-look is not part of"),
        (("--second-look", "alwys"), "unrecognized arguments: alwys"),
        (("--size", "640"), "write WxH"),
        (("--limit", "0"), "--limit is 0"),
        (("--backend", "tensorflow"), "invalid choice"),
        (("--model", "l2n"), "did you mean l2m"),
    ],
)
def test_bad_options_are_one_line(capsys, toy, pair, words, expected):
    words = [word.replace("{good}", str(pair[0])) for word in words]
    code, _, err = l2m(capsys, "match", *pair, "--model", toy, *words)
    assert code == 2 and expected in err and len(err.strip().splitlines()) == 1


def test_without_parallax_no_direction_is_said():
    """A camera that hardly moved: "translation 0.0000 0.0000 0.0000 (direction only)"."""
    pose = {"metric": False, "rotation_deg": 1.0, "inliers": 9, "b_from_a": np.eye(4).tolist()}
    still, moved = ({**pose, "translation": t} for t in ([0.0, 0.0, 0.0], [0.0, 0.0, 1.0]))
    assert "no parallax, so no direction" in _pose_words(still)[0]
    assert "0.0000 0.0000 1.0000 (direction only" in _pose_words(moved)[0]


def test_sizes_are_read_in_the_order_of_the_verb():
    assert size_of("WxH")("640x480") == (640, 480)
    assert size_of("HxW")("640x480") == (480, 640)
    assert numbers(2)("1,2.5") == [1.0, 2.5]


def test_bench_tells_stages(capsys, toy):
    code, text, _ = l2m(
        capsys, "bench", "--model", toy, "--backend", "onnxruntime", "--size", "96x64",
        "--runs", 3, "--json",
    )  # fmt: skip
    report = json.loads(text)
    assert code == 0
    assert [row["stage"] for row in report["stages"]] == ["encode", "reference", "match"]
    assert all(row["median_ms"] > 0 and row["runs"] == 3 for row in report["stages"])
    assert report["peak_memory_mib"] > 10 and (report["width"], report["height"]) == (96, 64)
    frame = sum(row["median_ms"] for row in report["stages"] if row["stage"] != "reference")
    assert abs(report["frame_ms"] - frame) < 0.01


def test_bench_of_several_goes_on_after_one_that_cannot(capsys):
    code, text, _ = l2m(
        capsys, "bench", "--model", "dis", "--model", "no_such", "--size", "96x64", "--runs", 1
    )
    assert code == 1
    assert "dis" in text and "unknown matcher 'no_such'" in text


def test_export_checks_what_was_written(capsys, toy):
    code, text, _ = l2m(capsys, "export", toy, "--check", "--json")
    report = json.loads(text)
    assert code == 0 and report["problems"] == []
    assert set(report["files"]) == {"encoder", "reference", "decoder"}
    code, text, _ = l2m(capsys, "export", toy, "--check")
    assert "every operator, type and rank" in text


def test_export_by_another_table_finds_what_it_lacks(capsys, toy, tmp_path):
    table = {"operators": {"Relu": {"supported": True, "types": ["FP32"], "restrictions": ""}}}
    (tmp_path / "ops.json").write_text(json.dumps(table))
    code, text, _ = l2m(capsys, "export", toy, "--check", "--ops", tmp_path / "ops.json")
    assert code == 1 and "not for TensorRT" in text and "no such operator" in text


def test_engine_info_lists_and_names_the_damaged(capsys, tmp_path):
    key = EngineKey(
        "toy", "match", "0" * 64, "fp16", 96, 64, "10.3.0", "Orin", "8.7", "12.6", "12.6", 2048, 3
    )
    path = EngineCache(tmp_path).put(key, b"engine")
    (tmp_path / "cut.engine").write_bytes(path.read_bytes()[:-2])
    code, text, _ = l2m(capsys, "engine", "info", "--cache-dir", tmp_path, "--json")
    engines = json.loads(text)["engines"]
    assert code == 0 and len(engines) == 2
    assert "checksum differs" in engines[0]["damaged"] and engines[1]["gpu"] == "Orin"
    code, _, err = l2m(capsys, "engine", "info", tmp_path / "cut.engine")
    assert code == 2 and len(err.strip().splitlines()) == 1


def test_like_reference_is_the_published_schedule(capsys, pair, tmp_path):
    """Thin L2M: the command gives the matches that match() and sample() of the schedule give."""
    import torch
    from safetensors.torch import save_file

    from l2m_ros.engines.model_card import InputSpec, ModelCard, ModelFile, write_card
    from l2m_ros.matching.preprocess import bicubic_like_pil
    from l2m_ros.networks.l2m import network as architecture
    from l2m_ros.networks.registry import build
    from l2m_ros.networks.shared.named_weights import fill
    from l2m_ros.workshop.parity.published_sampling import sample_matches
    from l2m_ros.workshop.parity.published_schedule import MatchOptions, match_images

    network = fill(build("l2m", **architecture.TINY))
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    card = ModelCard(
        name="thin", architecture="l2m", input=InputSpec(112, 112, 14), config=architecture.TINY,
        files={"weights": ModelFile("w.safetensors")},
    )  # fmt: skip
    write_card(card, tmp_path / "card.yaml")
    images = [read_rgb(path) for path in pair]
    for symmetric, extra in ((True, ()), (False, ("--one-direction",))):
        code, text, _ = l2m(
            capsys, "match", *pair, "--model", tmp_path, "--like-reference", "--size", "56x42",
            "--fine-size", "64x48", "--seed", 3, "--out", tmp_path / "o", "--json", *extra,
        )  # fmt: skip
        options = MatchOptions(coarse=(42, 56), fine=(48, 64), symmetric=symmetric)
        warp, certainty = match_images(network, *images, options, bicubic_like_pil)
        drawn, _ = sample_matches(warp, certainty, generator=torch.Generator().manual_seed(3))
        report = json.loads(text)
        assert code == 0 and report["matches"] == len(drawn) > 100
        first = certainty[:, :64]
        assert abs(report["certain_share"] - float((first > 0.5).float().mean())) < 1e-4


def test_both_directions_are_split_where_they_join():
    from l2m_ros.commands.match import _from_normalised

    x = (np.arange(8) * 2 + 1) / 8 - 1
    y = (np.arange(4) * 2 + 1) / 4 - 1
    grid = np.dstack(np.meshgrid(x, y)).astype(np.float32)
    for halves in (1, 2):
        warp = np.concatenate([np.dstack([grid, grid * 0.5])] * halves, axis=1)
        drawn = np.float32([[-1, -1, 1, 1]])
        dense, pairs = _from_normalised(
            warp, np.ones(warp.shape[:2], np.float32), drawn, np.ones(1), (80, 40), (160, 80)
        )
        assert dense.certainty.shape == (4, 8)
        assert np.allclose(pairs.query_px, [[-0.5, -0.5]])
        assert np.allclose(pairs.keyframe_px, [[159.5, 79.5]])
        assert np.allclose(dense.warp_px[0, 0], (grid[0, 0] * 0.5 + 1) / 2 * [160, 80] - 0.5)


def with_exif(jpeg: bytes, focal_35mm: int) -> bytes:
    """A JPEG with FocalLengthIn35mmFilm, big-endian as phones write it."""
    exif = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, 0x8769, 4, 1, 26, 0)
    exif += struct.pack(">HHHIHHI", 1, 0xA405, 3, 1, focal_35mm, 0, 0)
    body = b"Exif\0\0" + exif
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def test_the_focal_length_comes_from_exif_or_is_assumed_and_said(pair, toy, capsys, tmp_path):
    jpeg = cv2.imencode(".jpg", ramp(64, 48))[1].tobytes()
    assert focal_in_widths(jpeg) is None
    assert abs(focal_in_widths(with_exif(jpeg, 27)) - 0.75) < 1e-9
    for cut in range(0, 120, 3):
        focal_in_widths(with_exif(jpeg, 27)[:cut])
    (tmp_path / "phone.jpg").write_bytes(with_exif(jpeg, 27))
    out = tmp_path / "m.jpg"
    words = ["match", tmp_path / "phone.jpg", pair[1], "--model", toy, "--out", out]
    code, _, err = l2m(capsys, *words)
    assert code in (0, 1) and "focal length 48 px, by its EXIF" in err and "assumed" in err
    assert out.is_file() and read_rgb(out).shape[2] == 3
