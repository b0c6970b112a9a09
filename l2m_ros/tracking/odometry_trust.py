"""Odometry that the matches contradicted since a keyframe is not believed when it fits once.

Its way is counted from the keyframe on: what wheels slipped stays in it, and in frame after frame
it has another direction than the matches. By accident it fits one of them, with a wrong length.
"""

from __future__ import annotations

from collections import deque

from l2m_ros.tracking.parallax import SOURCE
from l2m_ros.types import Lost, MetricPose, RelativePose

REMEMBERED = 6  # frames of one keyframe
LEAST = 3  # contradictions among them: one or two are matches that err


class OdometryTrust:
    """Remembers of each keyframe whether odometry's way agreed with the matches."""

    def __init__(self) -> None:
        self._votes: dict[int, deque[bool]] = {}  # by keyframe; True: contradicted

    def against(self, keyframe: int, outcome: MetricPose | RelativePose | Lost) -> str | None:
        """Why odometry's way since this keyframe is not believed, or None. Once a pose."""
        votes = self._votes.setdefault(keyframe, deque(maxlen=REMEMBERED))
        if isinstance(outcome, RelativePose) and outcome.contradicted:
            votes.append(True)
        elif isinstance(outcome, MetricPose) and outcome.scale_source == SOURCE:
            votes.append(False)
        else:
            return None
        contradicted = sum(votes)
        if contradicted < LEAST or 2 * contradicted <= len(votes):
            return None
        return (
            f"the matches contradicted odometry's way since the keyframe in {contradicted} of the "
            f"last {len(votes)} frames: do the wheels slip? is base_from_camera right?"
        )

    def restart(self, keyframe: int) -> None:
        """Its way is counted anew, from a later place."""
        self._votes.pop(keyframe, None)

    def forget_all_but(self, keyframes: set[int]) -> None:
        self._votes = {id: votes for id, votes in self._votes.items() if id in keyframes}
