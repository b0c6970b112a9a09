"""The comparison with golden data: weights by name, and that nothing slips through."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput
from l2m_ros.matching.preprocess import resize
from l2m_ros.networks import registry
from l2m_ros.networks.l2m.network import TINY, build_l2m
from l2m_ros.networks.shared.named_weights import failed_checks, fill, named_tensor
from l2m_ros.workshop.parity import l2m as parity_l2m
from l2m_ros.workshop.parity import tinyroma as parity_tinyroma
from l2m_ros.workshop.parity.golden import Answer, Report
from l2m_ros.workshop.parity.run import run_parity

SHARED = Path(__file__).parents[2] / "shared/reference"
SIZES = {"coarse": [28, 42], "upsample": [40, 56]}
# Of the published drawing: first value and sha256 of the bytes.
DRAWS = [
    (
        "encoder.cnn.layers.0.weight", (64, 3, 3, 3),
        "195f2ae8fbc8f99adc0c2ef2588ef6c25d409af40c18a34a12da303dcfeb0933",
    ),
    (
        "encoder.cnn.layers.1.running_var", (64,),
        "4f5807e45b482ff38fa4040ad0d7260feadea8f01eb6cfb011dd1339211c0a85",
    ),
]  # fmt: skip


def nearest(rgb, width, height):
    rows = np.arange(height) * rgb.shape[0] // height
    columns = np.arange(width) * rgb.shape[1] // width
    return rgb[rows][:, columns]


# --- weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape", "digest"), DRAWS)
def test_draws_are_the_published_ones_to_the_bit(name, shape, digest):
    assert hashlib.sha256(named_tensor(name, shape).tobytes()).hexdigest() == digest


def test_the_prefix_changes_the_draw_but_not_the_rules():
    name = "decoder.embedding_decoder.to_out.bias"
    plain, other = named_tensor(name, (50,)), named_tensor(name, (50,), "x/")
    assert not np.allclose(plain[:-1], other[:-1])
    assert abs(plain[-1] + 1.8) < 0.1
    assert abs(other[-1] + 1.8) < 0.1
    kernel = named_tensor("decoder.proj.8.0.weight", (200, 64, 1, 1), "x/")
    assert kernel.std() == pytest.approx(0.8 / 8, rel=0.02)
    assert np.abs(kernel.mean(axis=(1, 2, 3))).max() < 1e-6
    assert named_tensor("a.num_batches_tracked", ()).dtype == np.int64
    with pytest.raises(InvalidInput, match="no rule"):
        named_tensor("temperature", ())


def test_spot_checks_name_what_differs(tmp_path):
    entry = {"draw_name": DRAWS[0][0], "shape": DRAWS[0][1], "sha256": DRAWS[0][2]}
    wrong = {**entry, "sha256": "0" * 64}
    file = tmp_path / "checks.json"
    file.write_text(json.dumps([entry, wrong]))
    assert failed_checks(file) == [DRAWS[0][0]]


# --- comparison -------------------------------------------------------------------------------


def compared(golden, value, tolerance=1e-3, **more):
    report = Report("test")
    report.add("f.npz", golden, {"a": Answer(value, tolerance, **more)})
    return report


def test_every_kth_entry_is_found_and_checked():
    value = np.random.default_rng(0).normal(size=(2, 64, 13, 14))
    golden = {"a": value[:, ::16, ::3, ::5]}
    assert compared(golden, value).rows[0].absolute == 0
    golden["a"] = golden["a"].copy()
    golden["a"][1, 2, 3, 1] += 2e-3
    report = compared(golden, value)
    assert report.rows[0].absolute == pytest.approx(2e-3)
    assert not report.passed


def test_shape_statistics_and_channel_means_belong_to_the_whole():
    value = np.random.default_rng(0).normal(size=(1, 8, 5, 6))
    stats = [value.mean(), value.std(), np.abs(value).sum(), value.min(), value.max()]
    golden = {
        "a/shape": np.array(value.shape),
        "a/stats": np.array(stats),
        "a/chmean": value.mean(axis=(2, 3)),
    }
    assert compared(golden, value).passed
    for key in golden:
        spoilt = {**golden, key: golden[key] * 1.01 + 1}
        assert [row.key for row in compared(spoilt, value).misses] == [key]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_undefined_numbers_are_misses(bad):
    value = np.zeros((3, 3))
    golden = value.copy()
    golden[1, 1] = bad
    assert not compared({"a": golden}, value).passed
    assert not compared({"a": value}, golden).passed


def test_another_shape_is_a_miss_and_unknown_keys_are_reported():
    report = compared({"a": np.zeros((4, 5)), "b": np.zeros(3)}, np.zeros((3, 5)))
    assert [row.key for row in report.misses] == ["a"]
    assert report.unknown == ["f.npz: b"]
    assert not compared({"a": np.zeros(3), "b": np.zeros(3)}, np.zeros(3)).passed
    assert "not compared: f.npz: b" in report.table()


def test_either_side_of_a_border_counts():
    value, other = np.array([0.0, 0.5]), np.array([0.9, 0.5])
    assert compared({"a": np.array([0.9, 0.5])}, value, otherwise=other).passed
    assert not compared({"a": np.array([0.9, 0.6])}, value, otherwise=other).passed


def test_nothing_compared_is_no_pass():
    assert not Report("test").passed


# --- whole folders ----------------------------------------------------------------------------


def l2m_folder(tmp_path, prefix):
    """A folder of the published layout whose numbers are this package's own."""
    rng = np.random.default_rng(3)
    images = {f"img_{i}": rng.integers(0, 256, (50, 60, 3), dtype=np.uint8) for i in "AB"}
    network = fill(build_l2m(**TINY), prefix)
    asked = {"sym/match_up_att_normalize/warp": np.zeros(0)}
    sizes = (tuple(SIZES["coarse"]), tuple(SIZES["upsample"]))
    answers = parity_l2m.case_answers(network, {**images, **asked}, sizes, nearest)
    golden = {key: answer.value for key, answer in answers.items()}
    golden["nonsym/feat4"] = golden["nonsym/feat4"][:, ::4, ::5, ::5]
    np.savez(tmp_path / "pair.npz", **images, **golden)
    table = {"weights_prefix": prefix, "l2m": {"files": ["pair.npz"], "sizes": {"pair.npz": SIZES}}}
    (tmp_path / "cases.json").write_text(json.dumps(table))
    return golden


