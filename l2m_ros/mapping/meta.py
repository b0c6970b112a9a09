"""Names in a map's meta table, and what they say of the model that a map was made with."""

from __future__ import annotations

from collections.abc import Mapping

from l2m_ros.errors import InvalidInput

MODEL, CHECKSUM, WORLD, RUNS = "model", "checksum", "world", "runs"
# Maps of before 1.0 may hold `own_detail`, by another measure.
OWN_DETAIL, LOOK_ALIKES = "own_agreement", "look_alikes"


def model_of(meta: Mapping[str, str], default: str) -> str:
    """The matcher that a map was made with; a map from elsewhere names no file to be loaded."""
    name = meta.get(MODEL, default)
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise InvalidInput(f"the map asks for the model {name!r}, a path: name one by --model")
    return name
