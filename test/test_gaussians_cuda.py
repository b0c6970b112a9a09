"""gsplat against the slow twin, where there is a CUDA device; skipped elsewhere."""

import pytest
import torch
from test_gaussians_rasterizer import camera, cloud

from l2m_ros.workshop.gaussians.choice import load_rasterizer
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.gaussians.twin import TwinRasterizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_gsplat_draws_what_the_twin_draws():
    pytest.importorskip("gsplat")
    gaussians = cloud(80, 0)
    want = render(TwinRasterizer(), gaussians, camera())
    on_device = type(gaussians)(**{name: t.cuda() for name, t in gaussians.tensors()})
    got = render(load_rasterizer("gsplat"), on_device, camera())
    for part in ("colour", "alpha", "normal"):
        assert (getattr(got, part).cpu() - getattr(want, part)).abs().max() < 0.02, part