def run_l2m(tmp_path, monkeypatch):
    monkeypatch.setitem(registry.ARCHITECTURES, "l2m", lambda: build_l2m(**TINY))
    return run_parity(tmp_path, "l2m", nearest)


def test_a_folder_with_its_own_prefix_and_sizes(tmp_path, monkeypatch):
    golden = l2m_folder(tmp_path, "other/")
    report = run_l2m(tmp_path, monkeypatch)
    assert report.passed, report.table()
    assert len(report.rows) == len(golden) > 200
    for name in ("nonsym/refin1#2", "sym/proj8#2", "sym/cls_top3_idx", "gap_min", "nonsym/dec1"):
        assert name in golden
    assert golden["sym/match_up_att/warp"].shape == (40, 112, 4)


def test_one_wrong_number_fails(tmp_path, monkeypatch):
    golden = l2m_folder(tmp_path, "other/")
    path = tmp_path / "pair.npz"
    content = dict(np.load(path))
    content["sym/flow4#2"][1, 0, 2, 3] += 1e-4
    np.savez(path, **content)
    report = run_l2m(tmp_path, monkeypatch)
    assert [row.key for row in report.misses] == ["sym/flow4#2"]
    assert len(report.rows) == len(golden)


def test_the_draw_of_another_prefix_fails(tmp_path, monkeypatch):
    l2m_folder(tmp_path, "other/")
    cases = json.loads((tmp_path / "cases.json").read_text())
    (tmp_path / "cases.json").write_text(json.dumps({**cases, "weights_prefix": "else/"}))
    report = run_l2m(tmp_path, monkeypatch)
    assert len(report.misses) > 150


def test_tinyroma_prints_a_table_and_json(tmp_path, capsys):
    rng = np.random.default_rng(4)
    golden = {f"same/img_{i}_u8": rng.integers(0, 256, (64, 70, 3), dtype=np.uint8) for i in "AB"}
    network = fill(registry.build("tinyroma"), "p")
    images = [parity_tinyroma._image(golden[f"same/img_{i}_u8"]) for i in "AB"]
    tensors = parity_tinyroma._case(network, *images, exact=False)
    golden["same/flow4"] = tensors["flow4"].numpy()
    golden["same/corr"] = tensors["corr"].numpy()[:, ::5, ::5, ::3, ::3]
    np.savez(tmp_path / "t.npz", **golden)
    table = {"weights_prefix": "p", "tinyroma": {"files": ["t.npz"]}}
    (tmp_path / "cases.json").write_text(json.dumps(table))
    assert main(["parity", str(tmp_path), "--model", "tinyroma"]) == 0
    assert "2 of 2 golden tensors within tolerance" in capsys.readouterr().out
    assert main(["parity", str(tmp_path), "--model", "tinyroma", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compared"] == 2
    golden["same/extra"] = np.zeros(3)
    np.savez(tmp_path / "t.npz", **golden)
    assert main(["parity", str(tmp_path), "--model", "tinyroma"]) == 1


def test_folders_that_are_none(tmp_path, capsys):
    assert main(["parity", str(tmp_path)]) == 2
    assert "no cases.json" in capsys.readouterr().err
    (tmp_path / "cases.json").write_text('{"tinyroma": {"files": ["gone.npz"]}}')
    assert main(["parity", str(tmp_path), "--model", "l2m"]) == 2
    assert "names no files for l2m" in capsys.readouterr().err
    assert main(["parity", str(tmp_path), "--model", "tinyroma"]) == 2
    assert "gone.npz" in capsys.readouterr().err
    (tmp_path / "gone.npz").write_bytes(b"PK no")
    assert main(["parity", str(tmp_path), "--model", "tinyroma"]) == 2
    assert "not a whole .npz" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference's golden data are not here")
@pytest.mark.parametrize("model", ["l2m", "tinyroma", "mickey"])
def test_the_reference_number_for_number(model):
    assert main(["parity", str(SHARED), "--model", model]) == 0


# --- the reference's numbers that lie in this repository -----------------------------------------


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("tinyroma", 40),
        pytest.param("mickey", 170, marks=pytest.mark.slow),
        pytest.param("l2m", 250, marks=pytest.mark.slow),
    ],
)
def test_the_repository_holds_numbers_to_compare_with(model, least):
    report = run_parity(
        Path(__file__).parent / "data/golden", model, lambda *a: resize(*a, "bicubic")
    )
    assert report.passed, report.table()
    assert len(report.rows) >= least
