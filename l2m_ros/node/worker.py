"""Threads that work off a queue: inference in a callback would block /clock and services.

    submit -> queue -> prepare (thread l2m-encode) -> work (thread l2m-worker)

The next image is encoded while the pose of this one is computed. One bundle at a time is prepared
ahead and no more wait between the two, so that an image is at most one frame old when it is used.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from l2m_ros.frames.inputs import Bundle

Prepare = Callable[[Bundle], Any]  # None: nothing is left to do for this bundle


class Worker:
    """Calls `work(prepare(bundle))` for each bundle, in the order of the bundles.

    lossless: bundles queue up, to max_bytes of images; those that come then are dropped and
    counted. Otherwise only the newest one waits and older ones are dropped. ahead: `prepare` has a
    thread of its own. Exceptions of both go to `on_error`.
    """

    def __init__(
        self,
        prepare: Prepare,
        work: Callable[[Any], None],
        on_error: Callable[[Exception], None],
        *,
        lossless: bool,
        ahead: bool = True,
        max_bytes: int = 2**30,
    ) -> None:
        self._prepare, self._work, self._on_error = prepare, work, on_error
        self._lossless, self._max_bytes = lossless, max_bytes
        self._queued_bytes = 0
        self.overflowed = 0  # bundles that found the queue full
        self._queue: deque[Bundle] = deque()
        self._prepared: deque[Any] = deque(maxlen=1)
        self._changed = threading.Condition()
        self._stopping = False
        self._reset_owed = False  # by a bundle that was dropped
        self.dropped = 0
        runs = {"l2m-worker": self._run_both}
        if ahead:
            runs = {"l2m-encode": self._run_prepare, "l2m-worker": self._run_work}
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True) for name, run in runs.items()
        ]
        for thread in self._threads:
            thread.start()

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
            self._changed.notify_all()

    def _is_full(self, bundle: Bundle) -> bool:
        return self._queued_bytes + bundle.image_bytes > self._max_bytes

    def stop(self, timeout_s: float) -> bool:
        """Finish the frames at hand and end; False if that takes longer than the timeout."""
        with self._changed:
            self._stopping = True
            self._queue.clear()
            self._changed.notify_all()
        end_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if threading.current_thread() is not thread:
                thread.join(max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run_both(self) -> None:
        while (bundle := self._next()) is not None:
            try:
                prepared = self._prepare(bundle)
                if prepared is not None:
                    self._work(prepared)
            except Exception as error:
                self._on_error(error)

    def _run_prepare(self) -> None:
        while (bundle := self._next()) is not None:
            try:
                prepared = self._prepare(bundle)
            except Exception as error:
                self._on_error(error)
                continue
            if prepared is not None:
                self._hand_over(prepared)

    def _run_work(self) -> None:
        while (prepared := self._next_prepared()) is not None:
            try:
                self._work(prepared)
            except Exception as error:
                self._on_error(error)

    def _next(self) -> Bundle | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._stopping)
            if self._stopping:
                return None
            bundle = self._queue.popleft()
            self._queued_bytes = sum(waiting.image_bytes for waiting in self._queue)
            return bundle

    def _hand_over(self, prepared: Any) -> None:
        """Blocks until the other thread has taken it, or the worker is stopped."""
        with self._changed:
            self._prepared.append(prepared)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._prepared or self._stopping)

    def _next_prepared(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._prepared or self._stopping)
            if self._stopping:
                return None
            prepared = self._prepared.popleft()
            self._changed.notify_all()
            return prepared
