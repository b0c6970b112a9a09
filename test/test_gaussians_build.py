"""Building and checking scenes: a box of known Gaussians is photographed and built again."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from gaussian_box import HEIGHT, VIEWS, WIDTH, K, box_depth, looking, painted, view
from scipy.spatial.transform import Rotation

from l2m_ros import cli
from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera, DenseMatch
from l2m_ros.workshop.gaussians import build as building
from l2m_ros.workshop.gaussians.build import BuildOptions, build_scene
from l2m_ros.workshop.gaussians.captures import Capture, HoldOut
from l2m_ros.workshop.gaussians.check import check_scene
from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
from l2m_ros.workshop.gaussians.density import grown, pruned
from l2m_ros.workshop.gaussians.fit import FitOptions
from l2m_ros.workshop.gaussians.initial import (
    depth_from_matches,
    gaussians_on,
    normals_of_depth,
    points_from_depth,
    points_from_matches,
    thinned,
    triangulate,
)
from l2m_ros.workshop.gaussians.labels import label_between, seen_by
from l2m_ros.workshop.gaussians.ply import read_ply
from l2m_ros.workshop.gaussians.record import read_record
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.sources import load_captures

FAST = FitOptions(steps=120, max_gaussians=600, grow_every=10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene in our own layout, with depth."""
    root = tmp_path_factory.mktemp("box")
    (root / "images").mkdir()
    (root / "depth").mkdir()
    cameras = {}
    for i in range(VIEWS):
        pose = looking(i)
        depth, points = box_depth(pose)
        cv2.imwrite(str(root / f"images/{i:03d}.png"), painted(points)[..., ::-1])
        cv2.imwrite(str(root / f"depth/{i:03d}.png"), (depth * 2000).round().astype(np.uint16))
        cameras[f"{i:03d}.png"] = {
            "width": WIDTH, "height": HEIGHT, "K": K.tolist(), "world_from_camera": pose.tolist(),
        }  # fmt: skip
    meta = {"metric": True, "depth_scale": 0.0005, "cameras": cameras}
    (root / "meta.json").write_text(json.dumps(meta))
    return root


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("scene") / "box.ply"
    report = build_scene(folder, out, BuildOptions(fit=FAST))
    return out, report


def test_build_beats_its_start_on_views_never_seen(folder, built):
    out, report = built
    captures = load_captures(folder).holding_out(HoldOut())
    assert report.started_from == "depth"
    assert report.held_out == 1 and report.views == VIEWS
    points = thinned(points_from_depth(captures.training, 300), 300)
    start = gaussians_on(points, 1)
    capture = captures.held_out[0]
    target = torch.from_numpy(capture.rgb) / 255.0

    def error(gaussians):
        colour = render(CpuRasterizer(1), gaussians, capture.view).colour.detach()
        return float(((colour - target) ** 2).mean())

    assert error(read_ply(out)) < 0.5 * error(start)
    assert report.psnr == pytest.approx(-10 * math.log10(error(read_ply(out))), abs=0.05)
    depth = render(CpuRasterizer(1), read_ply(out), capture.view).plane_depth.numpy()
    assert np.median(np.abs(depth / capture.depth - 1)) < 0.01


