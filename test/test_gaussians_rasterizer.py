"""The CPU rasterizer against its slow twin: pictures and gradients; closed forms; PLY files."""

import math

import numpy as np
import pytest
import torch

from l2m_ros.errors import InvalidInput
from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians import choice
from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
from l2m_ros.workshop.gaussians.gsplat import disc_axes_first
from l2m_ros.workshop.gaussians.losses import normal_consistency
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.ply import read_ply, write_ply
from l2m_ros.workshop.gaussians.projection import planes
from l2m_ros.workshop.gaussians.rendering import pixel_rays, render
from l2m_ros.workshop.gaussians.twin import TwinRasterizer

PARTS = ("colour", "alpha", "expected_depth", "plane_depth", "normal", "features")


def cloud(n, seed, dtype=torch.float32, log_scale=-1.8, coefficients=4):
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((n, 3)) * (1.0, 0.8, 0.6) + (0, 0, 3)
    parts = (
        means, rng.normal(log_scale, 0.5, (n, 3)), rng.standard_normal((n, 4)),
        rng.normal(0, 1.5, n), rng.normal(0, 0.5, (n, coefficients, 3)),
    )  # fmt: skip
    return Gaussians(*(torch.tensor(part, dtype=dtype) for part in parts))


def camera(width=24, height=18, tilt=0.1):
    K = np.array([[0.8 * width, 0.3, width / 2], [0, 0.7 * width, height / 2 - 1], [0, 0, 1.0]])
    pose = np.eye(4)
    c, s = math.cos(tilt), math.sin(tilt)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = 0.1, -0.05, 0.2
    return PosedCamera(Camera(width, height, K), pose)


def drawn(rasterizer, gaussians, features, weights=None):
    """The rendering, and gradients of a random weighted sum of all its parts."""
    leaves = dict(gaussians.tensors()) | {"features": features}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    rendering = render(rasterizer, gaussians, camera(), features=features)
    weights = weights or {
        part: torch.randn(
            getattr(rendering, part).shape, generator=torch.Generator().manual_seed(3)
        )
        for part in PARTS
    }
    sum((getattr(rendering, p) * weights[p].to(features.dtype)).sum() for p in PARTS).backward()
    return rendering, {name: leaf.grad for name, leaf in leaves.items()}, weights


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threads", [1, 2])
def test_fast_path_equals_its_twin(seed, threads):
    """Three scenes; opacities up to 0.99, Gaussians behind the camera and out of sight among."""
    feature = np.random.default_rng(seed).standard_normal((80, 5))
    twin, slow, weights = drawn(
        TwinRasterizer(), cloud(80, seed, torch.float64), torch.tensor(feature)
    )
    ours, fast, _ = drawn(
        CpuRasterizer(threads), cloud(80, seed), torch.tensor(feature).float(), weights
    )
    for part in PARTS:
        want = getattr(twin, part)
        assert (getattr(ours, part) - want).abs().max() < 1e-4 * want.abs().max().clamp_min(1)
    assert (ours.raster.dominant != twin.raster.dominant).float().mean() < 0.01
    for name, want in slow.items():
        assert want.abs().max() > 0, name
        assert (fast[name] - want).abs().max() < 2e-3 * want.abs().max(), name


def test_opaque_wall_hides_what_is_behind():
    """Termination and its gradient: 30 opaque layers, then one whose colour must not matter."""
    n = 31
    gaussians = Gaussians(
        means=torch.tensor([[0.0, 0, 2 + 0.1 * i] for i in range(n)]),
        log_scales=torch.full((n, 3), 1.0),
        quaternions=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        opacity_logits=torch.full((n,), 3.0),
        sh=torch.ones(n, 1, 3).requires_grad_(True),
    )
    rendering = render(CpuRasterizer(1), gaussians, camera())
    rendering.colour.sum().backward()
    assert rendering.alpha.min() > 0.999
    assert gaussians.sh.grad[0].abs().min() > 0
    assert gaussians.sh.grad[-1].abs().max() == 0


def test_plane_depth_of_flat_gaussians_is_the_plane():
    """Discs on the plane n . X = d: the plane depth is exact, the expected depth is not."""
    normal, d = np.array([0.4, -0.2, -1.0]), -2.0
    normal, view = normal / np.linalg.norm(normal), camera(48, 36, tilt=0.0)
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 30), np.linspace(-3, 3, 30)), -1).reshape(-1, 2)
    z = (d - grid @ normal[:2]) / normal[2]
    axis = np.cross([0, 0, 1.0], normal)
    angle = math.acos(normal[2])
    half = axis / np.linalg.norm(axis) * math.sin(angle / 2)
    n = len(grid)
    gaussians = Gaussians(
        means=torch.tensor(np.concatenate([grid, z[:, None]], 1)).float(),
        log_scales=torch.tensor([[-1.6, -1.6, -7.0]]).repeat(n, 1),
        quaternions=torch.tensor([[math.cos(angle / 2), *half]]).float().repeat(n, 1),
        opacity_logits=torch.full((n,), 2.0),
        sh=torch.zeros(n, 1, 3),
    )
    rendering = render(CpuRasterizer(1), gaussians, view)
    R, t = view.camera_from_world[:3, :3], view.camera_from_world[:3, 3]
    in_camera, distance = R @ normal, d + R @ normal @ t
    rays = pixel_rays(view, torch.zeros((), dtype=torch.float64)).numpy()
    truth = distance / (rays @ in_camera)
    inner = (rendering.alpha > 0.9).numpy() & (truth > 0)
    assert inner.mean() > 0.5
    plane = np.abs(rendering.plane_depth.numpy() / truth - 1)[inner]
    dominant = np.abs(rendering.dominant_depth.numpy() / truth - 1)[inner]
    expected = np.abs(rendering.expected_depth.numpy() / truth - 1)[inner]
    assert plane.max() < 1e-4
    assert dominant.max() < 1e-4
    assert np.median(expected) > 10 * np.median(plane)


