"""A matcher's features as plain arrays: to be stored, sent, and given back to the same model.

Every engine takes arrays where it takes its own tensors, so a stored frame needs no encoder.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.classical import Described
from l2m_ros.matching.matcher import Matcher
from l2m_ros.types import Features

Arrays = dict[str, npt.NDArray[Any]]

HEAD_FEATURES = ("eyes", "eyes_wide")  # for depth heads: once read, nothing needs them
POINTS, DESCRIPTORS = "px", "descriptors"  # names of the arrays of matchers with points


def checksum(matcher: Matcher) -> str:
    """Changes with the model's weights and its input: other weights see other features.

    By the card's `weights_id`, so that the same weights exported once more, in half precision or
    for another engine, go on with their maps; cards without one are known by their files.
    """
    card = getattr(matcher, "card", None)
    if card is None:
        return "classical"
    parts = [f"{role} {file.sha256}" for role, file in sorted(card.files.items())]
    if card.weights_id is not None:
        parts = [card.weights_id]
    spec = card.input
    seen = f"{spec.size} {spec.resize} {spec.mean} {spec.std}"
    text = " ".join([card.architecture, seen, *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_arrays(matcher: Matcher, features: Features) -> Arrays:
    """Host arrays of what `matcher.encode` gave."""
    data = features.data
    if hasattr(matcher, "to_arrays"):  # a peer
        of_peer: Arrays = matcher.to_arrays(features)
        return of_peer
    if isinstance(data, Described):
        return {POINTS: data.px, DESCRIPTORS: data.descriptors}
    backend = getattr(matcher, "backend", None)
    if backend is None:
        raise InvalidInput(f"features of {matcher.name} cannot be stored: use another matcher")
    kept = {name: tensor for name, tensor in data.items() if name not in HEAD_FEATURES}
    arrays: Arrays = backend.to_host(kept)
    return arrays


def from_arrays(matcher: Matcher, arrays: Arrays, image_size: tuple[int, int]) -> Features:
    """What `matcher.reference` and `matcher.match` take."""
    if hasattr(matcher, "from_arrays"):
        of_peer: Features = matcher.from_arrays(arrays, image_size)
        return of_peer
    if POINTS in arrays:
        px = arrays[POINTS].astype(np.float64)
        return Features(matcher.name, image_size, Described(px, arrays[DESCRIPTORS]))
    return Features(matcher.name, image_size, arrays)


def grid_shape(arrays: Arrays) -> tuple[int, int] | None:
    """(rows, columns) of the cells of `local_descriptors`; None where there are points."""
    if DESCRIPTORS in arrays:
        return None
    rows, columns = _coarsest(arrays).shape[-2:]
    return rows, columns


def local_descriptors(arrays: Arrays) -> npt.NDArray[np.float32]:
    """(N, D) of unit length: the cells of the coarsest map, or a classical matcher's points."""
    if DESCRIPTORS in arrays:
        local = arrays[DESCRIPTORS]
        if local.dtype == np.uint8:  # bits: -1 and 1, so that the product counts equal ones
            local = 2.0 * np.unpackbits(local, axis=1) - 1.0
    else:
        coarsest = _coarsest(arrays)
        local = coarsest[0].reshape(coarsest.shape[1], -1).T
    local = np.asarray(local, np.float32)
    return np.asarray(local / np.maximum(np.linalg.norm(local, axis=1, keepdims=True), 1e-9))


def _coarsest(arrays: Arrays) -> npt.NDArray[Any]:
    """(1, D, rows, columns) of the fewest cells."""
    maps = {name: a for name, a in arrays.items() if a.ndim == 4 and min(a.shape[2:]) > 1}
    if not maps:
        raise InvalidInput("the features hold no map of cells to describe a place by")
    _, name = min((a[0, 0].size, name) for name, a in maps.items() if _richest(a, maps))
    return maps[name]


def _richest(a: npt.NDArray[Any], maps: Arrays) -> bool:
    """Of the maps at one resolution, the one with the most channels."""
    return all(a.shape[1] >= b.shape[1] for b in maps.values() if b.shape[2:] == a.shape[2:])
