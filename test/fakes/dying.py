"""Work whose process is killed. In a module of its own: each process that does it imports it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Dying:
    """Squares; the process of number 2 is killed the first `times` times."""

    folder: Path
    times: int

    def __call__(self, number: int) -> int:
        if number == 2:
            deaths = len(list(self.folder.glob("death*")))
            if deaths < self.times:
                (self.folder / f"death{deaths}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return number * number