def test_normals_face_the_camera_and_planes_hold_the_means():
    gaussians, view = cloud(200, 1, torch.float64), camera()
    normal, distance = planes(gaussians, view)
    assert torch.allclose(normal.norm(dim=1), torch.ones(200, dtype=torch.float64))
    assert (distance <= 0).all()


def test_discs_for_2dgs_are_the_same_gaussians():
    gaussians = cloud(50, 2, torch.float64)
    quaternions, scales = disc_axes_first(gaussians)
    turned = Gaussians(gaussians.means, scales.log(), quaternions, *list(
        dict(gaussians.tensors()).values())[3:])  # fmt: skip

    def covariance(g):
        axes = g.rotations() * g.scales[:, None]
        return axes @ axes.transpose(1, 2)

    assert (turned.scales.argmin(1) == 2).all()
    assert torch.allclose(covariance(turned), covariance(gaussians))


def test_an_empty_scene_and_one_behind_the_camera_draw_nothing():
    gaussians = cloud(5, 0)
    behind = Gaussians(-gaussians.means, *list(dict(gaussians.tensors()).values())[1:])
    for scene in (behind, gaussians.select(torch.zeros(0, dtype=torch.long))):
        rendering = render(CpuRasterizer(2), scene, camera())
        assert rendering.alpha.abs().max() == 0
        assert rendering.plane_depth.abs().max() == 0


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_ply_there_and_back(tmp_path, coefficients):
    gaussians = cloud(20, 4, coefficients=coefficients)
    write_ply(tmp_path / "scene.ply", gaussians)
    back = read_ply(tmp_path / "scene.ply")
    for (name, a), (_, b) in zip(gaussians.tensors(), back.tensors(), strict=True):
        assert torch.equal(a, b), name
    header = (tmp_path / "scene.ply").read_bytes().split(b"end_header")[0].decode()
    assert header.count("property float") == 14 + 3 * coefficients


def test_ply_coefficients_are_red_first(tmp_path):
    """As 3DGS writes them: f_rest_0..14 are all of red."""
    gaussians = cloud(3, 4, coefficients=16)
    write_ply(tmp_path / "scene.ply", gaussians)
    raw = (tmp_path / "scene.ply").read_bytes()
    body = np.frombuffer(raw[raw.index(b"end_header\n") + 11 :], "<f4").reshape(3, 62)
    assert np.array_equal(body[:, 9:24], gaussians.sh[:, 1:, 0].numpy())
    assert np.array_equal(body[:, 54], gaussians.opacity_logits.numpy())


@pytest.mark.parametrize(
    "content, words",
    [
        (b"hello", "not a PLY"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n0\n", "binary"),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n"
            b"end_header\n\0\0\0\0",
            "points, not Gaussians",
        ),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 9\nproperty float x\n"
            b"end_header\n\0\0\0\0",
            "cut short",
        ),
    ],
)
def test_other_ply_files_are_refused_in_words(tmp_path, content, words):
    path = tmp_path / "x.ply"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=words):
        read_ply(path)


def test_a_gpu_without_gsplat_leaves_the_drawing_to_the_cpu_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    assert load_rasterizer("auto").name == "cpu"
    assert "pip install gsplat" in capsys.readouterr().err


def test_unknown_rasterizer_is_named():
    with pytest.raises(InvalidInput, match="auto, cpu"):
        load_rasterizer("cup")


def test_normals_that_disagree_cost_even_where_their_mean_is_right():
    """A wall of discs, every other one tilted to one side and to the other."""
    v, u = np.mgrid[-12:13, -12:13] * 0.1
    means = np.stack([u.ravel(), v.ravel(), np.full(u.size, 3.0)], axis=1)

    def wall(tilt):
        angle = np.where(np.add.outer(np.arange(25), np.arange(25)).ravel() % 2, tilt, -tilt) / 2
        turn = np.stack([np.cos(angle), 0 * angle, np.sin(angle), 0 * angle], axis=1)
        scales = np.log(np.tile([0.1, 0.1, 0.01], (len(means), 1)))
        parts = means, scales, turn, np.zeros(len(means)), np.zeros((len(means), 1, 3))
        return Gaussians(*(torch.tensor(part, dtype=torch.float32) for part in parts))

    K = np.array([[24.0, 0, 11.5], [0, 24.0, 8.5], [0, 0, 1]])
    view, plain = PosedCamera(Camera(24, 18, K), np.eye(4)), torch.zeros(18, 24, 3)
    flat, ragged = (
        float(normal_consistency(render(TwinRasterizer(), wall(tilt), view), view, plain))
        for tilt in (0.0, 0.5)
    )
    assert abs(flat) < 1e-3 and ragged > 0.08  # 1 - cos 0.5 = 0.12 of what is opaque
