"""Depth that says "very far" where it knows nothing: a driver that writes its greatest range.

Real depth thins out towards the farthest pixel: of an office and a kitchen 0.05 % of the pixels at
most have the greatest value. Where at least 1 % have it and hardly any are nearly as far, it is no
measurement if either nothing is nearly as far, or the same value is the greatest again in another
view (a wall that is seen squarely, by a sensor without noise, moves with the camera).
"""

from __future__ import annotations

import numpy as np

from l2m_ros.types import FloatArray

LEAST, MOST = 0.01, 0.9  # of the known pixels
# Nearly as far, and how many of those pixels may be: below the farthest step of a coarse sensor
# there are others.
NEAR, NEXT = 0.9, 0.2
GAP = 1.25  # of the next value: nothing is nearly as far
OTHER_VIEW = 0.02  # the median of the other pixels has changed by so much


class DepthCeiling:
    """Remembers the greatest value of a stream, and where it was seen to mean nothing."""

    def __init__(self) -> None:
        self._seen: tuple[float, float] | None = None  # it, and the median of the others
        self._ceiling_m: float | None = None

    def below(self, depth: FloatArray) -> tuple[FloatArray, str | None]:
        """Depth without what means nothing, and the words for it. depth (H, W): metres, or NaN."""
        top_m = float(np.fmax.reduce(depth, axis=None))
        at_top = depth == np.float32(top_m)
        count, known = np.count_nonzero(at_top), depth.size - np.count_nonzero(np.isnan(depth))
        if not LEAST * known <= count <= MOST * known:
            return depth, None
        others = depth[~at_top & (depth > 0)]
        if top_m != self._ceiling_m and not self._means_nothing(top_m, count, others):
            return depth, None
        return np.where(at_top, np.float32(np.nan), depth), (
            f"{100 * count / known:.0f} % of the known pixels are exactly {top_m:g} m far: they "
            "are taken as unknown; let the driver write 0 (NaN) there"
        )

    def _means_nothing(self, top_m: float, count: int, others: FloatArray) -> bool:
        if not len(others) or np.count_nonzero(others >= NEAR * top_m) > NEXT * count:
            return False
        next_m, median_m = float(others.max()), float(np.median(others))
        if self._seen is None or self._seen[0] != top_m:
            self._seen = top_m, median_m
        other_view = abs(median_m - self._seen[1]) > OTHER_VIEW * self._seen[1]
        if top_m > GAP * next_m or other_view:
            self._ceiling_m = top_m
        return self._ceiling_m == top_m
