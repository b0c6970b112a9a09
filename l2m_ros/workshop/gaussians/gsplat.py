"""gsplat behind the rasterizer's protocol: CUDA, its 3DGS and its 2DGS mode.

Written against the documented API of gsplat 1.5 (`rasterization`, `rasterization_2dgs`). It has
NOT been run by us: no CUDA device was at hand. `test/test_gaussians_cuda.py` compares both with
the slow twin and runs where torch finds a device and gsplat is installed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2m_ros.errors import BackendUnavailable
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.projection import BLUR_PX2, NEAR
from l2m_ros.workshop.gaussians.rasterizer import Raster


def _library() -> Any:
    if not torch.cuda.is_available():
        raise BackendUnavailable("gsplat needs a CUDA device: use --rasterizer cpu")
    try:
        import gsplat
    except ImportError as error:
        raise BackendUnavailable("pip install gsplat (it compiles CUDA code once)") from error
    return gsplat


def _camera(view: PosedCamera, like: Tensor) -> dict[str, Any]:
    """Arguments of both functions; gsplat's pixel centres lie at one half."""
    K = torch.tensor(view.camera.K, dtype=like.dtype, device=like.device)
    K[:2, 2] += 0.5
    pose = torch.tensor(view.camera_from_world, dtype=like.dtype, device=like.device)
    width, height = view.size
    return {"viewmats": pose[None], "Ks": K[None], "width": width, "height": height}


def _raster(colours: Tensor, alphas: Tensor, meta: dict[str, Any]) -> Raster:
    means_px = meta["means2d"]
    if means_px.requires_grad:
        means_px.retain_grad()
    radii = meta["radii"][0]
    drawn = (radii > 0).all(dim=-1) if radii.ndim == 2 else radii > 0
    return Raster(colours[0], alphas[0, ..., 0], means_px, drawn, None)


class GsplatRasterizer:
    """3DGS: ellipses of the projected covariance, as the CPU rasterizer draws them."""

    name = "gsplat"

    def __init__(self) -> None:
        self._gsplat = _library()

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        colours, alphas, meta = self._gsplat.rasterization(
            means=gaussians.means,
            quats=gaussians.quaternions,
            scales=gaussians.scales,
            opacities=gaussians.opacities,
            colors=channels,
            near_plane=NEAR,
            eps2d=BLUR_PX2,
            packed=False,
            **_camera(view, gaussians.means),
        )
        return _raster(colours, alphas, meta)


class Gsplat2dRasterizer:
    """2DGS: exact intersections of rays with discs; the thinnest axis is each disc's normal."""

    name = "gsplat2d"

    def __init__(self) -> None:
        self._gsplat = _library()

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        quaternions, scales = disc_axes_first(gaussians)
        colours, alphas, *_, meta = self._gsplat.rasterization_2dgs(
            means=gaussians.means,
            quats=quaternions,
            scales=scales,
            opacities=gaussians.opacities,
            colors=channels,
            near_plane=NEAR,
            packed=False,
            **_camera(view, gaussians.means),
        )
        return _raster(colours, alphas, meta)


# Turns that bring axis 0, 1 or 2 to the third place: (w, x, y, z) of 1/3 turns about (1, 1, 1).
_TO_THIRD = ((0.5, 0.5, 0.5, 0.5), (0.5, -0.5, -0.5, -0.5), (1.0, 0.0, 0.0, 0.0))
_ORDER = ((1, 2, 0), (2, 0, 1), (0, 1, 2))


def disc_axes_first(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """The same Gaussians with their thinnest axis third: quaternions (N, 4) and scales (N, 3)."""
    thinnest = gaussians.log_scales.argmin(dim=1)
    like = gaussians.quaternions
    turn = like.new_tensor(_TO_THIRD)[thinnest]
    order = torch.tensor(_ORDER, device=like.device)[thinnest]
    return quaternion_product(like, turn), gaussians.scales.gather(1, order)


def quaternion_product(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4) w x y z of the rotation a b."""
    aw, ax, ay, az = a.unbind(1)
    bw, bx, by, bz = b.unbind(1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=1,
    )
