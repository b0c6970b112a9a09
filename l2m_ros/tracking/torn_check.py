"""Is the image at hand of two moments? By a seam, or as the one after a torn one (`torn.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from l2m_ros.tracking.matched_frame import MatchedFrame
from l2m_ros.tracking.seam import Rows, seam
from l2m_ros.tracking.torn import Pose, Posed, Sign, after_torn, two_poses, unsupported_part
from l2m_ros.types import Correspondences, Lost, MetricPose


@dataclass(frozen=True, eq=False)
class TornImage:
    """Why an image is of two moments, and where."""

    stamp_ns: int
    lost: Lost
    rows: Rows  # (H,) that are of another moment
    by_any: bool  # by any keyframe; else by one that may be torn itself


class TornCheck:
    """Remembers the newest whole image, and the verdict on the one at hand."""

    def __init__(self) -> None:
        self._whole: Posed | None = None
        self._torn: TornImage | None = None

    def rows(self, stamp_ns: int) -> Rows | None:
        """(H,) of an image that is torn: which rows are of another moment."""
        torn = self._torn
        return torn.rows if torn is not None and torn.stamp_ns == stamp_ns else None

    def believe(self, seen: MatchedFrame, pose: MetricPose) -> None:
        """The frame has a pose; if nothing made it doubtful, it is of one moment."""
        if seen.unsent is None:
            self._whole = pose, seen.pairs

    def against(
        self,
        seen: MatchedFrame,
        outcome: Pose,
        posed: Callable[[Correspondences], Pose | Lost],
        min_support: float,
    ) -> Lost | None:
        """Why the image is of two moments; once two poses say so, also against other keyframes.

        posed: the pose of a part of the matches.
        """
        torn, stamp_ns = self._torn, seen.frame.stamp_ns
        if torn is not None and torn.by_any and torn.stamp_ns == stamp_ns:
            return torn.lost
        rows, sign = seam(seen.frame.rgb, seen.keyframe.frame.rgb, seen.pairs), Sign.SEAM
        self._torn = None
        if seen.unsent is not None:
            lost = self._after_torn(outcome, seen, rows, seen.unsent, min_support)
            if lost is not None:
                self._torn = TornImage(stamp_ns, lost, seen.unsent, by_any=False)
                return lost
            rows, sign = seen.unsent, Sign.AFTER_TORN
        if rows is None:
            return None
        lost = two_poses(seen.pairs, rows, sign, min_support=min_support, posed=posed)
        if lost is not None:
            self._torn = TornImage(stamp_ns, lost, rows, by_any=True)
        return lost

    def _after_torn(
        self, outcome: Pose, seen: MatchedFrame, below: Rows | None, rows: Rows, min_support: float
    ) -> Lost | None:
        """Why the image after a torn one is torn, too, without a look at the poses of its parts.

        below (H,): a seam, if there is one; rows (H,): that the image before lacked.
        """
        if below is not None and below.argmax() >= rows.argmax() - 1:
            return after_torn(rows, f"a seam runs across it at row {below.argmax()}")
        return unsupported_part(outcome, seen.pairs, rows, min_support, self._whole)
