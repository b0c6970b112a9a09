"""What a scene module hands over: surfaces, light, and where robots and objects may move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2m_ros.types import FloatArray
from l2m_ros.workshop.simulation.lighting import Lighting
from l2m_ros.workshop.simulation.surfaces import Surface


@dataclass(frozen=True, eq=False)
class Mover:
    """An object that glides to and fro along a lane, which no camera path enters."""

    surfaces: Sequence[Surface]  # at the middle of the lane
    centre_m: FloatArray  # of a ball around it, there
    radius_m: float
    swing_m: Sequence[float]  # from the middle of the lane to its end
    period_s: float
    phase_rad: float = 0.0

    def offset_m(self, time_s: float) -> FloatArray:
        angle = 2 * np.pi * time_s / self.period_s + self.phase_rad
        return np.asarray(self.swing_m, float) * np.sin(angle)


@dataclass(frozen=True, eq=False)
class Scenery:
    surfaces: Sequence[Surface]
    lighting: Lighting
    free_box_m: Sequence[Sequence[float]]  # (2, 3): nothing is inside, nor within 0.25 m of it
    look_span_rad: float
    movers: Sequence[Mover] = ()
    outdoors: bool = False
