"""Patches of photographs: right planes bring them onto each other, wrong ones do not."""

import numpy as np
import pytest
import torch

from l2m_ros.types import Camera
from l2m_ros.workshop.gaussians.model import PosedCamera
from l2m_ros.workshop.gaussians.patches import Photograph, patch_consistency
from l2m_ros.workshop.gaussians.rasterizer import Raster
from l2m_ros.workshop.gaussians.rendering import Rendering, pixel_rays

WIDTH, HEIGHT = 64, 48
K = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
NORMAL, D = torch.tensor([0.28, 0.0, -0.96]), -2.4  # a slanted wall, n . X = D


def seen_from(shift, scale=1):
    """Photograph of the wall, `scale` times as large, its view, and depth at WIDTH x HEIGHT."""
    pose = np.eye(4)
    pose[0, 3] = -shift
    view = PosedCamera(Camera(WIDTH, HEIGHT, K), pose)
    large = view.resized(scale * WIDTH, scale * HEIGHT)
    rays = pixel_rays(large, torch.zeros(1))
    distance = D - float(NORMAL[0]) * shift  # of the wall from here
    depth = distance / (rays @ NORMAL)
    x, y, z = (rays * depth[..., None]).unbind(-1)
    along = 0.96 * (x + shift) + 0.28 * z
    grey = 0.5 + 0.2 * torch.sin(9 * along) * torch.cos(7 * y) + 0.2 * torch.sin(5 * along + 8 * y)
    small = distance / (pixel_rays(view, torch.zeros(1)) @ NORMAL)
    return Photograph(grey, large), view, small


def drawn(depth, normal):
    """A rendering of one normal."""
    none, whole = torch.zeros(0), torch.ones(HEIGHT, WIDTH)
    return Rendering(
        none, whole, whole, none, depth, normal.expand(HEIGHT, WIDTH, 3), none, None, None,
        Raster(none, none, none, none, None),
    )  # fmt: skip


def loss(depth_factor, other, turn=0.0, brightness=1.0, scale=2):
    """Of the wall with its depth, its normal or the other photograph changed; and the depth."""
    photograph, view, depth = seen_from(0.0, scale)
    theirs, other_view, other_depth = seen_from(other, scale)
    theirs = Photograph(brightness * theirs.grey, theirs.view)
    normal = torch.nn.functional.normalize(NORMAL + torch.tensor([turn, turn, 0.0]), dim=0)
    ours = (depth * depth_factor).requires_grad_(True)
    rendering = drawn(ours, normal)
    random = torch.Generator().manual_seed(0)
    value = patch_consistency(
        rendering, view, photograph, other_depth * depth_factor, other_view, theirs, random
    )
    return value, ours


def value(*change, **changes):
    return float(loss(*change, 0.4, **changes)[0].detach())


@pytest.mark.parametrize("scale", [1, 2])
def test_the_true_plane_brings_patches_onto_each_other(scale):
    right = value(1.0, scale=scale)
    assert right < 0.001
    assert value(1.04, scale=scale) > 5 * right
    assert value(1.0, turn=0.2, scale=scale) > 1.5 * right


def test_brightness_and_contrast_of_the_other_photograph_do_not_matter():
    assert value(1.02, brightness=0.6) == pytest.approx(value(1.02), rel=0.02)


def test_the_gradient_leads_back_to_the_true_depth():
    for factor in (0.99, 1.01):
        error, depth = loss(factor, 0.4)
        error.backward()
        steps = depth.grad[depth.grad != 0]
        assert (torch.sign(steps) == np.sign(factor - 1)).float().mean() > 0.9


def test_hidden_pixels_do_not_count():
    """The other view's depth says that something stands in front of the wall."""
    photograph, view, depth = seen_from(0.0)
    theirs, other_view, other_depth = seen_from(0.4)
    rendering = drawn(depth, NORMAL)
    random = torch.Generator().manual_seed(0)
    noise = Photograph(torch.rand(theirs.grey.shape, generator=random), theirs.view)
    other = (view, photograph, 0.5 * other_depth, other_view, noise, random)
    assert float(patch_consistency(rendering, *other)) == 0.0
