"""The Map-free benchmark: its figures by hand, its layout, a made-up folder through the command."""

import json
import zipfile

import cv2
import numpy as np
import pytest

from l2m_ros.cli import main
from l2m_ros.errors import InvalidInput
from l2m_ros.geometry import se3
from l2m_ros.geometry.camera import project
from l2m_ros.matching import catalogue, mono_depth
from l2m_ros.matching.mono_depth import MonoDepth
from l2m_ros.types import Camera, Correspondences, Features, MatchDepths, Reference
from l2m_ros.workshop.evaluation import mapfree

SIZE = (108, 144)
CAMERA = Camera(*SIZE, np.array([[118.0, 0, 54], [0, 118.0, 72], [0, 0, 1]]))


def pose(k):
    return se3.exp(np.array([0.03 * k, -0.01 * k, 0.02 * k, 0.004 * k, 0.02 * k, 0.0]))


def folder_of(tmp_path, queries=12, withheld=False, name="s00460"):
    """One scene whose images hold their own number, so that a fake matcher knows them."""
    scene = tmp_path / "val" / name
    cameras, poses = [], ["# qw qx qy qz tx ty tz", "seq0/frame_00000.jpg 1 0 0 0 0 0 0"]
    names = ["seq0/frame_00000.jpg", *(f"seq1/frame_{k:05d}.jpg" for k in range(queries))]
    for number, image in enumerate(names):
        (scene / image).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(scene / image), np.full((*SIZE[::-1], 3), 20 * number, np.uint8))
        cameras.append(f"{image} 118 118 54 72 {SIZE[0]} {SIZE[1]}")
        if number:
            T = pose(number)
            x, y, z, w = se3.quaternion(T[:3, :3])
            row = [0] * 7 if withheld else [w, x, y, z, *T[:3, 3]]
            poses.append(f"{image} {' '.join(map(str, row))}")
    (scene / "intrinsics.txt").write_text("\n".join(cameras))
    (scene / "poses.txt").write_text("\n".join(poses))
    return tmp_path


class Oracle:
    """Knows each image by its grey: right matches with depths that are `factor` too large."""

    name = "oracle"

    def __init__(self, factor=1.0, blind=()):
        self.factor, self.blind = factor, blind

    def encode(self, rgb):
        number = round(float(np.median(rgb)) / 20)
        return Features(self.name, SIZE, number)

    def reference(self, features):
        return Reference(self.name, SIZE, features.data)

    def match(self, query, reference):
        if query.data in self.blind:
            return Correspondences.empty()
        rng = np.random.default_rng(query.data)
        z = rng.uniform(2, 6, 400)
        pixels = rng.uniform(0, SIZE, (400, 2))
        X = np.c_[pixels, np.ones(400)] @ np.linalg.inv(CAMERA.K).T * z[:, None]
        T = pose(query.data)
        Y = X @ T[:3, :3].T + T[:3, 3]
        seen = project(CAMERA, Y) + rng.normal(0, 0.05, (400, 2))
        inside = ((seen > 0) & (seen < np.array(SIZE) - 1)).all(axis=1)
        depths = MatchDepths(Y[inside, 2] * self.factor, z[inside] * self.factor, 0.05, 0.02)
        return Correspondences(
            seen[inside], pixels[inside], np.ones(int(inside.sum())), depths=depths
        )


# --- figures ----------------------------------------------------------------------------------


def test_vcre_of_a_turn_by_hand():
    """A turn of 1 degree about the optical axis moves a point by its distance from the axis."""
    T = se3.exp(np.array([0, 0, 0, 0, 0, np.deg2rad(1.0)]))
    camera = Camera(1000, 1000, np.array([[300.0, 0, 500], [0, 300.0, 500], [0, 0, 1]]))
    points = mapfree.virtual_points()
    radius = np.linalg.norm(300 * points[:, :2] / points[:, 2:], axis=1)
    wanted = 2 * np.sin(np.deg2rad(0.5)) * radius.mean()
    assert mapfree.vcre_px(T, np.eye(4), camera) == pytest.approx(wanted, rel=1e-9)
    assert mapfree.vcre_px(T, T, camera) == pytest.approx(0, abs=1e-9)
    assert len(points) == 196


