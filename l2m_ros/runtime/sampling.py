"""From a dense match to a list of correspondences, spread over the image, always the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from l2m_ros.runtime.matcher import Match
from l2m_ros.types import Correspondences, DenseMatch

MIN_CERTAINTY = 0.05  # RoMa's and L2M's sample_thresh


def correspondences(
    match: Match, limit: int = 2000, threshold: float = MIN_CERTAINTY
) -> Correspondences:
    """At most `limit` pairs: the surest cell of each block of the grid, then the next surest.

    Blocks spread the pairs over the image, which conditions the pose better than the surest
    pairs do, and near pairs err alike anyway. Nothing is drawn: the same match gives the same
    pairs. Sparse matches pass through, the surest `limit` of them.
    """
    if isinstance(match, Correspondences):
        if len(match) <= limit:
            return match
        return match.select(np.argsort(-match.confidence, kind="stable")[:limit])
    cells = _spread(match, limit, threshold)
    return Correspondences(
        match.grid_px().reshape(-1, 2)[cells],
        match.warp_px.reshape(-1, 2)[cells],
        match.certainty.reshape(-1)[cells],
        None if match.precision is None else match.precision.reshape(-1, 2, 2)[cells],
    )


def _spread(match: DenseMatch, limit: int, threshold: float) -> npt.NDArray[np.intp]:
    """Flat indices of the chosen cells: block by block the surest, until the limit is met."""
    certainty = match.certainty.reshape(-1)
    usable = np.flatnonzero(certainty > threshold)
    if len(usable) <= limit:
        return usable
    w = match.certainty.shape[1]
    side = max(1, int(np.sqrt(len(usable) / limit)))  # cells per block, along each axis
    rows, columns = np.divmod(usable, w)
    block = (rows // side) * (w // side + 1) + columns // side
    # Within each block the surest first: rank 0 of every block comes before any rank 1.
    order = np.lexsort((usable, -certainty[usable], block))
    starts = np.flatnonzero(np.r_[True, np.diff(block[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    first = np.lexsort((-certainty[usable[order]], rank))[:limit]
    return np.sort(usable[order][first])
