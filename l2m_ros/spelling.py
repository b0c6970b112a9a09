"""The nearest right spelling of a wrong name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean lite?' or nothing: to be appended to a refusal."""
    close = nearest_name(name, known)
    return f"; did you mean {close}?" if close else ""


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1)
    return close[0] if close else None
