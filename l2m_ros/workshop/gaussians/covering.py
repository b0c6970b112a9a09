"""Gaussians where the first ones leave holes: plain walls without matches, unknown depth."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from l2m_ros.geometry.camera import rays
from l2m_ros.types import FloatArray
from l2m_ros.workshop.gaussians.captures import Capture
from l2m_ros.workshop.gaussians.initial import SKY_DISTANCE, Points, joined
from l2m_ros.workshop.gaussians.model import Gaussians
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer
from l2m_ros.workshop.gaussians.rendering import render
from l2m_ros.workshop.lifting.sky import sky_by_rule

COVERED = 0.3  # alpha below which a pixel is a hole
VIEWS = 24  # that are looked through, spread over all


@torch.no_grad()
def points_in_holes(
    gaussians: Gaussians,
    captures: list[Capture],
    rasterizer: Rasterizer,
    wanted: int,
    seed: int = 0,
) -> Points | None:
    """About `wanted` points at the depth of the nearest covered pixel; sky far away."""
    rng = np.random.default_rng((seed, 2))
    chosen = np.unique(np.linspace(0, len(captures) - 1, VIEWS).round().astype(int))
    parts = []
    for index in chosen:
        capture = captures[int(index)]
        rendering = render(rasterizer, gaussians, capture.view)
        depth = rendering.expected_depth.cpu().numpy().astype(np.float64)
        hole = (rendering.alpha < COVERED).cpu().numpy()
        if hole.all() or not hole.any():
            continue
        parts.append(_filled(capture, depth, hole, wanted // len(chosen), rng))
    return joined(parts) if parts else None


def _filled(
    capture: Capture, depth: FloatArray, hole: FloatArray, count: int, rng: np.random.Generator
) -> Points:
    _, label = cv2.distanceTransformWithLabels(
        hole.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = np.zeros(label.max() + 1)
    values[label[~hole]] = depth[~hole]
    near = values[label]
    near[sky_by_rule(capture.rgb)] = SKY_DISTANCE * np.median(depth[~hole])
    rows, columns = np.nonzero(hole & (near > 0))
    at = rng.permutation(len(rows))[:count]
    rows, columns = rows[at], columns[at]
    pose, ray = capture.view.world_from_camera, rays(capture.view.camera)[rows, columns]
    distance = near[rows, columns]
    xyz = ray * distance[:, None] @ pose[:3, :3].T + pose[:3, 3]
    back = -ray / np.linalg.norm(ray, axis=1, keepdims=True)
    return Points(xyz, capture.rgb[rows, columns] / 255.0, back @ pose[:3, :3].T, distance)
