"""camera_info by stamp: the message that belongs to an image, whatever the order of arrival.

Drivers give both the same stamp. Where none has the image's, the newest one that is not younger
stands in; a latched one, published once, serves for ever.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from l2m_ros.frames.messages import stamp_ns

KEPT = 100  # more than wait while depth is late


class CameraInfos:
    """The messages of one topic."""

    def __init__(self) -> None:
        self._messages: deque[Any] = deque(maxlen=KEPT)
        self._in_step = False  # whether the last image had one of its own stamp

    def __bool__(self) -> bool:
        return bool(self._messages)

    def add(self, message: Any) -> None:
        self._messages.append(message)

    def forget(self) -> None:
        """Time jumped back: keep only the newest message."""
        while len(self._messages) > 1:
            self._messages.popleft()
        self._in_step = False

    def at(self, stamp: int) -> Any | None:
        """The message for an image of this stamp, or None if there is none at all."""
        stamps = [stamp_ns(message) for message in self._messages]
        self._in_step = stamp in stamps and len(set(stamps)) > 1
        if stamp in stamps:
            return self._messages[stamps.index(stamp)]
        older = [at for at in stamps if at <= stamp]
        if not stamps:
            return None
        return self._messages[stamps.index(max(older) if older else min(stamps))]

    def has_passed(self, stamp: int) -> bool:
        """Whether no message for this stamp can come any more; a topic out of step has none."""
        return not self._in_step or any(stamp_ns(message) >= stamp for message in self._messages)
