"""The map's process stands still while frames are at work: they take as long as without it.

    with hold.frame(): ...     tracking's threads, around their work; two may overlap
    hold.allow(process)        from when on this process may be stopped; None: no longer

An idle process makes way for a thread that wakes, but not for two that wait for each other: where
both threads of a network stand on one core, it keeps the other one. On two cores that others used
a little, tracking's threads waited 47 ms a frame for a core without a map, 160 beside one that was
idle and 51 beside one that was stopped.

Stopping is bounded: after LONGEST_S without enough free time between frames the process is let go
for FREE_S. It asks to be woken when the node dies (`worker`), so it never stays stopped.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

LONGEST_S = 0.6  # stopped, less what it had between frames times LONGEST_S / FREE_S
FREE_S = 0.2
LATER_S = 1e-3  # so that time has run out when the watching thread looks


class Hold:
    """Stops and continues one process. Counts frames, whether it may stop the process or not."""

    def __init__(self, longest_s: float = LONGEST_S, free_s: float = FREE_S) -> None:
        self._longest_s, self._recovery = longest_s, longest_s / free_s
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._frames = 0
        self._stopped = self._exhausted = self._closed = False
        # Seconds stopped, less the free ones times the recovery; counted up to this moment.
        self._used_s, self._since_s = 0.0, time.monotonic()
        self._watch = threading.Thread(target=self._run, name="l2m-map-hold", daemon=True)
        self._watch.start()

    @contextlib.contextmanager
    def frame(self) -> Iterator[None]:
        """A frame is at work."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def allow(self, process: subprocess.Popen[bytes] | None) -> None:
        """Which process may be stopped; one that was, and no longer may, goes on."""
        with self._changed:
            if process is not self._process and not self._closed:
                self._continue()
                self._process = process
                self._decide()
                self._changed.notify_all()

    def close(self) -> None:
        """The process goes on and is left alone."""
        self.allow(None)
        with self._changed:
            self._closed = True  # from now on `allow` does nothing
            self._changed.notify_all()
        self._watch.join()

    def _count(self, more: int) -> None:
        with self._changed:
            self._frames += more
            self._decide()

    def _decide(self) -> None:
        """Stopped while a frame is at work and time is left."""
        self._account()
        process = self._process
        if process is None or not self._frames or self._exhausted:
            self._continue()
        elif not self._stopped and process.returncode is None:
            process.send_signal(signal.SIGSTOP)
            self._stopped = True

    def _continue(self) -> None:
        if self._stopped:
            assert self._process is not None
            self._account()
            self._process.send_signal(signal.SIGCONT)
            self._stopped = False

    def _account(self) -> None:
        """Time stopped adds up; free time takes it away, faster."""
        now_s = time.monotonic()
        passed_s, self._since_s = now_s - self._since_s, now_s
        change_s = passed_s if self._stopped else -passed_s * self._recovery
        self._used_s = max(self._used_s + change_s, 0.0)
        if self._used_s >= self._longest_s:
            self._exhausted = True
        elif self._used_s == 0.0:
            self._exhausted = False

    def _run(self) -> None:
        """Continues the process where frames leave no gaps, or one never ends. Wakes no sooner than
        time can have run out, not with each frame: a thread that wakes takes Python's lock."""
        with self._changed:
            while not self._closed:
                self._decide()
                if self._process is None:
                    self._changed.wait()
                elif self._exhausted:
                    self._changed.wait(self._used_s / self._recovery + LATER_S)
                else:
                    self._changed.wait(self._longest_s - self._used_s + LATER_S)
