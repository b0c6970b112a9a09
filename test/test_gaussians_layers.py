"""What a pixel that blends several surfaces says: sky without depth, planes that lie apart."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
from l2m_ros.workshop.gaussians.losses import MIXED, SOFT, depth_error, spread_error
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.twin import TwinRasterizer

VIEW = PosedCamera(Camera(8, 6, np.array([[8.0, 0, 3.5], [0, 8.0, 2.5], [0, 0, 1]])), np.eye(4))


def sheets(*depths):
    """Half transparent sheets across the view, as wide as it is at each depth."""
    n = len(depths)
    z = torch.tensor(depths)
    return Gaussians(
        means=torch.stack([0 * z, 0 * z, z], 1),
        log_scales=torch.stack([(30 * z).log(), (30 * z).log(), (0.001 * z).log()], 1),
        quaternions=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        opacity_logits=torch.zeros(n),
        sh=torch.zeros(n, 1, 3),
    )


@pytest.mark.parametrize("rasterizer", [TwinRasterizer(), CpuRasterizer(1)])
def test_sky_is_drawn_but_moves_no_depth(rasterizer):
    scene = sheets(2.0, 60.0)
    all_of_it = render(rasterizer, scene, VIEW)
    without = render(rasterizer, scene, VIEW, far=30.0)
    assert all_of_it.plane_depth.median() > 10
    assert (without.plane_depth - 2).abs().max() < 1e-4
    assert torch.equal(without.alpha, all_of_it.alpha)
    assert torch.equal(without.colour, all_of_it.colour)
    assert (without.solid.median() - 0.5).abs() < 0.01 and without.alpha.median() > 0.7
    assert torch.equal(all_of_it.solid, all_of_it.alpha)
    only = render(rasterizer, sheets(60.0), VIEW, far=30.0)
    assert only.plane_depth.max() == 0 and only.solid.max() == 0 and only.alpha.min() > 0.4


def test_variance_of_planes_is_that_of_their_depth():
    """Two sheets: w = 1/2, 1/4; a third that is sky does not count."""
    apart = render(CpuRasterizer(1), sheets(2.0, 3.0, 90.0), VIEW, far=30.0, spread=True)
    mean = (2.0 * 2 + 3.0) / 3
    want = (2 * (2 - mean) ** 2 + (3 - mean) ** 2) / 3 / mean**2
    assert abs(float(apart.spread.median()) / want - 1) < 0.02
    close = render(CpuRasterizer(1), sheets(2.0, 2.0), VIEW, spread=True)
    assert close.spread.max() < 1e-5
    assert apart.features.shape[2] == close.features.shape[2] == 0


def test_spread_draws_planes_together_unless_they_are_two_surfaces():
    def pull(*depths):
        scene = sheets(*depths)
        scene.means.requires_grad_(True)
        spread_error(render(CpuRasterizer(1), scene, VIEW, spread=True)).backward()
        return scene.means.grad[:, 2]

    near, behind = pull(2.0, 2.08)
    assert near < 0 < behind  # the gradient: descent moves them towards each other
    assert pull(2.0, 3.0).abs().max() == 0


def test_a_pixel_of_two_surfaces_is_not_pulled_to_known_depth():
    def pull(off):
        ours = torch.full((2, 2), 2.0 * (1 + off), requires_grad=True)
        error = depth_error(SimpleNamespace(plane_depth=ours), torch.full((2, 2), 2.0))
        error.backward()
        return error.item(), float(ours.grad.abs().max())

    error, drawn = pull(0.5 * MIXED)
    assert 0 < 0.5 * MIXED - error < SOFT and drawn > 0
    assert pull(2 * MIXED) == (0.0, 0.0)
    # The pull fades where depth is better than labels ask for.
    assert pull(0.1 * SOFT)[1] == pytest.approx(0.1 * pull(4 * SOFT)[1], rel=0.05)


def test_features_come_after_the_channels_of_depth():
    scene = sheets(2.0, 90.0)
    feature = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    plain = render(CpuRasterizer(1), scene, VIEW, features=feature)
    full = render(CpuRasterizer(1), replace(scene), VIEW, features=feature, far=30.0, spread=True)
    assert torch.equal(plain.features, full.features) and plain.features.abs().min() > 0