def test_check_has_its_keys_and_exact_depth_wins(folder, built, capsys):
    out, _ = built
    assert cli.main(["splat", "check", str(out), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    ways = ["alpha", "dominant", "plane", "plane_regularised"]
    for key in ("epipolar", "cycle", "depth"):
        assert list(figures[key]) == ways
        assert all(value > 0 for value in figures[key].values())
    assert figures["truth"] == "depth"
    assert figures["depth"]["plane_regularised"] < figures["depth"]["alpha"]
    assert figures["psnr"] > 20
    assert cli.main(["splat", "check", str(out), "--apart", "1", "--json"]) == 0
    lax = json.loads(capsys.readouterr().out)
    assert all(lax["labelled"][way] > figures["labelled"][way] for way in ways)
    assert lax["epipolar"]["plane_regularised"] > figures["epipolar"]["plane_regularised"]
    assert cli.main(["splat", "check", str(out), "--apart", "0"]) == 2
    assert cli.main(["splat", "check", str(out)]) == 0
    assert "plane_regularised" in capsys.readouterr().out


def test_both_branches_take_as_many_steps_however_long_a_step_takes(folder, tmp_path, monkeypatch):
    """By --minutes a branch that is slower would end earlier, and be compared with a longer one."""
    real, clock, counts = building.Fit.advance, [0.0], {}

    def timed(self, share):
        plain = self.options.regularise_from > 1
        counts[plain] = counts.get(plain, 0) + 1
        clock[0] += 0.01 if plain or share < self.options.regularise_from else 0.02
        return real(self, share)

    monkeypatch.setattr(building.Fit, "advance", timed)
    monkeypatch.setattr(building, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    options = BuildOptions(minutes=0.01, fit=FitOptions(steps=1000, max_gaussians=100))
    report = build_scene(folder, tmp_path / "short.ply", options)
    assert (counts[True], counts[False]) == (15, 15 + 4)  # 0.6 s: 0.9, 0.1 and 0.9 of 1.9
    assert report.steps == 34 and clock[0] < 0.6


@pytest.mark.parametrize(
    ("from_matches", "until", "end"), [(False, None, 17), (True, None, 20), (True, 0.5, 11)]
)
def test_a_fit_ends_with_the_photographs_alone_where_depth_was_measured(
    folder, tmp_path, monkeypatch, from_matches, until, end
):
    begin, regularised = building.Fit.__init__, []

    def begun(self, *args):
        begin(self, *args)
        self.photographs = [None] if from_matches else []

    def noted(self, *args):
        regularised.append(self.step)
        return torch.zeros(())

    monkeypatch.setattr(building.Fit, "__init__", begun)
    monkeypatch.setattr(building.Fit, "_geometry", noted)
    fit = FitOptions(steps=20, max_gaussians=100, regularise_until=until)
    build_scene(folder, tmp_path / "short.ply", BuildOptions(fit=fit))
    # From 0.1 to 0.85, 1 or what is asked for of one branch, never of the other.
    assert regularised == list(range(2, end))


def test_worse_gaussians_are_called_worse(folder, built):
    """Means moved by 2 % of their distance: errors rise, and fewer depths agree well enough."""
    out, _ = built
    good, captures = read_ply(out), read_record(out).captures()
    noise = torch.randn(good.means.shape, generator=torch.Generator().manual_seed(0))
    bad = read_ply(out)
    bad.means += 0.06 * noise
    report = check_scene(good, bad, captures, CpuRasterizer(1))
    assert report.depth["plane"] > 2 * report.depth["plane_regularised"]
    assert report.epipolar["plane"] > 1.15 * report.epipolar["plane_regularised"]
    assert report.labelled["plane"] < 0.95 * report.labelled["plane_regularised"]
    own = check_scene(good, bad, captures, CpuRasterizer(1), own_mask=True)
    assert own.labelled["plane"] < 0.5 * report.labelled["plane"]
    assert own.epipolar["plane_regularised"] == report.epipolar["plane_regularised"]
    assert report.psnr_labelled > report.psnr_labelled_plain + 1
    assert report.psnr_labelled != report.psnr


def test_a_killed_build_goes_on_to_the_same_scene(folder, tmp_path, monkeypatch):
    options = BuildOptions(fit=FitOptions(steps=24, max_gaussians=300, grow_every=5))
    build_scene(folder, tmp_path / "whole.ply", options)
    monkeypatch.setattr(building, "STORE_EVERY_S", 0.0)
    real, calls = building.Fit.advance, []

    def dies(self, share):
        calls.append(share)
        if len(calls) in (4, 20, 33):  # in each of the three stages
            raise KeyboardInterrupt
        return real(self, share)

    monkeypatch.setattr(building.Fit, "advance", dies)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            build_scene(folder, tmp_path / "again.ply", options)
    assert (tmp_path / "again.resume.pt").is_file()
    with pytest.raises(InvalidInput, match="unfinished run of other"):
        build_scene(folder, tmp_path / "again.ply", BuildOptions(sh_degree=0, fit=options.fit))
    build_scene(folder, tmp_path / "again.ply", options)
    assert not (tmp_path / "again.resume.pt").exists()
    for name in ("", ".plain"):
        whole = (tmp_path / f"whole{name}.ply").read_bytes()
        assert whole == (tmp_path / f"again{name}.ply").read_bytes()


def test_minutes_end_a_build(folder, tmp_path):
    options = BuildOptions(
        minutes=0.02, plain=False, fit=FitOptions(steps=10**6, max_gaussians=300)
    )
    report = build_scene(folder, tmp_path / "short.ply", options)
    assert 0 < report.steps < 10**4
    assert report.psnr_plain is None and not (tmp_path / "short.plain.ply").exists()


def test_what_no_training_view_sees_does_not_count(folder, built):
    """The held-out view is turned aside until half of it shows what is not in any other frame."""
    out, _ = built
    scene, captures = read_ply(out), read_record(out).captures()
    turned = looking(4)
    turned[:3, :3] = turned[:3, :3] @ Rotation.from_euler("y", -35, degrees=True).as_matrix()
    depth, points = box_depth(turned)
    aside = Capture(captures.held_out[0].name, painted(points), view(turned), depth)
    others = [(box_depth(c.view.world_from_camera)[0], c.view) for c in captures.training]
    share = seen_by(depth, aside.view, others).mean()
    assert 0.2 < share < 0.8
    items = [aside if c.name == aside.name else c for c in captures.items]
    report = check_scene(scene, scene, replace(captures, items=items), CpuRasterizer(1))
    assert report.seen == pytest.approx(share, abs=0.02)
    assert report.psnr_seen > report.psnr + 3 and report.psnr_seen == report.psnr_seen_plain


def test_normals_of_depth_are_those_of_the_planes():
    from l2m_ros.geometry.camera import rays

    pose = looking(2)
    depth, _ = box_depth(pose)
    normal, sound = normals_of_depth(depth, rays(Camera(WIDTH, HEIGHT, K)))
    want = pose[:3, :3].T @ np.array([0, 0, -1.0])
    assert sound.mean() > 0.98  # also beside the box's outline, on the pixel's own side of it
    assert (normal[sound] @ want).min() > 0.999


def test_triangulation_finds_points_and_leaves_out_mismatches(folder):
    captures = load_captures(folder).items
    a, b = captures[2], captures[8]
    depth, _ = box_depth(looking(2))
    labels = label_between(depth, a.view, box_depth(looking(8))[0], b.view)
    rows, columns = np.nonzero(labels.visible)
    px_a = np.stack([columns, rows], 1).astype(float)
    px_b = labels.warp_px[rows, columns].astype(float)
    px_b[::5, 1] += 6.0
    xyz, good = triangulate(a, b, px_a, px_b)
    assert not good[::5].any()
    assert good[1::5].mean() > 0.9
    assert np.allclose(xyz[good][:, 2], depth[rows, columns][good], rtol=1e-3)


def test_growing_and_pruning_keep_what_they_should():
    points = thinned(points_from_depth_of_box(), 100)
    gaussians = gaussians_on(points, 0)
    gaussians.opacity_logits[:7] = -10.0
    gaussians.means[7] = torch.nan
    keep = pruned(gaussians, extent=1.0)
    assert not keep[:8].any() and keep[8:].all()
    need = torch.arange(len(gaussians)).float()
    stays, new = grown(gaussians.select(keep), need[keep], 10, torch.Generator().manual_seed(0))
    splits = int((~stays).sum())
    assert 0 < splits <= 10
    assert len(new) == 2 * splits + (10 - splits)


def test_points_lie_as_dense_as_they_are_seen_and_denser_at_outlines():
    """A floor from 1 to 7 m: in space denser in front; the box: half along its outline."""
    v = np.mgrid[:HEIGHT, :WIDTH][0]
    floor = np.where(v > 26, 25.0 / np.maximum(v - 23.5, 1), np.nan)
    flat = Capture("x", np.zeros((HEIGHT, WIDTH, 3), np.uint8), view(np.eye(4)), floor)
    depth = points_from_depth([flat], 200).xyz[:, 2]
    rows = 23.5 + 25.0 / depth
    near, far = (rows > 40).sum() / 7, ((rows > 30) & (rows < 37.2)).sum() / 7  # a row
    assert near == pytest.approx(far, rel=0.5) and near > 2
    box, points = box_depth(looking(4))
    found = points_from_depth([Capture("x", painted(points), view(looking(4)), box)], 200).xyz
    off = np.abs(np.abs(found[:, :2]).max(axis=1) - 0.5)
    assert (off < 0.1).mean() > 0.3  # 12 % of the image


def test_shrunk_depth_is_that_of_the_shrunk_pixels_and_outlines_stay_sharp():
    depth, points = box_depth(looking(4))
    tilted = depth + 0.2 * points[..., 1]  # so that depth changes within a pixel
    capture = Capture("x", painted(points), view(looking(4)), tilted)
    small = capture.shrunk(WIDTH // 4)
    assert small.depth is not None and small.view.size == (WIDTH // 4, HEIGHT // 4)
    middle = tilted.reshape(HEIGHT // 4, 4, WIDTH // 4, 4).transpose(0, 2, 1, 3).reshape(-1, 16)
    same = np.ptp(middle, axis=1) < 0.2
    off = np.abs(small.depth.ravel() / middle.mean(axis=1) - 1)
    assert np.quantile(off[same], 0.8) < 1e-4  # of the nearest pixel it would be 0.2 %
    assert (np.abs(small.depth.ravel()[:, None] / middle - 1).min(axis=1) < 0.01).all()


def points_from_depth_of_box():

    pose = looking(4)
    depth, points = box_depth(pose)
    return points_from_depth([Capture("x", painted(points), view(pose), depth)], 200)


def test_colmap_and_nerfstudio_mean_the_same_cameras(folder, tmp_path):
    """Half a pixel, world-to-camera, OpenGL axes: every convention against our own layout."""
    own = load_captures(folder)
    lines, frames = [], []
    for i, capture in enumerate(own.items):
        pose = capture.view.camera_from_world
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        t = " ".join(map(str, pose[:3, 3]))
        lines += [f"{i + 1} {w} {x} {y} {z} {t} 1 {capture.name}", ""]
        opengl = capture.view.world_from_camera @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"images/{capture.name}", "transform_matrix": opengl.tolist()})
    colmap, nerf = tmp_path / "colmap", tmp_path / "nerf"
    (colmap / "sparse/0").mkdir(parents=True)
    nerf.mkdir()
    for target in (colmap, nerf):
        (target / "images").symlink_to(folder / "images")
    (colmap / "sparse/0/images.txt").write_text("# images\n" + "\n".join(lines) + "\n")
    (colmap / "sparse/0/cameras.txt").write_text("# cameras\n1 PINHOLE 64 48 50 50 32 24\n")
    meta = {"fl_x": 50, "fl_y": 50, "cx": 32, "cy": 24, "w": 64, "h": 48, "frames": frames}
    (nerf / "transforms.json").write_text(json.dumps(meta))
    for other in (load_captures(colmap), load_captures(nerf)):
        for a, b in zip(own.items, other.items, strict=True):
            assert np.array_equal(a.rgb, b.rgb)
            assert np.allclose(a.view.camera.K, b.view.camera.K)
            assert np.allclose(a.view.camera_from_world, b.view.camera_from_world)
    # Scaled or mirrored: half of the code would invert it as a rotation.
    for spoilt in (np.diag([2.0, 2, 2, 1]), np.diag([-1.0, 1, 1, 1])):
        matrix = np.array(frames[3]["transform_matrix"]) @ spoilt
        bad = [*frames[:3], {**frames[3], "transform_matrix": matrix.tolist()}, *frames[4:]]
        (nerf / "transforms.json").write_text(json.dumps({**meta, "frames": bad}))
        with pytest.raises(InvalidInput, match="transform_matrix does not hold a rotation"):
            load_captures(nerf)


def test_refusals_name_the_remedy(tmp_path, folder, capsys):
    assert cli.main(["splat", "build", str(tmp_path), "--out", str(tmp_path / "a.ply")]) == 2
    assert "transforms.json" in capsys.readouterr().err
    assert cli.main(["splat", "build", str(folder), "--out", str(tmp_path / "a.txt")]) == 2
    assert ".ply" in capsys.readouterr().err
    with pytest.raises(InvalidInput, match="--source"):
        read_record(tmp_path / "none.ply")


class Knowing:
    """A matcher that knows the box: images are told apart by their bytes."""

    name = "knowing"

    def __init__(self, captures, wrong=None):
        self.by_bytes = {c.rgb.tobytes(): i for i, c in enumerate(captures)}
        self.captures, self.wrong = captures, wrong

    def encode(self, rgb):
        return self.by_bytes[rgb.tobytes()]

    def reference(self, features):
        return features

    def match(self, query, reference):
        a, b = self.captures[query], self.captures[reference]
        depth_a, depth_b = (box_depth(c.view.world_from_camera)[0] for c in (a, b))
        labels = label_between(depth_a, a.view, depth_b, b.view)
        warp = labels.warp_px.copy()
        if reference == self.wrong:  # off along the epipolar line: each pair agrees with itself
            warp[..., 0] += 3.0
        certainty = labels.visible.astype(np.float32)
        return DenseMatch(warp, certainty, (WIDTH, HEIGHT), (WIDTH, HEIGHT))


def test_matches_become_depth_that_partners_agree_on(folder):
    captures = [replace(c, depth=None) for c in load_captures(folder).items]
    for wrong, most in ((None, 0.004), (6, 0.004)):
        made = depth_from_matches(captures, Knowing(captures, wrong))
        for capture in made:
            truth = box_depth(capture.view.world_from_camera)[0]
            known = np.isfinite(capture.depth)
            assert known.mean() > 0.25
            assert np.quantile(np.abs(capture.depth / truth - 1)[known], 0.95) < most
    points = points_from_matches(made, 300)
    wall = points.xyz[:, 2] > 2.8
    assert np.abs(points.normal[wall, 2]).mean() > 0.95
    assert (points.normal[wall, 2] < 0).mean() > 0.95


def test_without_depth_a_scene_starts_from_matches(folder, tmp_path, monkeypatch):
    captures = load_captures(folder).holding_out(HoldOut())
    monkeypatch.setattr(building, "load_matcher", lambda *a, **k: Knowing(captures.items))
    fit = FitOptions(steps=12, max_gaussians=300, grow_every=5)
    options = BuildOptions(use_depth=False, plain=False, fit=fit)
    report = build_scene(folder, tmp_path / "matched.ply", options)
    assert report.started_from == "matches"
    depth = render(
        CpuRasterizer(1), read_ply(tmp_path / "matched.ply"), captures.held_out[0].view
    ).plane_depth.numpy()
    assert np.median(np.abs(depth / captures.held_out[0].depth - 1)) < 0.02


def test_a_folder_that_grew_is_checked_on_the_views_that_were_held_out(built, folder, tmp_path):
    out, _ = built
    grown = tmp_path / "grown"
    shutil.copytree(folder, grown)
    meta = json.loads((grown / "meta.json").read_text())
    for name in ("0005.png", "0015.png", "0025.png"):
        shutil.copy(grown / "images/000.png", grown / "images" / name)
        meta["cameras"][name] = meta["cameras"]["000.png"]
    (grown / "meta.json").write_text(json.dumps(meta))
    captures = read_record(out).captures(grown)
    assert [c.name for c in captures.held_out] == ["004.png"]
    assert len(captures.items) == VIEWS
    (grown / "meta.json").write_text(
        json.dumps({**meta, "cameras": {k: v for k, v in meta["cameras"].items() if k > "001"}})
    )
    with pytest.raises(InvalidInput, match=r"1 images that the scene was built from.*000\.png"):
        read_record(out).captures(grown)
