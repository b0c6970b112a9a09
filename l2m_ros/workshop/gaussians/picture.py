"""What a scene looks like to people: real, rendered, depth, normals, view by view."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from l2m_ros.types import ByteArray, FloatArray
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.model import Gaussians
from l2m_ros.workshop.gaussians.neighbours import SKY, usual_distance
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import render


@torch.no_grad()
def scene_picture(
    gaussians: Gaussians, captures: list[Capture], rasterizer: Rasterizer, rows: int = 3
) -> ByteArray:
    """(rows H, 4 W, 3): up to `rows` views, spread over those given."""
    chosen = np.unique(np.linspace(0, len(captures) - 1, rows).round().astype(int))
    far = SKY * usual_distance(gaussians, captures)
    lines = []
    for index in chosen:
        capture = captures[int(index)]
        rendering = render(rasterizer, gaussians, capture.view, far=far)
        colour = (rendering.colour.clamp(0, 1) * 255).byte().cpu().numpy()
        normal = torch.nn.functional.normalize(rendering.normal, dim=-1).cpu().numpy()
        depth = depth_picture(rendering.plane_depth.cpu().numpy())
        tinted = ((0.5 - 0.5 * normal) * 255).astype(np.uint8)
        lines.append(np.hstack([capture.rgb, colour, depth, tinted]))
    width = min(line.shape[1] for line in lines)
    return np.vstack([cv2.resize(x, (width, x.shape[0] * width // x.shape[1])) for x in lines])


def depth_picture(depth: FloatArray) -> ByteArray:
    """(H, W, 3): near is red, far is blue, unknown is black."""
    known = depth > 0
    inverse = np.where(known, 1.0 / np.where(known, depth, 1.0), 0.0)
    high = float(np.quantile(inverse[known], 0.99)) if known.any() else 1.0
    scaled = (np.clip(inverse / high, 0, 1) * 255).astype(np.uint8)
    rgb = cv2.applyColorMap(scaled, cv2.COLORMAP_TURBO)[..., ::-1]
    return np.asarray(rgb * known[..., None], np.uint8)
