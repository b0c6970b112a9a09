"""Where the camera is mounted, from the messages of /tf_static: for replays, which have no tf2."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from l2m_ros.errors import InvalidInput
from l2m_ros.frames.messages import read_transform
from l2m_ros.geometry import se3
from l2m_ros.types import FloatArray


class StaticTransforms:
    """A tree of frames that do not move against each other."""

    def __init__(self, messages: Iterable[Any] = ()) -> None:
        self._neighbours: dict[str, dict[str, FloatArray]] = {}
        for message in messages:
            for stamped in message.transforms:
                parent, child = stamped.header.frame_id, stamped.child_frame_id
                T = read_transform(stamped.transform)
                self._neighbours.setdefault(parent.lstrip("/"), {})[child.lstrip("/")] = T
                self._neighbours.setdefault(child.lstrip("/"), {})[parent.lstrip("/")] = (
                    se3.inverse(T)
                )

    def lookup(self, target: str, source: str) -> FloatArray:
        """target_from_source, 4x4; InvalidInput names the frames that there are."""
        target_from, waiting = {target: np.eye(4)}, deque([target])
        while waiting and source not in target_from:
            frame = waiting.popleft()
            for other, T in self._neighbours.get(frame, {}).items():
                if other not in target_from:
                    target_from[other] = target_from[frame] @ T
                    waiting.append(other)
        if source not in target_from:
            known = ", ".join(sorted(self._neighbours)) or "none"
            raise InvalidInput(
                f"/tf_static does not connect {source} to {target} (it has: {known}); set "
                "base_from_camera, or base_from_tf: false"
            )
        return target_from[source]
