"""The one thread that works on frames: inference in a callback would starve /clock and services."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from l2m_ros.frames.inputs import Bundle


class Worker:
    """Latest wins, or lossless. `work` must not raise; it is told what to do with errors."""

    def __init__(self, work: Callable[[Bundle], None], *, lossless: bool) -> None:
        self._work = work
        self._lossless = lossless
        self._waiting: deque[Bundle] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="l2m-worker", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        return len(self._waiting)

    def submit(self, bundle: Bundle) -> None:
        """Never blocks. A bundle that asks for a reset passes that on when it is dropped."""
        with self._changed:
            if not self._lossless and self._waiting:
                old = self._waiting.popleft()
                self.dropped += 1
                if old.reset and not bundle.reset:
                    bundle = Bundle(bundle.stamp_ns, bundle.messages, bundle.received_s, True)
            self._waiting.append(bundle)
            self._changed.notify()

    def stop(self, timeout_s: float) -> bool:
        """Finish the frame at hand and end; False if that takes longer than the timeout."""
        with self._changed:
            self._stopping = True
            self._waiting.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (bundle := self._next()) is not None:
            self._work(bundle)

    def _next(self) -> Bundle | None:
        with self._changed:
            while not self._waiting and not self._stopping:
                self._changed.wait()
            return None if self._stopping else self._waiting.popleft()


def milliseconds_since(started_s: float) -> float:
    return (time.monotonic() - started_s) * 1e3
