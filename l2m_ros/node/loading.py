"""Loads a model in a thread of its own: it takes seconds, and building a TensorRT engine minutes.

The thread of the transition waits, reports progress once a second, and gives up when the process
is asked to end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from l2m_ros import compiled
from l2m_ros.geometry.depth_image import DepthNoise
from l2m_ros.geometry.pose import estimate_pose
from l2m_ros.geometry.synthetic import SMALL, World, trial
from l2m_ros.matching.matcher import Matcher

T = TypeVar("T")
log = logging.getLogger(__name__)
POLL_S = 0.05
M_ARENA_MAX = -8  # of glibc's malloc.h


class Interrupted(Exception):
    """The process was asked to end while a model was being loaded."""


class LogForwarder(logging.Handler):
    """Forwards the log records of this package; keeps the newest line, to show progress."""

    def __init__(self, forward: Callable[[int, str], None]) -> None:
        super().__init__(logging.INFO)
        self._forward = forward
        self.newest = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.newest = record.getMessage()
        self._forward(record.levelno, self.newest)

    def __enter__(self) -> LogForwarder:
        self._logger = logging.getLogger("l2m_ros")
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        self._logger.addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        self._logger.removeHandler(self)
        self._logger.setLevel(self._level)


def run_in_thread(
    make: Callable[[], T],
    *,
    progress: Callable[[float], None],
    alive: Callable[[], bool],
    period_s: float = 1.0,
) -> T:
    """What `make` returns or raises. `progress` is called with the seconds so far."""
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["made"] = make()
        except BaseException as error:  # passed on below, in the thread that waits
            outcome["error"] = error

    started_s = reported_s = time.monotonic()
    thread = threading.Thread(target=work, name="l2m-loading", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
        if not alive():
            raise Interrupted("asked to end while loading")
        if time.monotonic() - reported_s >= period_s:
            reported_s = time.monotonic()
            progress(reported_s - started_s)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["made"]  # type: ignore[no-any-return]


def limit_memory_pools() -> None:
    """Two of glibc's pools for all threads; to be called before there are any.

    It would make one for each thread, and each life cycle brings new threads: 200 of them took
    resident memory from 277 to 305 MB.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 2)


def give_memory_back() -> None:
    """What was freed goes back to the system: glibc keeps a pool for each thread of the past.

    20 models of 6 MB loaded and freed: 154 MB resident without this, 91 MB with it.
    """
    gc.collect()  # engines hold memory in reference cycles
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def warm_up(matcher: Matcher, size: tuple[int, int] = (640, 480)) -> float:
    """Seconds of one whole match on noise: allocates memory, fills caches, finds broken models."""
    started_s = time.perf_counter()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    features = matcher.encode(noise)
    matcher.match(features, matcher.reference(features))
    return time.perf_counter() - started_s


def warm_up_pose() -> float:
    """Seconds of one pose from drawn matches: compiles what numba compiles, or loads it."""
    started_s = time.perf_counter()
    log.info("poses: loading compiled code (10 to 20 s where it was never compiled before)")
    noise = DepthNoise(0.002, 0.002)
    world = World("warm-up", camera=SMALL, matches=100, query_depth=True, depth_noise=noise)
    drawn = trial(world, 0)
    try:
        estimate_pose(drawn.matches, drawn.query, drawn.keyframe)
    except Exception as error:  # numba's errors share no base class with those of LLVM
        compiled.switch_off(f"{type(error).__name__}: {error}")
    return time.perf_counter() - started_s
