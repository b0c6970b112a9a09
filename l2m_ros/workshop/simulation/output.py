"""Files and folders that are whole or not there at all."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from l2m_ros.errors import InvalidInput


@contextmanager
def written_whole(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A fresh folder to work in beside the target; what is made at the path given becomes
    `target` if the block ends well, and is removed if it does not (Ctrl-C and SIGTERM included).
    """
    target = Path(target)
    refuse_existing(target, force=force)
    target.parent.mkdir(parents=True, exist_ok=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        with _termination_as_interrupt():
            made = workshop / (target.stem or target.name)
            yield made
            refuse_existing(target, force=force)
            if target.exists():
                os.replace(target, workshop / "replaced")
            os.replace(made, target)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def refuse_existing(target: Path, *, force: bool) -> None:
    if Path(target).exists() and not force:
        raise InvalidInput(f"{target} exists already: name another output or add --force")


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM (timeout, docker stop) raises KeyboardInterrupt, unless somebody handles it."""
    unhandled = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not unhandled or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
