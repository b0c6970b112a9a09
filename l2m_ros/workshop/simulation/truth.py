"""Exact correspondences between any two simulated frames.

The point that a pixel of a sees comes from its triangle's plane in double precision, moves
with its object if that moves, and is projected into b. It is visible there if the ray of b
through that very sub-pixel place meets nothing nearer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l2m_ros.geometry.camera import project, unproject
from l2m_ros.types import Camera, DenseMatch, FloatArray
from l2m_ros.workshop.simulation.sequence import SimulatedFrame, Viewpoint
from l2m_ros.workshop.simulation.world import Indices, View

# A surface hides another if it is nearer by more than this: Embree's single precision.
OCCLUSION_M = 1e-3
OCCLUSION_SHARE = 1e-4


def true_match(
    a: SimulatedFrame | Viewpoint, b: SimulatedFrame | Viewpoint, *, stride: int = 1
) -> DenseMatch:
    """Query a, keyframe b: warp on a's grid (every stride-th cell), certainty 1 where visible.

    Where the point is hidden in b or outside its image the warp is still exact (it may lie
    beyond the border) and the certainty is 0; where a sees sky or the point is behind b it is NaN.
    """
    a, b = _viewpoint(a), _viewpoint(b)
    width, height = a.camera.size
    w, h = -(-width // stride), -(-height // stride)
    empty = DenseMatch(np.zeros((h, w, 2)), np.zeros((h, w)), a.camera.size, b.camera.size)
    warp, visible = true_points(a, b, empty.grid_px().reshape(-1, 2).astype(float))
    certainty = visible.astype(np.float32).reshape(h, w)
    return DenseMatch(warp.reshape(h, w, 2), certainty, a.camera.size, b.camera.size)


def true_points(
    a: SimulatedFrame | Viewpoint, b: SimulatedFrame | Viewpoint, px: FloatArray
) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """For (N, 2) pixels of a: the (N, 2) pixels of b that see the same points, and if they do."""
    a, b = _viewpoint(a), _viewpoint(b)
    view_a, view_b = a.view(), b.view()
    rays = unproject(a.camera, np.asarray(px, float))
    usable = np.isfinite(rays).all(axis=1)
    rays = np.where(usable[:, None], rays, [0.0, 0.0, 1.0])
    hit = view_a.first_hit(rays)
    points = _in_other_camera(view_a, view_b, hit, rays)
    points[~usable | (hit < 0)] = np.nan
    warp = project(b.camera, points)
    return warp, _visible(view_b, b.camera, warp, points, hit)


def _viewpoint(of: SimulatedFrame | Viewpoint) -> Viewpoint:
    return of if isinstance(of, Viewpoint) else of.viewpoint


def _in_other_camera(a: View, b: View, hit: Indices, rays: FloatArray) -> FloatArray:
    """(N, 3) the points hit, in the camera of b at b's time."""
    depth = a.depth_m(hit, rays)
    with np.errstate(invalid="ignore"):
        in_a = rays * np.where(np.isfinite(depth), depth, 1.0)[:, None]
    world = in_a @ a.world_from_camera[:3, :3].T + a.world_from_camera[:3, 3]
    shift = a.world.offsets_m(b.time_s) - a.world.offsets_m(a.time_s)
    if a.moving or b.moving:
        world = world + shift[a.world.group[hit]]
    return (world - b.world_from_camera[:3, 3]) @ b.world_from_camera[:3, :3]


def _visible(
    view: View, camera: Camera, warp: FloatArray, points: FloatArray, hit: Indices
) -> npt.NDArray[np.bool_]:
    """Inside b's image and not behind anything."""
    width, height = camera.size
    with np.errstate(invalid="ignore"):
        inside = ((warp >= -0.5) & (warp < [width - 0.5, height - 0.5])).all(axis=1)
    chosen = np.flatnonzero(inside)
    z = points[chosen, 2]
    rays = points[chosen] / z[:, None]
    first = view.first_hit(rays)
    nearest = view.depth_m(first, rays)
    seen = (first == hit[chosen]) | (nearest >= z * (1 - OCCLUSION_SHARE) - OCCLUSION_M)
    visible = np.zeros(len(warp), bool)
    visible[chosen] = seen
    return visible
