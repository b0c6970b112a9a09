"""gsplat against the slow twin and the CPU, where there is a CUDA device; skipped elsewhere."""

from dataclasses import replace

import pytest
import torch
from test_gaussians_rasterizer import camera, cloud

from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.density import GradientTally, grown
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.twin import TwinRasterizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
PARTS = ("colour", "alpha", "plane_depth", "normal", "features")


def straight():
    """The test's camera without skew, which gsplat does not know."""
    view = camera(48, 36)
    K = view.camera.K.copy()
    K[0, 1] = 0
    return replace(view, camera=replace(view.camera, K=K))


def drawn(rasterizer, gaussians, features):
    leaves = {name: t.detach().clone().requires_grad_(True) for name, t in gaussians.tensors()}
    picture = render(rasterizer, type(gaussians)(**leaves), straight(), features=features)
    weights = torch.Generator().manual_seed(3)
    loss = sum(
        (part * torch.randn(part.shape, generator=weights)).sum()
        for part in (getattr(picture, name).cpu() for name in PARTS if name != "plane_depth")
    )  # fmt: skip
    loss.backward()
    return picture, {name: leaf.grad.cpu() for name, leaf in leaves.items()}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_gsplat_draws_what_the_twin_draws_with_its_gradients(device):
    pytest.importorskip("gsplat")
    gaussians = cloud(80, 0)
    gaussians.opacity_logits.clamp_max_(3.0)  # alpha of both ends elsewhere, beyond 0.99
    features = torch.randn(80, 24, generator=torch.Generator().manual_seed(1))
    want, slope = drawn(TwinRasterizer(), gaussians, features)
    got, ours = drawn(load_rasterizer("gsplat"), gaussians.to(device), features.to(device))
    assert got.colour.device.type == device
    for part in PARTS:
        off = (getattr(got, part).cpu() - getattr(want, part)).abs()
        assert off.quantile(0.99) < 0.01, (part, off.max())
    for name, gradient in slope.items():
        assert (ours[name] - gradient).norm() < 0.02 * gradient.norm(), name


def test_gsplats_discs_are_drawn_and_steer_growth():
    pytest.importorskip("gsplat")
    gaussians = cloud(80, 0).to("cuda")
    leaves = type(gaussians)(**{n: t.requires_grad_(True) for n, t in gaussians.tensors()})
    picture = render(load_rasterizer("gsplat2d"), leaves, straight())
    picture.colour.square().mean().backward()
    tally = GradientTally(80)
    tally.add(picture.raster.means_px, picture.raster.drawn)
    assert picture.alpha.max() > 0.5 and (tally.mean() > 0).sum() > 20
    stays, new = grown(leaves, tally.mean(), 10, torch.Generator().manual_seed(0))
    assert len(stays) == 80 and len(new) >= 10
