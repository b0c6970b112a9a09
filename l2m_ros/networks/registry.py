"""Every matching network by the name of its architecture.

    network = build("l2m")                 the published sizes
    network = build("l2m", **l2m.TINY)     the same parts, thin

Each has encode(image), reference(features), match(features, reference) on NCHW tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from l2m_ros.errors import ModelError
from l2m_ros.spelling import nearest


def _l2m(**config: Any) -> nn.Module:
    from l2m_ros.networks.l2m.network import build_l2m

    return build_l2m(**config)


def _tinyroma(**config: Any) -> nn.Module:
    from l2m_ros.networks.tinyroma.network import build_tinyroma

    return build_tinyroma(**config)


def _lite(**config: Any) -> nn.Module:
    from l2m_ros.networks.lite.network import build_lite

    return build_lite(**config)


def _mickey(**config: Any) -> nn.Module:
    from l2m_ros.networks.mickey.network import build_mickey

    return build_mickey(**config)


def _lite_depth(**config: Any) -> nn.Module:
    from l2m_ros.networks.lite_depth.network import build_lite_depth

    return build_lite_depth(**config)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "l2m": _l2m,
    "tinyroma": _tinyroma,
    "lite": _lite,
    "mickey": _mickey,
    "lite_depth": _lite_depth,  # a head on the encoder of `lite`: depth(features) alone
}


def build(architecture: str, **config: Any) -> nn.Module:
    """An untrained network; unknown names and settings fail with the nearest right spelling."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"unknown architecture {architecture!r} (known: {', '.join(ARCHITECTURES)})"
            f"{nearest(architecture, ARCHITECTURES)}"
        )
    try:
        return ARCHITECTURES[architecture](**config)
    except TypeError as error:
        raise ModelError(f"configuration of {architecture}: {error}") from error
