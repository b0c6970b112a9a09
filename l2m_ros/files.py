"""Where files of this package lie, and how they are written: whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """What this user's machine made or fetched: $XDG_CACHE_HOME/l2m_ros."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "l2m_ros"


def write_whole(path: Path, content: bytes) -> None:
    """Written beside and renamed: two processes may build at once, nobody reads a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
