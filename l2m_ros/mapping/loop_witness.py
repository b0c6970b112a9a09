"""The second witness of a loop: what says that it is right, besides the fit itself.

A corridor fits itself turned round, and any other of its kind. So a loop counts where it was taken
just before and nothing says that the robot went elsewhere since, where the way that was driven
leads there, or where the detail of both pictures is the same. Loops that have none tell which maps
hold places that look alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from l2m_ros.geometry import se3
from l2m_ros.mapping import chaining
from l2m_ros.mapping.appearance import Confirmation, confirmation, together
from l2m_ros.mapping.options import MapperOptions
from l2m_ros.mapping.places import Places
from l2m_ros.mapping.records import Edge
from l2m_ros.mapping.verification import sigmas
from l2m_ros.types import FloatArray, Frame

SIGMAS_OF_WAY = 4.0  # that the way driven so far may be off, and still speak for a loop
DETAIL_EDGES, FEW = 60, 8  # edges that are judged, and without so many nothing is said
MOST_REFUSED = 1000  # loops without a witness that are remembered until the map is settled


class LoopWitness:
    """Asked for every loop that fits."""

    def __init__(self, places: Places, options: MapperOptions) -> None:
        self._places, self._options = places, options
        self._refused: deque[Edge] = deque(maxlen=MOST_REFUSED)

    def confirms(
        self, edge: Edge, frame: Frame, before: Sequence[int], driven: Sequence[Edge]
    ) -> bool:
        """`frame` is b's; `before` are the keyframes just before b; edges of the drive."""
        if edge.a in before and not self._went_elsewhere(edge, driven):
            return True
        if self._suits_the_way(edge) or self._shows_the_same(edge, frame):
            return True
        self._refused.append(edge)
        return False

    def _went_elsewhere(self, edge: Edge, driven: Sequence[Edge]) -> bool:
        """Whether what was tracked or driven between the two is known, and leads elsewhere."""
        way = chaining.driven(driven, edge.a, edge.b)
        return way is not None and self._leads(edge, *way) is False

    def _leads(self, edge: Edge, a_from_b: FloatArray, covariance: FloatArray) -> bool | None:
        """Whether a way leads where the loop does; None where it is too unsure to tell."""
        o = self._options
        d = se3.difference(edge.a_from_b, a_from_b)
        bound_m, bound_rad = (SIGMAS_OF_WAY * sigma for sigma in sigmas(covariance))
        bound_m, bound_rad = bound_m + o.gates.agree_most_m, bound_rad + o.gates.agree_most_rad
        if bound_m > o.way_most_m or bound_rad > o.way_most_rad:
            return None
        return bool(np.linalg.norm(d[:3]) < bound_m and np.linalg.norm(d[3:]) < bound_rad)

    def _suits_the_way(self, edge: Edge) -> bool:
        """Whether edges so far lead there, and are certain enough to tell places apart."""
        poses = self._places.poses
        if edge.a not in poses or edge.b not in poses:
            return False
        (a, P_a), (b, P_b) = poses[edge.a], poses[edge.b]
        return self._leads(edge, se3.inverse(a) @ b, P_a + P_b) is True

    def _shows_the_same(self, edge: Edge, frame: Frame) -> bool:
        """Whether the detail is the same from either side."""
        sides, o = self._confirmations(edge, frame), self._options
        return all(s.share >= o.loop_share and s.area >= o.loop_area for s in sides)

    def _confirmations(self, edge: Edge, frame: Frame) -> tuple[Confirmation, Confirmation]:
        other = self._places.place(edge.a).frame
        return (
            confirmation(frame, other, edge.a_from_b),
            confirmation(other, frame, se3.inverse(edge.a_from_b)),
        )

    # --- what a picture must show to be found here ------------------------------------------------

    def own_detail(self, edges: Sequence[Edge]) -> float:
        """The share of detail in which nine in ten of the map's own views agree; 0 = unknown."""
        poses = self._places.poses
        used = [e for e in edges if e.kind in ("odometry", "loop")]
        used = [e for e in used if e.a in poses and e.b in poses and not self._is_look_alike(e)]
        rng = np.random.default_rng(0)
        shares = []
        for number in rng.permutation(len(used))[:DETAIL_EDGES]:
            edge = used[number]
            sides = self._confirmations(edge, self._places.place(edge.b).frame)
            if (both := together(sides)).area > self._options.loop_area:
                shares.append(both.share)
        return float(np.percentile(shares, 10)) if len(shares) >= FEW else 0.0

    def take_look_alikes(self) -> int:
        """How many refused loops since the last call lead to another place of the map."""
        count = sum(map(self._is_look_alike, self._refused))
        self._refused.clear()
        return count

    def _is_look_alike(self, edge: Edge) -> bool:
        poses = self._places.poses
        if edge.a not in poses or edge.b not in poses:
            return False
        d = se3.difference(edge.a_from_b, se3.inverse(poses[edge.a][0]) @ poses[edge.b][0])
        far_m, far_rad = self._options.way_most_m, self._options.way_most_rad
        return bool(np.linalg.norm(d[:3]) > far_m or np.linalg.norm(d[3:]) > far_rad)
