"""A thread that works off a queue: inference in a callback would block /clock and services."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from l2m_ros.frames.inputs import Bundle


class Worker:
    """Calls `work` for each bundle in a thread of its own; exceptions go to `on_error`.

    lossless: bundles queue up. Otherwise only the newest one waits and older ones are dropped.
    """

    def __init__(
        self,
        work: Callable[[Bundle], None],
        on_error: Callable[[Exception], None],
        *,
        lossless: bool,
    ) -> None:
        self._work, self._on_error = work, on_error
        self._lossless = lossless
        self._queue: deque[Bundle] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="l2m-worker", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        return len(self._queue)

    def submit(self, bundle: Bundle) -> None:
        """Never blocks. The reset that a dropped bundle asks for goes on to the next one."""
        with self._changed:
            if not self._lossless and self._queue:
                dropped = self._queue.popleft()
                self.dropped += 1
                bundle = replace(bundle, reset=bundle.reset or dropped.reset)
            self._queue.append(bundle)
            self._changed.notify()

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
            return None if self._stopping else self._queue.popleft()
