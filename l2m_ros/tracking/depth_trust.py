"""Is the depth of this scene, of this camera, of this moment? A verdict a frame, and a reputation.

    contradicted   the matches show parallax, and depth leaves most of it unexplained; or the
                   median match lies further off than twice the depth noise allows
    confirmed      they show parallax, and depth explains it
    silent         no parallax: any depth would do, and a pose says little of translation

A stream of depth that was contradicted in several of the last frames is not believed where nothing
checks it, and elsewhere where it fits closely. Wrong matches of a camera that is lost contradict
a right depth too: what is confirmed closely is believed whatever was before.

A common factor on all depths is not seen: translation grows with it and every ratio stays. Only
odometry could tell; `pose.depth_scale_sigma` admits what calibration leaves.
"""

from __future__ import annotations

import enum
from collections import deque

from l2m_ros.tracking.trust import TrustOptions
from l2m_ros.types import DepthCheck, Lost, LostReason, MetricPose

CLEARED_AFTER = 2  # confirmations in a row
REMEMBERED = 10  # verdicts of frames that could be checked
PARALLAX = 2.0  # squared, over what noise explains: less shows nothing
EXPLAINED = 1.0  # what depth leaves over, where that is all noise
# With the right depth a camera that stands leaves over what a rotation does, 1.2 times at most.
WORSE_THAN_NONE, SLACK = 2.0, 0.1
CLOSE_MISFIT = 0.8  # without parallax right depth of real cameras is at 0.7 and less


class DepthVerdict(enum.Enum):
    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    SILENT = "silent"


def judge(
    check: DepthCheck | None, options: TrustOptions, distrusted: bool = False
) -> DepthVerdict:
    """distrusted: depth was contradicted lately, so that only a close fit confirms it."""
    if check is None or check.rotation_only == 0.0:
        return DepthVerdict.SILENT
    left_over_bound = min(
        max(EXPLAINED, options.max_depth_unexplained * check.rotation_only),
        WORSE_THAN_NONE * check.rotation_only + SLACK,
    )
    if (
        check.misfit > _misfit_bound(check, options, distrusted)
        or check.left_over > left_over_bound
    ):
        return DepthVerdict.CONTRADICTED
    return DepthVerdict.CONFIRMED if check.rotation_only > PARALLAX else DepthVerdict.SILENT


def _misfit_bound(check: DepthCheck, options: TrustOptions, distrusted: bool) -> float:
    """Edges and holes misfit by parallax; where there is none, only ranges are left to misfit."""
    if check.rotation_only > PARALLAX and not distrusted:
        return options.max_depth_misfit
    return min(options.max_depth_misfit, check.left_over + CLOSE_MISFIT)


class DepthTrust:
    """Remembers the last verdicts, until two confirmations in a row clear them."""

    def __init__(self) -> None:
        self._contradicted: deque[bool] = deque(maxlen=REMEMBERED)

    def reset(self) -> None:
        self._contradicted.clear()

    def against(
        self, pose: MetricPose, options: TrustOptions, contradicted: bool = False
    ) -> Lost | None:
        """Why this pose's depth is not believed, or None. Call it once per pose.

        contradicted: by another check, which counts for the reputation.
        """
        distrusted = sum(self._contradicted) >= options.depth_distrusted_after
        verdict = judge(pose.depth_check, options, distrusted)
        verdict = DepthVerdict.CONTRADICTED if contradicted else verdict
        if verdict is not DepthVerdict.SILENT:
            self._remember(verdict)
        if verdict is DepthVerdict.CONFIRMED or contradicted:
            return None
        if verdict is DepthVerdict.CONTRADICTED:
            assert pose.depth_check is not None
            words = _words(pose.depth_check, options, distrusted)
            return Lost(LostReason.CONTRADICTED, words)
        count = sum(self._contradicted)
        if count < options.depth_distrusted_after:
            return None
        return Lost(
            LostReason.CONTRADICTED,
            f"depth reputation: {count} of the last {len(self._contradicted)} frames with parallax "
            f"contradicted the depth (tracking.depth_distrusted_after is "
            f"{options.depth_distrusted_after}), and this one shows none to check it by",
        )

    def _remember(self, verdict: DepthVerdict) -> None:
        self._contradicted.append(verdict is DepthVerdict.CONTRADICTED)
        if list(self._contradicted)[-CLEARED_AFTER:] == [False] * CLEARED_AFTER:
            self._contradicted.clear()


def _words(check: DepthCheck, options: TrustOptions, distrusted: bool) -> str:
    bound = _misfit_bound(check, options, distrusted)
    if check.misfit > bound:
        return (
            f"depth fit: the median of {check.checked} matches lies {check.misfit:.1f} times as "
            f"far (squared) from where depth puts it as twice its noise allows "
            f"({bound:.1f} is the most, tracking.max_depth_misfit {options.max_depth_misfit:g})"
        )
    return (
        f"depth fit: depth leaves {check.left_over / check.rotation_only:.2f} of the squared "
        f"parallax of {check.checked} matches unexplained (tracking.max_depth_unexplained is "
        f"{options.max_depth_unexplained:g})"
    )
