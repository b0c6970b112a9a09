"""The pairs of a match between two pictures.

    dense match -> drawn: each cell's best by certainty and texture -> refined by their pixels
                -> those alone that their pixels confirm

A pair of a bare wall is as certain as one of a corner, and a pixel or two off. The tracker, whose
views are close to each other, takes all pairs as they are drawn and weighs them. Drawn by
density, texture does not count.
"""

from __future__ import annotations

from dataclasses import dataclass

from l2m_ros.matching.matcher import Match
from l2m_ros.matching.sampling import LIMIT, correspondences
from l2m_ros.matching.subpixel import OPTIONS, SubpixelOptions, jacobian_at, refined, texture
from l2m_ros.types import ByteArray, Correspondences, DenseMatch


@dataclass(frozen=True)
class Drawing:
    """How pairs are drawn from a dense match."""

    subpixel: bool = True  # by texture, refined, confirmed; False: as the network says
    seed: int | None = 0
    method: str = "cells"


DRAWING = Drawing()


def pairs_of(
    match: Match,
    query_rgb: ByteArray,
    keyframe_rgb: ByteArray,
    limit: int = LIMIT,
    drawing: Drawing = DRAWING,
    options: SubpixelOptions = OPTIONS,
) -> Correspondences:
    """At most `limit`; all that were drawn where fewer than `options.fewest` are confirmed.

    Sparse ones come from detectors that refine them themselves.
    """
    if not drawing.subpixel or not isinstance(match, DenseMatch):
        return correspondences(match, limit, seed=drawing.seed, method=drawing.method)
    favour = texture(match, query_rgb, options) if drawing.method == "cells" else None
    pairs = correspondences(match, limit, seed=drawing.seed, method=drawing.method, favour=favour)
    jacobian = jacobian_at(match, pairs.query_px)
    pairs, confirmed = refined(pairs, jacobian, query_rgb, keyframe_rgb, options)
    return pairs.select(confirmed) if confirmed.sum() >= options.fewest else pairs
