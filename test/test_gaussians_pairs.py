"""Exactness of splat pairs: against the world's closed form, the cameras, and each other."""

import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
from l2m_ros.workshop.gaussians.initial import gaussians_on, points_from_depth, thinned
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.pairs import SplatPairOptions, SplatPairs, write_pairs
from l2m_ros.workshop.gaussians.ply import write_ply
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.views import SceneViews
from l2m_ros.workshop.lifting.camera_effects import EffectOptions
from l2m_ros.workshop.lifting.shards import pixels, read_shard
from l2m_ros.workshop.training.data import collate
from l2m_ros.workshop.training.stored_pairs import MixedPairs, StoredPairs, pair_of_sample

SIZE = (80, 60)
K = np.array([[60.0, 0, 39.5], [0, 60.0, 29.5], [0, 0, 1]])
OPTIONS = SplatPairOptions(views=6, width=80, height=60, pairs_per_shard=2)


def world_depth(view):
    """(H, W) exact depth of the wall z = 3 and the square |x|, |y| < 0.6 at z = 2."""
    width, height = view.size
    v, u = np.mgrid[:height, :width]
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(view.camera.K).T
    pose = view.world_from_camera
    world = rays @ pose[:3, :3].T
    with np.errstate(divide="ignore"):
        wall, front = ((z - pose[2, 3]) / world[..., 2] for z in (3.0, 2.0))
    hit = (np.abs((pose[:3, 3] + world * front[..., None])[..., :2]) < 0.6).all(-1) & (front > 0)
    depth = np.where(hit, front, wall)
    return depth, pose[:3, 3] + world * depth[..., None]


def input_views():
    views = {}
    for i in range(9):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", 8 * (4 - i), degrees=True).as_matrix()
        pose[:3, 3] = 0.35 * (i - 4), 0.3 * ((i % 3) - 1), -0.3
        views[f"{i}"] = PosedCamera(Camera(*SIZE, K), np.linalg.inv(pose))
    return views


@pytest.fixture(scope="module")
def scene():
    captures = []
    for name, view in input_views().items():
        depth, points = world_depth(view)
        rgb = ((np.sin(points * 4) * 0.4 + 0.5) * 255).astype(np.uint8)
        captures.append(Capture(name, rgb, view, depth))
    gaussians = gaussians_on(thinned(points_from_depth(captures, 3000), 3000), 0)
    return SceneViews(gaussians, input_views(), CpuRasterizer(1))


def write_scene(path, scene):
    """As `l2m splat build` leaves it, as far as pairs and alignment read it."""
    cameras = {
        name: {
            "width": SIZE[0], "height": SIZE[1], "K": K.tolist(),
            "world_from_camera": view.world_from_camera.tolist(),
        }
        for name, view in zip(scene.names, scene.inputs, strict=True)
    }  # fmt: skip
    write_ply(path, scene.gaussians)
    record = {"source": ".", "longest_px": 80, "views": 9, "metric": True, "held_out": []}
    path.with_suffix(".json").write_text(json.dumps({**record, "cameras": cameras}))
    return path


@pytest.fixture(scope="module")
def made(scene):
    return [scene.pair(np.random.default_rng(i), *SIZE, 1.0) for i in range(8)]


def test_labels_are_those_of_the_world(made):
    """Exact on planes; within the reach of a Gaussian (1.2 px here) of an edge two mix."""
    errors, hidden = [], []
    for pair in made:
        a, b = (v.view for v in pair.views)
        _, points = world_depth(a)
        depth_b, _ = world_depth(b)
        in_b = points @ b.camera_from_world[:3, :3].T + b.camera_from_world[:3, 3]
        want = in_b / in_b[..., 2:] @ b.camera.K.T
        label = pair.labels[0]
        errors.append(np.abs(label.warp_px - want[..., :2]).max(-1)[label.visible])
        rows, columns = np.nonzero(label.visible)
        at = np.clip(label.warp_px[rows, columns].round().astype(int), 0, (79, 59))
        hidden.append(in_b[rows, columns, 2] > 1.1 * depth_b[at[:, 1], at[:, 0]])
    errors = np.concatenate(errors)
    assert len(errors) > 8 * 400
    assert np.median(errors) < 1e-3
    assert np.quantile(errors, 0.9) < 0.8
    assert np.concatenate(hidden).mean() < 0.01


def test_forward_and_backward_meet(made):
    errors = []
    for pair in made:
        ab, ba = pair.labels
        rows, columns = np.nonzero(ab.visible)
        to = ab.warp_px[rows, columns]
        near = to.round().astype(int)
        both = ba.visible[near[:, 1], near[:, 0]]
        back = ba.warp_px[near[:, 1], near[:, 0]]
        # The nearest pixel of b is up to half a pixel off: compare with a's own step there.
        scale = pair.cameras.K_a[0, 0] / pair.cameras.K_b[0, 0]
        off = np.abs(back - np.stack([columns, rows], 1)).max(1)[both]
        errors.append(off / max(scale, 1.0))
    assert np.quantile(np.concatenate(errors), 0.95) < 1.5


