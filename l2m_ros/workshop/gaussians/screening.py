"""Which new views of a scene are worth having: those that look like the views it was built from.

Four figures of a view are compared with those of the input views; beyond 2 sigma it is rejected:
Gaussians drawn (by solid angle, so that zoom alone rejects nothing), mean opacity, share of
pixels with depth, share of pixels much nearer than usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.neighbours import SKY
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import Rendering, render

NAMES = ("Gaussians", "opacity", "valid share", "near share")
SIGMAS = 2.0
# No figure is known better than this: a scene's own views may be all alike.
LEAST_SIGMA = np.array([0.35, 0.02, 0.03, 0.03])
LEAST_ALPHA = 0.5
NEAR = 0.3  # of the median depth of the input views
VIEWS = 24  # that the figures are taken from


@dataclass(frozen=True, eq=False)
class Screening:
    """What is usual in a scene."""

    distance: float  # median depth of the input views
    mean: FloatArray  # (4,) of NAMES
    sigma: FloatArray  # (4,)

    def reason(self, rendering: Rendering, view: PosedCamera) -> str | None:
        """Why a view is rejected, or None."""
        off = (figures(rendering, view, self.distance) - self.mean) / self.sigma
        # More opacity and depth than usual, and fewer near things, are no fault.
        wrong = np.array([abs(off[0]), -off[1], -off[2], off[3]])
        worst = int(wrong.argmax())
        return f"{NAMES[worst]}: {wrong[worst]:.1f} sigma" if wrong[worst] > SIGMAS else None


def figures(rendering: Rendering, view: PosedCamera, distance: float) -> FloatArray:
    """(4,) of a view, the number of Gaussians as a logarithm by solid angle."""
    camera = view.camera
    angle = camera.width * camera.height / (camera.K[0, 0] * camera.K[1, 1])
    count = float(rendering.raster.drawn.sum())
    depth = rendering.plane_depth
    valid = (rendering.solid > LEAST_ALPHA) & (depth > 0)
    near = valid & (depth < NEAR * distance)
    return np.array(
        [
            np.log(max(count, 1.0) / angle),
            float(rendering.alpha.mean()),
            float(valid.float().mean()),
            float(near.float().mean()),
        ]
    )


@torch.no_grad()
def screening_of(
    gaussians: Gaussians, views: list[PosedCamera], rasterizer: Rasterizer
) -> Screening:
    """From renderings at the input views."""
    chosen = np.unique(np.linspace(0, len(views) - 1, VIEWS).round().astype(int))
    some = [views[int(i)] for i in chosen]
    depths = [render(rasterizer, gaussians, view).plane_depth for view in some]
    medians = [depth[depth > 0].median() for depth in depths if (depth > 0).any()]
    distance = float(torch.stack(medians).median()) if medians else 1.0
    far = SKY * distance
    rows = np.stack(
        [figures(render(rasterizer, gaussians, view, far=far), view, distance) for view in some]
    )
    return Screening(distance, rows.mean(axis=0), np.maximum(rows.std(axis=0), LEAST_SIGMA))
