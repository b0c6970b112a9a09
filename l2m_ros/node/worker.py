"""A thread that works off a queue: inference in a callback would block /clock and services."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from l2m_ros.frames.inputs import Bundle


class Worker:
    """Calls `work` for each bundle in a thread of its own; exceptions go to `on_error`.

    lossless: bundles queue up, to max_bytes of images; those that come then are dropped and
    counted. Otherwise only the newest one waits and older ones are dropped.
    """

    def __init__(
        self,
        work: Callable[[Bundle], None],
        on_error: Callable[[Exception], None],
        *,
        lossless: bool,
        max_bytes: int = 2**30,
    ) -> None:
        self._work, self._on_error = work, on_error
        self._lossless, self._max_bytes = lossless, max_bytes
        self._queued_bytes = 0
        self.overflowed = 0  # bundles that found the queue full
        self._queue: deque[Bundle] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._reset_owed = False  # by a bundle that was dropped
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="l2m-worker", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        return len(self._queue)

    def submit(self, bundle: Bundle) -> None:
        """Never blocks. The reset that a dropped bundle asks for goes on to the next one."""
        with self._changed:
            if self._lossless and self._queue and self._is_full(bundle):
                self.overflowed += 1
                self._reset_owed |= bundle.reset
                return
            if not self._lossless and self._queue:
                dropped = self._queue.popleft()
                self.dropped += 1
                self._reset_owed |= dropped.reset
            if self._reset_owed:
                bundle, self._reset_owed = replace(bundle, reset=True), False
            self._queue.append(bundle)
            self._queued_bytes += bundle.image_bytes
            self._changed.notify()

    def _is_full(self, bundle: Bundle) -> bool:
        return self._queued_bytes + bundle.image_bytes > self._max_bytes

    def stop(self, timeout_s: float) -> bool:
        """Finish the frame at hand and end; False if that takes longer than the timeout."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (bundle := self._next()) is not None:
            try:
                self._work(bundle)
            except Exception as error:
                self._on_error(error)

    def _next(self) -> Bundle | None:
        with self._changed:
            while not self._queue and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            bundle = self._queue.popleft()
            self._queued_bytes = sum(waiting.image_bytes for waiting in self._queue)
            return bundle