def test_labels_lie_on_epipolar_lines(made):
    for pair in made:
        a, b = (v.view for v in pair.views)
        b_from_a = b.camera_from_world @ a.world_from_camera
        assert np.allclose(b_from_a[:3, 3], pair.cameras.b_from_a[:3, 3] * pair.distance, atol=1e-9)
        t = b_from_a[:3, 3]
        cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
        rows, columns = np.nonzero(pair.labels[0].visible)
        px = np.stack([columns, rows, np.ones_like(rows)]).astype(float)
        ray_a = np.linalg.inv(a.camera.K) @ px
        to = pair.labels[0].warp_px[rows, columns].astype(float).T
        ray_b = np.linalg.inv(b.camera.K) @ np.vstack([to, np.ones(to.shape[1])])
        line = cross @ b_from_a[:3, :3] @ ray_a
        off = np.abs((ray_b * line).sum(0)) / np.maximum(np.hypot(line[0], line[1]), 1e-9)
        assert off.max() < 2e-6  # float32 pixels


def test_input_views_pass_and_bad_ones_are_named(scene):
    screening = scene.screening
    views = list(input_views().values())

    def reason(view):
        return screening.reason(render(scene.rasterizer, scene.gaussians, view), view)

    with torch.no_grad():
        assert sum(reason(view) is None for view in views) >= 8
        into_wall = np.eye(4)
        into_wall[2, 3] = -1.95  # the camera 5 cm before the square
        assert reason(PosedCamera(Camera(*SIZE, K), into_wall)).startswith("near share")
        away = np.diag([-1.0, 1, -1, 1])
        assert reason(PosedCamera(Camera(*SIZE, K), away)) is not None
    zoomed = K * np.array([[3.0], [3.0], [1.0]])
    zoomed[:2, 2] = K[:2, 2]
    with torch.no_grad():
        assert reason(PosedCamera(Camera(*SIZE, zoomed), views[4].camera_from_world)) is None


def test_shards_hold_what_lift_writes(scene, tmp_path):
    """Members, and labels that follow from the stored depth and cameras alone."""
    report = write_pairs(scene, "box.ply", tmp_path, OPTIONS)
    assert report.pairs == 3 and report.shards_written == 2
    samples = [s for path in sorted(tmp_path.glob("*.tar")) for s in read_shard(path)]
    assert len(samples) == 3
    for sample in samples:
        assert set(sample.images) == {"photo", "view0", "view1"}
        names = {"depth"}
        names |= {f"{n}_{i}" for n in ("depth", "source", "seen", "unlabelled") for i in (0, 1)}
        names |= {f"{n}_{p}" for n in ("warp", "visible", "unknown") for p in ("0_1", "1_0")}
        assert set(sample.arrays) == names
        cameras = [
            (np.array(v["K"]), np.array(v["view_from_photograph"])) for v in sample.meta["views"]
        ]
        (K0, T0), (K1, T1) = cameras
        v, u = np.nonzero(sample.arrays["visible_0_1"])
        depth = sample.arrays["depth_0"][v, u].astype(float)
        points = np.linalg.inv(K0) @ np.stack([u, v, np.ones_like(u)]) * depth
        move = T1 @ np.linalg.inv(T0)
        projected = K1 @ (move[:3, :3] @ points + move[:3, 3:])
        stored = pixels(sample.arrays["warp_0_1"])[v, u]
        assert np.abs(projected[:2] / projected[2] - stored.T).max() < 1 / 128 + 1e-3
        source = pixels(sample.arrays["source_0"])[sample.arrays["seen_0"]]
        assert (source > -1).all() and (source < (80, 60)).all()
        assert not (sample.arrays["visible_0_1"] & sample.arrays["unlabelled_0"]).any()


def test_an_interrupted_run_ends_in_the_same_bytes(scene, tmp_path):
    whole, again = tmp_path / "whole", tmp_path / "again"
    write_pairs(scene, "box.ply", whole, OPTIONS)
    write_pairs(scene, "box.ply", again, OPTIONS)
    (again / "shard-000001.tar").unlink()
    report = write_pairs(scene, "box.ply", again, OPTIONS)
    assert report.shards_kept == 1 and report.shards_written == 1
    for path in whole.glob("*.tar"):
        assert path.read_bytes() == (again / path.name).read_bytes()
    with pytest.raises(InvalidInput, match="another run"):
        write_pairs(scene, "other.ply", again, OPTIONS)


def test_pairs_on_the_fly_are_training_pairs(scene):
    maker = SplatPairs(scene, seed=5)
    a, b = (maker.pair(3, width=80, height=60, difficulty=0.5) for _ in range(2))
    assert np.array_equal(a.rgb_a, b.rgb_a) and np.array_equal(a.warp, b.warp)
    batch = collate([a, maker.pair(4, width=80, height=60, difficulty=0.5)], both_ways=True)
    assert batch.warp_px.shape == (4, 2, 60, 80)
    assert batch.visible.float().mean() > 0.1


