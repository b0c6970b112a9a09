"""gsplat behind the rasterizer's protocol: CUDA, its 3DGS and its 2DGS mode.

For gsplat 1.5 (`rasterization`, `rasterization_2dgs`). Gaussians that lie on the CPU are drawn on
the GPU and the pictures come back. What differs from the CPU rasterizer: alpha ends at 0.999
(0.99), Gaussians far outside of the image are flattened a little earlier, and nobody says which
Gaussian dominates a pixel. `test/test_gaussians_cuda.py` compares both modes with the slow twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2m_ros.errors import BackendUnavailable, InvalidInput
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
    if abs(view.camera.K[0, 1]) > 1e-6:
        raise InvalidInput("gsplat draws cameras without skew only: use --rasterizer cpu")
    K[:2, 2] += 0.5
    pose = torch.tensor(view.camera_from_world, dtype=like.dtype, device=like.device)
    width, height = view.size
    return {"viewmats": pose[None], "Ks": K[None], "width": width, "height": height}


def _raster(
    colours: Tensor, alphas: Tensor, means_px: Tensor, radii: Tensor, device: torch.device
) -> Raster:
    if means_px.requires_grad:
        means_px.retain_grad()
    drawn = (radii[0] > 0).all(dim=-1) if radii.ndim == 3 else radii[0] > 0
    picture, alpha = colours[0].to(device), alphas[0, ..., 0].to(device)
    return Raster(picture, alpha, means_px, drawn.to(device), None)


class GsplatRasterizer:
    """3DGS: ellipses of the projected covariance, as the CPU rasterizer draws them."""

    name = "gsplat"

    def __init__(self) -> None:
        self._gsplat = _library()

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        g = gaussians.to("cuda")
        colours, alphas, meta = self._gsplat.rasterization(
            means=g.means,
            quats=g.quaternions,
            scales=g.scales,
            opacities=g.opacities,
            colors=channels.to("cuda"),
            near_plane=NEAR,
            eps2d=BLUR_PX2,
            packed=False,
            **_camera(view, g.means),
        )
        return _raster(colours, alphas, meta["means2d"], meta["radii"], channels.device)


class Gsplat2dRasterizer:
    """2DGS: exact intersections of rays with discs; the thinnest axis is each disc's normal."""

    name = "gsplat2d"

    def __init__(self) -> None:
        self._gsplat = _library()

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        g = gaussians.to("cuda")
        quaternions, scales = disc_axes_first(g)
        colours, alphas, *_, meta = self._gsplat.rasterization_2dgs(
            means=g.means,
            quats=quaternions,
            scales=scales,
            opacities=g.opacities,
            colors=channels.to("cuda")[None],  # of the one camera: it takes no other form
            near_plane=NEAR,
            packed=False,
            **_camera(view, g.means),
        )
        moved = meta["gradient_2dgs"]  # zeros whose gradient is that of the places in the image
        return _raster(colours, alphas, moved, meta["radii"], channels.device)


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
