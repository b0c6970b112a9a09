"""From a match to a list of pairs: few enough for the solver, spread over the image.

cells     the most certain pixel of each cell of a regular grid: even, cheap (1 ms), default
density   as the published dense matchers draw: by certainty, then thinned where both images
          are crowded (a kernel density estimate); random, about a second
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from l2m_ros.errors import InvalidInput
from l2m_ros.matching.matcher import Match
from l2m_ros.types import Correspondences, DenseMatch

Array = npt.NDArray[Any]

METHODS = ("cells", "density")
LIMIT = 2000
THRESHOLD = 0.05  # certainty below which the published matchers draw hardly any pixel
TIE_BREAK = 1e-3  # certainties closer than this count as equal, and one is drawn at random
EXPANSION = 4  # times the limit is drawn by certainty; then dense regions are thinned
BANDWIDTH = 0.1  # of the density, in normalised coordinates ([-1, 1] over each image)
MIN_NEIGHBOURS = 10.0  # a match with fewer is mostly wrong ...
FEW_NEIGHBOURS_WEIGHT = 1e-7  # ... and hardly ever drawn
ROWS_AT_ONCE = 1024  # of the distance matrix


def correspondences(
    match: Match,
    limit: int = LIMIT,
    threshold: float = THRESHOLD,
    seed: int | None = 0,
    method: str = "cells",
    favour: Array | None = None,
) -> Correspondences:
    """At most `limit` pairs of a match. The same seed gives the same pairs; None = by chance.

    A DenseMatch is sampled over the query's image, certainties above the threshold only (by
    density: hardly any below it). Correspondences are kept as they are, the most confident where
    there are too many. favour (h, w): by so much more than its certainty a pixel counts in its
    cell; by cells only.
    """
    if limit < 1 or not 0 <= threshold <= 1:
        raise InvalidInput(
            f"limit must be positive and threshold in [0, 1], got {limit}, {threshold}"
        )
    if method not in METHODS:
        raise InvalidInput(f"unknown sampling {method!r}: use {', '.join(METHODS)}")
    if favour is not None and method != "cells":
        raise InvalidInput(f"sampling {method!r} favours no pixel: use cells")
    if isinstance(match, Correspondences):
        return most_confident(match, limit)
    rng = np.random.default_rng(seed)
    if method == "cells":
        chosen = _by_cells(match, limit, threshold, rng, favour)
    else:
        chosen = _by_density(match, limit, threshold, rng)
    return pairs_at(match, np.sort(chosen))


def most_confident(pairs: Correspondences, limit: int) -> Correspondences:
    """The `limit` most confident pairs, in the order they came in."""
    if len(pairs) <= limit:
        return pairs
    best = np.argsort(-pairs.confidence, kind="stable")[:limit]
    return pairs.select(np.sort(best))


def pairs_at(match: DenseMatch, flat: Array) -> Correspondences:
    """The pairs at flat indices of a dense match's grid."""
    return Correspondences(
        match.grid_px().reshape(-1, 2)[flat],
        match.warp_px.reshape(-1, 2)[flat],
        match.certainty.reshape(-1)[flat],
        None if match.precision is None else match.precision.reshape(-1, 2, 2)[flat],
    )


def _by_cells(
    match: DenseMatch,
    limit: int,
    threshold: float,
    rng: np.random.Generator,
    favour: Array | None,
) -> Array:
    """The most certain pixel of each cell; about `limit` cells hold one."""
    certain = match.certainty > threshold
    count = int(certain.sum())
    side = max(1, math.ceil(math.sqrt(count / limit)))
    if side == 1:
        return np.flatnonzero(certain)
    h, w = certain.shape
    score = match.certainty if favour is None else match.certainty * favour
    score = score + TIE_BREAK * rng.random((h, w), dtype=np.float32)
    padded = np.full((-(-h // side) * side, -(-w // side) * side), -1.0, np.float32)
    padded[:h, :w] = np.where(certain, score, -1.0)
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    cells = padded.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side * side)
    best = cells.argmax(axis=1)
    found = np.flatnonzero(cells[np.arange(len(cells)), best] > 0)
    if len(found) > limit:  # cells on the border of the certain area are partly filled
        weakest = np.argsort(-cells[found, best[found]], kind="stable")
        found = found[weakest[:limit]]
    v = found // columns * side + best[found] // side
    u = found % columns * side + best[found] % side
    return np.asarray(v * w + u)


def _by_density(
    match: DenseMatch,
    limit: int,
    threshold: float,
    rng: np.random.Generator,
) -> Array:
    """Weights w = 1 above the threshold, else the certainty; then 1 / (density + 1)."""
    certainty = match.certainty.reshape(-1).astype(np.float64)
    drawn = _draw(np.where(certainty > threshold, 1.0, certainty), EXPANSION * limit, rng)
    normalised = [
        (2.0 * picked_px + 1.0) / size - 1.0
        for picked_px, size in (
            (match.grid_px().reshape(-1, 2)[drawn], match.query_size),
            (match.warp_px.reshape(-1, 2)[drawn], match.keyframe_size),
        )
    ]
    crowd = density(np.concatenate(normalised, axis=1).astype(np.float32))
    weight = np.where(crowd < MIN_NEIGHBOURS, FEW_NEIGHBOURS_WEIGHT, 1.0 / (crowd + 1.0))
    return np.asarray(drawn[_draw(weight, limit, rng)])


def density(points: Array) -> Array:
    """(n, D) -> (n,): how many points lie nearby, by a Gaussian of BANDWIDTH; with itself."""
    out = np.empty(len(points))
    squares = (points**2).sum(axis=1)
    for start in range(0, len(points), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        distance2 = squares[rows, None] + squares - 2.0 * (points[rows] @ points.T)
        out[rows] = np.exp(np.minimum(-distance2 / (2 * BANDWIDTH**2), 0.0)).sum(axis=1)
    return out


def _draw(weight: Array, number: int, rng: np.random.Generator) -> Array:
    """Indices drawn without replacement in proportion to weight, at most those above zero."""
    number = min(number, int(np.count_nonzero(weight)))
    if number == 0:
        return np.zeros(0, np.int64)
    return rng.choice(len(weight), number, replace=False, p=weight / weight.sum())