def test_vcre_is_clipped_to_the_image():
    away = se3.exp(np.array([1e3, 0, 0, 0, 0, 0]))
    assert mapfree.vcre_px(away, np.eye(4), CAMERA) <= SIZE[0]


def test_vcre_is_the_one_that_the_network_learns_from():
    torch = pytest.importorskip("torch")
    from l2m_ros.workshop.training.metric_losses import vcre_px

    T, truth = pose(3), pose(1)
    # The loss takes points of image 0 by the estimate to image 1, and by the truth back.
    ours = mapfree.vcre_px(se3.inverse(truth), se3.inverse(T), CAMERA)
    tensors = [
        (torch.from_numpy(p[:3, :3]).double(), torch.from_numpy(p[:3, 3]).double())
        for p in (T, truth)
    ]
    theirs = vcre_px(*tensors, torch.from_numpy(np.array(CAMERA.K)), width=108, height=144, eps=0.0)
    assert ours == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize(
    ("confidence", "good", "total", "area"),
    [
        ([3, 2, 1], [True, True, True], 3, 1.0),
        ([3, 2, 1], [True, False, True], 3, 1 / 3 + 1 / 3 * 1 / 2 + 1 / 3 * 2 / 3),
        ([3, 2, 1], [True, True, True], 6, 0.5),  # half of the queries have no pose
        ([1, 1, 1, 1], [True, False, True, False], 4, 0.5),  # ties count at once
        ([], [], 4, 0.0),
    ],
)
def test_area_under_precision_and_recall(confidence, good, total, area):
    assert mapfree.average_precision(confidence, good, total) == pytest.approx(area)


def result(errors, failures=0):
    rows = [mapfree.QueryError(*row) for row in errors]
    return mapfree.SceneResult("s", rows, failures)


def test_figures_by_hand():
    first = result([(0.1, 1, 20, 9), (0.2, 6, 80, 8), (3.0, 50, 300, 1)], failures=1)
    second = result([(0.3, 2, 50, 7)])
    found = mapfree.figures([first, second])
    assert found["queries"] == 5
    assert found["estimated_percent"] == 80
    assert found["median_translation_m"] == pytest.approx((0.2 + 0.3) / 2)
    assert found["median_vcre_px"] == pytest.approx(65)
    assert found["precision_pose_percent"] == 20
    assert found["precision_vcre_percent"] == 60
    assert found["auc_vcre"] == pytest.approx((1 + 1 + 1 + 3 / 4) / 5)
    assert mapfree.figures([result([], 3)])["median_rotation_deg"] is None
    with pytest.raises(InvalidInput, match="nothing to score"):
        mapfree.figures([result([])])


# --- folders ----------------------------------------------------------------------------------


def test_every_fifth_query_counts(tmp_path):
    scene = mapfree.find_scenes(folder_of(tmp_path))[0]
    assert [query.name[-9:-4] for query in scene.queries] == ["00000", "00005", "00010"]
    assert np.allclose(scene.queries[1].camera_from_reference, pose(6), atol=1e-9)
    assert scene.queries[1].camera.size == SIZE


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("poses.txt", "seq1/frame_00000.jpg 1 0 0", "line 1: expected a name and 7 numbers"),
        ("poses.txt", "seq1/frame_00000.jpg 1 0 0 0 0 0 x", "line 1"),
        ("poses.txt", "", "names no query"),
        ("intrinsics.txt", "seq1/frame_00000.jpg 1 1 1 1 9 9", "no line for seq0"),
        ("intrinsics.txt", "seq0/frame_00000.jpg 0 0 1 1 9 9", "focal length"),
    ],
)
def test_files_that_are_none(tmp_path, file, text, words):
    (folder_of(tmp_path) / "val/s00460" / file).write_text(text)
    with pytest.raises(InvalidInput, match=words):
        mapfree.find_scenes(tmp_path)


def test_a_missing_image_is_told_before_the_work(tmp_path):
    (folder_of(tmp_path) / "val/s00460/seq1/frame_00001.jpg").unlink()  # is not asked for
    mapfree.find_scenes(tmp_path)
    (tmp_path / "val/s00460/seq1/frame_00005.jpg").unlink()
    with pytest.raises(InvalidInput, match=r"frame_00005.jpg, which poses.txt asks for, is not"):
        mapfree.find_scenes(tmp_path)


