"""How noisy depth is, from what neighbouring matches do not share.

Noise differs from one pixel to the next. Depth that is wrong, of another camera or of another
moment, is wrong alike over a whole region. So the squared difference of two neighbours' errors
along their epipolar lines, where depth has a say, shows the noise of depth; their difference
across the lines, where it has none, shows that of the matches:

    (e_i - e_j)^2 / 2  is in the median 0.4549 times  (1 - f) s + f F

e along the line, whitened by the claimed noise; f the share of its variance that is depth's, mean
of both; s, of e across the line, the factor on the matches' variance; F the factor on the depth's.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.geometry.absolute import CHI2_MEDIAN
from l2m_ros.geometry.residuals import Rows
from l2m_ros.types import DepthNoiseShown, FloatArray

MIN_SHARE = 0.1  # of the variance along the line: below, matches hide what noise depth has
MIN_PAIRS = 20  # of neighbours
ACROSS, ALONG = 0, 1  # rows


def shown_noise(rows: Rows, query: FloatArray) -> DepthNoiseShown | None:
    """What the rows of matches with a depth in the keyframe show; query (2, N): where they lie.

    None where too few matches show parallax enough.
    """
    share = rows.depth_fraction[ALONG]
    shows = np.flatnonzero(share > MIN_SHARE)
    if len(shows) < MIN_PAIRS:
        return None
    from scipy.spatial import cKDTree  # 0.2 s to import: not while a node starts

    _, nearest = cKDTree(query.T).query(query.T[shows], k=2)
    beside = nearest[:, 1]  # the first is the match itself
    apart = (rows.error[:, shows] - rows.error[:, beside]) ** 2 / (2.0 * CHI2_MEDIAN)
    share = 0.5 * (share[shows] + share[beside])
    of_match = float(np.median(apart[ACROSS]))
    # The F at which the median of the ratio above is 1.
    factor = float(np.median((apart[ALONG] - of_match * (1.0 - share)) / share))
    return DepthNoiseShown(max(factor, 0.0), len(shows))