def test_the_picture_follows_the_warp(scene):
    """b brought onto a by the labels looks like a, far more than b itself does."""
    effects = EffectOptions(**{name: 0 for name in EffectOptions.__dataclass_fields__})
    maker, moved, still = SplatPairs(scene, 1, relight=0.0, effects=effects), [], []
    for i in range(5):
        pair = maker.pair(i, width=80, height=60, difficulty=0.7)
        v, u = np.nonzero(pair.visible)
        at = np.clip(pair.warp[v, u].round().astype(int), 0, (79, 59))
        a, b = pair.rgb_a[v, u].astype(float), pair.rgb_b.astype(float)
        moved.append(np.abs(a - b[at[:, 1], at[:, 0]]).mean())
        still.append(np.abs(a - b[v, u]).mean())
    assert np.mean(moved) < 0.3 * np.mean(still)


def test_command_writes_shards_for_a_foreign_scene(scene, tmp_path, capsys):
    """A PLY from elsewhere has no record: its cameras are named by --source."""
    write_ply(tmp_path / "scene.ply", scene.gaussians)
    arguments = ["splat", "pairs", str(tmp_path / "scene.ply"), "--out", str(tmp_path / "out")]
    assert cli.main(arguments) == 2
    assert "--source" in capsys.readouterr().err
    source = tmp_path / "source"
    (source / "images").mkdir(parents=True)
    cameras = {}
    import cv2

    for name, view in input_views().items():
        cv2.imwrite(str(source / f"images/{name}.png"), np.full((60, 80, 3), 90, np.uint8))
        pose = view.world_from_camera.tolist()
        cameras[f"{name}.png"] = {"K": K.tolist(), "world_from_camera": pose}
    (source / "meta.json").write_text(json.dumps({"cameras": cameras}))
    more = ["--source", str(source), "--views", "4", "--size", "80x60", "--json"]
    more += ["--picture", str(tmp_path / "pairs.png")]
    assert cli.main(arguments + more) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 2
    assert (tmp_path / "pairs.png").is_file()


def test_stored_pairs_are_the_pairs_that_were_made(scene, tmp_path):
    """Every sample once a round, labels as made, both ways round."""
    write_pairs(scene, "box.ply", tmp_path, OPTIONS)
    source = StoredPairs([tmp_path], seed=2)
    assert len(source) == 3
    made = [pair_of_sample(s) for p in sorted(tmp_path.glob("*.tar")) for s in read_shard(p)]
    drawn = [source.pair(i, width=80, height=60) for i in range(6)]
    for round_ in (drawn[:3], drawn[3:]):
        found = set()
        for pair in round_:
            for index, other in enumerate(made):
                for way in (other, other.swapped()):
                    if np.array_equal(pair.warp, way.warp):
                        found.add(index)
                        assert np.array_equal(pair.visible, way.visible)
                        assert np.array_equal(pair.rgb_b, way.rgb_b)
        assert found == {0, 1, 2}
    label = scene.pair(*_drawn_like(0)).labels[0]
    assert np.abs(made[0].warp - label.warp_px)[label.visible].max() <= 1 / 128 + 1e-4
    assert source.pair(1, width=40, height=40).warp.shape == (40, 40, 2)
    with pytest.raises(InvalidInput, match="l2m lift"):
        StoredPairs([tmp_path / "nothing"])


def _drawn_like(index):
    """What `sample_of` passes on to draw pair `index`."""
    rng = np.random.default_rng((OPTIONS.seed, index))
    return rng, OPTIONS.width, OPTIONS.height, OPTIONS.difficulty * rng.random() ** 0.5


def test_mixtures_hold_their_shares(scene, tmp_path):
    class Numbered:
        def __init__(self, number):
            self.number = number

        def pair(self, index, **kwargs):
            return self.number

    mixed = MixedPairs([Numbered(0), Numbered(1)], [0.25, 0.75], seed=1)
    drawn = [mixed.pair(i, width=8, height=8, difficulty=1.0) for i in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=0.03)
    assert drawn[:50] == [mixed.pair(i, width=8, height=8, difficulty=1.0) for i in range(50)]
    with pytest.raises(InvalidInput):
        MixedPairs([Numbered(0)], [0.0])


def test_options_are_refused_in_words():
    for wrong in ({"views": 1}, {"width": 8}, {"difficulty": 2.0}):
        with pytest.raises(InvalidInput):
            SplatPairOptions(**wrong)


def test_a_pair_that_a_scene_will_not_take_becomes_easier(scene, monkeypatch):
    """Pair number i is the same every time: refused once, it ended a training at every start."""
    drawn, tried = SceneViews._drawn, []

    def refusing(self, rng, width, height, hard, rejected):
        tried.append(hard)
        return drawn(self, rng, width, height, hard, rejected) if hard < 0.2 else "overlap: none"

    monkeypatch.setattr(SceneViews, "_drawn", refusing)
    made = scene.pair(np.random.default_rng(1), 80, 60, 0.6)
    assert len(made.rejected) >= 80 and max(tried) == 0.6
    monkeypatch.setattr(SceneViews, "_drawn", lambda *args: "overlap: none")
    with pytest.raises(InvalidInput, match="too poor"):
        scene.pair(np.random.default_rng(1), 80, 60, 0.6)