def test_a_folder_without_scenes(tmp_path):
    with pytest.raises(InvalidInput, match=r"no SCENE/intrinsics.txt"):
        mapfree.find_scenes(tmp_path)


@pytest.fixture
def oracles(monkeypatch):
    made = {"right": Oracle(), "tall": Oracle(1.3), "blind": Oracle(blind={6})}
    for name, matcher in made.items():
        monkeypatch.setitem(catalogue.MATCHERS, name, lambda *_, m=matcher: m)


def test_the_command_over_a_made_up_folder(tmp_path, capsys, oracles):
    folder = folder_of(tmp_path)
    command = ["evaluate", "--map-free", str(folder), "--matcher", "right,tall,blind", "--json"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    right, tall, blind = (found[name] for name in ("right", "tall", "blind"))
    assert right["queries"] == 3
    assert right["median_translation_m"] < 0.02
    assert right["auc_pose"] == right["auc_vcre"] == pytest.approx(1.0)
    assert tall["median_translation_m"] == pytest.approx(
        0.3 * np.linalg.norm(pose(6)[:3, 3]), rel=0.3
    )
    assert blind["estimated_percent"] == pytest.approx(200 / 3)
    assert blind["auc_pose"] == pytest.approx(2 / 3)


class Flat:
    """Reads 3 m everywhere."""

    def read(self, rgb, camera, features):
        assert features.data == 0  # of the reference, computed once
        depth = np.full(rgb.shape[:2], 3.0, np.float32)
        return MonoDepth(depth, 0.05, place_sigma=0.1, image_sigma=0.05)


def test_metres_may_be_read_off_the_reference(tmp_path, monkeypatch, capsys):
    class Bare(Oracle):
        def match(self, query, reference):
            rng = np.random.default_rng(query.data)
            pixels = rng.uniform(0, SIZE, (400, 2))
            X = np.c_[pixels, np.ones(400)] @ np.linalg.inv(CAMERA.K).T * 3.0
            T = pose(query.data)
            seen = project(CAMERA, X @ T[:3, :3].T + T[:3, 3]) + rng.normal(0, 0.05, (400, 2))
            inside = ((seen > 0) & (seen < np.array(SIZE) - 1)).all(axis=1)
            return Correspondences(seen[inside], pixels[inside], np.ones(int(inside.sum())))

    monkeypatch.setitem(catalogue.MATCHERS, "bare", lambda *_: Bare())
    readers = {"": None, "flat": Flat()}
    monkeypatch.setattr(mono_depth, "load_depth_reader", lambda name, *_, **__: readers[name])
    command = ["evaluate", "--map-free", str(folder_of(tmp_path)), "--matcher", "bare", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["bare"]["estimated_percent"] == 0
    assert main([*command, "--mono-depth", "flat"]) == 0
    found = json.loads(capsys.readouterr().out)["bare"]
    assert found["estimated_percent"] > 66  # the nearest query may be too near
    assert found["median_translation_m"] < 0.02


def test_options_of_the_benchmark_alone(tmp_path, capsys):
    (tmp_path / "scenes").mkdir()
    for option in (["--mono-depth", "lite_depth"], ["--submission", str(tmp_path / "a.zip")]):
        assert main(["evaluate", str(tmp_path / "scenes"), *option]) == 2
        assert f"{option[0]} is for --map-free" in capsys.readouterr().err


def test_a_submission_of_withheld_poses(tmp_path, capsys, oracles):
    folder = folder_of(tmp_path, withheld=True)
    out = tmp_path / "submission.zip"
    command = ["evaluate", "--map-free", str(folder), "--matcher", "right"]
    assert main([*command, "--submission", str(out)]) == 2
    assert "test poses are withheld" in capsys.readouterr().err
    with zipfile.ZipFile(out) as file:
        lines = file.read("pose_s00460.txt").decode().splitlines()
    assert [line.split()[0][-9:-4] for line in lines] == ["00000", "00005", "00010"]
    name, *numbers = lines[1].split()
    assert name == "seq1/frame_00005.jpg"
    assert len(numbers) == 8
    assert np.allclose([float(v) for v in numbers[4:7]], pose(6)[:3, 3], atol=0.03)
    assert main([*command, "--matcher", "tall", "--submission", str(tmp_path / "tall.zip")]) == 2
    assert "one matcher" in capsys.readouterr().err
