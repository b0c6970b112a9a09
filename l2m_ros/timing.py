"""How long the stages of one frame take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimes:
    """Milliseconds by stage, summed over one frame: `with times.stage("encode"): ...`."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        finally:
            spent_ms = (time.perf_counter() - started_s) * 1e3
            self.ms[name] = self.ms.get(name, 0.0) + spent_ms
