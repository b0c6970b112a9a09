"""The rasterizers by name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import torch

from l2m_ros.errors import BackendUnavailable, InvalidInput
from l2m_ros.workshop.gaussians.rasterizer import Rasterizer


def load_rasterizer(name: str = "auto") -> Rasterizer:
    """auto: gsplat where it is installed and there is CUDA, else cpu. twin is the slow readable
    one."""
    if name == "auto":
        name = _best()
    if name not in RASTERIZERS:
        raise InvalidInput(f"unknown rasterizer {name!r}: use auto, {', '.join(RASTERIZERS)}")
    return RASTERIZERS[name]()


def _best() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    if importlib.util.find_spec("gsplat") is not None:
        return "gsplat"
    print(
        "l2m: there is a GPU, but gsplat is not installed (pip install gsplat): the CPU renders",
        file=sys.stderr,
    )
    return "cpu"


def _cpu() -> Rasterizer:
    try:
        from l2m_ros.workshop.gaussians.cpu import CpuRasterizer
    except ImportError as error:
        raise BackendUnavailable(
            "the CPU rasterizer needs numba: pip install 'l2m_ros[train]'"
        ) from error
    return CpuRasterizer()


def _twin() -> Rasterizer:
    from l2m_ros.workshop.gaussians.twin import TwinRasterizer

    return TwinRasterizer()


def _gsplat() -> Rasterizer:
    from l2m_ros.workshop.gaussians.gsplat import GsplatRasterizer

    return GsplatRasterizer()


def _gsplat_2d() -> Rasterizer:
    from l2m_ros.workshop.gaussians.gsplat import Gsplat2dRasterizer

    return Gsplat2dRasterizer()


RASTERIZERS: dict[str, Callable[[], Rasterizer]] = {
    "cpu": _cpu,
    "gsplat": _gsplat,
    "gsplat2d": _gsplat_2d,
    "twin": _twin,
}
