"""How noisy this depth sensor is, learnt from frames whose depth explains their parallax.

The claimed noise (`pose.depth_noise_m`, `pose.depth_noise_per_m`) is that of a usual sensor. Each
frame shows what neighbouring matches do not share (`geometry.depth_noise`). These factors are
averaged, slowly, each by the neighbours that show it, and the claimed noise is one of them.

Four real sensors show 5 to 8 times the claimed variance, a simulated one 3. A wrong depth shows as
much and more, but neighbours share most of what is wrong with it. At MOST, another camera's depth
leaves over 0 to 12 % less than at the claimed noise (six runs), depth of another moment 1 to 35 %
less. Therefore the factor has a bound, and it counts for the record of many frames
(`DepthTrust`), where noise would be taken for a wrong depth; one frame is judged by the claimed
noise.
"""

from __future__ import annotations

import numpy as np

from l2m_ros.types import DepthNoiseShown, FloatArray

PRIOR_PAIRS = 60.0  # of neighbours, for the claimed noise: as one frame may show at most
MEMORY = 0.99  # what the past weighs a frame later
LEAST, MOST = 0.25, 8.0  # of one frame's factor counts; of the variance, is admitted
MOST_PAIRS = 60  # of one frame: its errors hang together


class DepthNoiseWatch:
    """Learns the factor on the variance of the depth noise."""

    def __init__(self) -> None:
        self._sums: FloatArray = np.zeros(2)  # of pairs, and of pairs times the log of the factor

    def learn(self, shown: DepthNoiseShown) -> None:
        """From a frame whose depth explains the parallax of its matches."""
        pairs = min(shown.pairs, MOST_PAIRS)
        log = np.log(np.clip(shown.factor, LEAST, MOST))
        self._sums = MEMORY * self._sums + np.array([pairs, pairs * log])

    @property
    def factor(self) -> float:
        """From 1, the claimed noise, to MOST."""
        pairs, logs = self._sums
        return float(np.exp(max(logs, 0.0) / (PRIOR_PAIRS + pairs)))
