"""The CPU rasterizer: numba kernels over bands of rows, one thread a band.

A Gaussian touches few pixels, so a band goes through its Gaussians, nearest first, and draws
only the pixels inside each ellipse. Backward goes farthest first; how much light reaches a
Gaussian follows from what passes it (T_i = T_{i+1} / (1 - alpha_i)). What lies behind enters
the gradient of alpha only as one number a pixel, B = sum_c g_c (colour behind)_c, so features
of many channels cost little more than colour. `twin.py` says the same slowly.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from l2m_ros.workshop.gaussians.kernels import backward_band, forward_band
from l2m_ros.workshop.gaussians.model import Gaussians, PosedCamera
from l2m_ros.workshop.gaussians.projection import Ellipses, project
from l2m_ros.workshop.gaussians.rasterizer import Raster

Array = npt.NDArray[Any]
BAND_ROWS = 16


class CpuRasterizer:
    """`threads`: None = OMP_NUM_THREADS where set, else one for each core."""

    name = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        if threads is None:
            threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def rasterize(self, gaussians: Gaussians, view: PosedCamera, channels: Tensor) -> Raster:
        ellipses = project(gaussians, view)
        if ellipses.means_px.requires_grad:
            ellipses.means_px.retain_grad()
        bands = _bands(ellipses, view)
        image, alpha, dominant = _Blend.apply(
            ellipses.means_px, ellipses.conics, ellipses.opacities, channels,
            ellipses.reach, ellipses.half_height_px, bands, view.size, self._map,
        )  # fmt: skip
        return Raster(image, alpha, ellipses.means_px, _drawn(ellipses, view), dominant)

    def _map(self, work: Any, items: list[Any]) -> list[Any]:
        """`work` on all items, on the threads if there are several."""
        if self._pool is None:
            return [work(item) for item in items]
        return list(self._pool.map(work, items))


def _drawn(ellipses: Ellipses, view: PosedCamera) -> Tensor:
    width, height = view.size
    x, y = ellipses.means_px.detach().unbind(1)
    return (
        (ellipses.reach > 0)
        & (x + ellipses.half_width_px > 0) & (x - ellipses.half_width_px < width - 1)
        & (y + ellipses.half_height_px > 0) & (y - ellipses.half_height_px < height - 1)
    )  # fmt: skip


def _bands(ellipses: Ellipses, view: PosedCamera) -> list[tuple[int, int, Array]]:
    """(first row, last row + 1, indices of the Gaussians on them, nearest first)."""
    height = view.size[1]
    order = torch.argsort(ellipses.depths.detach(), stable=True)
    order = order[_drawn(ellipses, view)[order]].numpy()
    y = ellipses.means_px.detach()[:, 1].numpy()[order]
    half = ellipses.half_height_px.numpy()[order]
    top, bottom = y - half, y + half
    bands = []
    for first in range(0, height, BAND_ROWS):
        end = min(first + BAND_ROWS, height)
        bands.append((first, end, order[(bottom >= first) & (top <= end - 1)]))
    return bands


class _Blend(torch.autograd.Function):
    """Blends channels; gradients to means, conics, opacities and channels."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, conics: Tensor, opacities: Tensor, channels: Tensor,
        reach: Tensor, half_height: Tensor, bands: Any, size: tuple[int, int], run: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        width, height = size
        inputs = [
            x.detach().contiguous().numpy()
            for x in (means, conics, opacities, channels, reach, half_height)
        ]
        kind = inputs[3].dtype
        image = np.zeros((height, width, channels.shape[1]), kind)
        passing = np.ones((height, width), kind)
        last = np.full((height, width), -1, np.int32)
        dominant = np.full((height, width), -1, np.int64)

        def draw(band: tuple[int, int, Array]) -> None:
            forward_band(*band, *inputs, image, passing, last, dominant)

        run(draw, bands)
        ctx.inputs, ctx.bands, ctx.run = inputs, bands, run
        ctx.passing, ctx.last = passing, last
        out = torch.from_numpy(image), torch.from_numpy(1 - passing), torch.from_numpy(dominant)
        ctx.mark_non_differentiable(out[2])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        g_image, g_alpha = (g.contiguous().numpy() for g in grads[:2])
        count, channels = ctx.inputs[3].shape
        total = np.zeros((count, 6 + channels), g_image.dtype)

        def gradients(band: tuple[int, int, Array]) -> tuple[Array, Array]:
            part = np.zeros((len(band[2]), 6 + channels), g_image.dtype)
            backward_band(*band, *ctx.inputs, g_image, g_alpha, ctx.passing, ctx.last, part)
            return band[2], part

        for index, part in ctx.run(gradients, ctx.bands):
            total[index] += part  # an index occurs once a band
        out = torch.from_numpy(total)
        means, conics, opacities = out[:, :2], out[:, 2:5], out[:, 5]
        return means, conics, opacities, out[:, 6:], None, None, None, None, None
