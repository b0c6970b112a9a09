"""What the options of all that makes views and pairs must keep to."""

from __future__ import annotations

from typing import Any

from l2m_ros.errors import InvalidInput
from l2m_ros.workshop.lifting.shards import MAX_SIDE_PX


def check_fractions(options: Any, *names: str) -> None:
    for name in names:
        if not 0.0 <= getattr(options, name) <= 1.0:
            raise InvalidInput(f"{name} must lie in [0, 1], got {getattr(options, name)}")


def check_views(views: int) -> None:
    if views < 2:
        raise InvalidInput(f"--views {views}: a correspondence takes at least 2 views")


def check_shards(width: int, height: int, per_shard: int) -> None:
    """Views of that size, and how many items a shard holds."""
    if not 32 <= min(width, height) <= max(width, height) <= MAX_SIDE_PX:
        raise InvalidInput(
            f"views of {width}x{height}: sides from 32 to {MAX_SIDE_PX} can be stored"
        )
    if per_shard < 1:
        raise InvalidInput(f"--per-shard {per_shard}: a shard holds at least 1")
